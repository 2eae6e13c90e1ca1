"""The options of every surface: frozen values, checked when they are built."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import jmespath
from jmespath.exceptions import JMESPathError

from idempotency_mw.core.record import Record
from idempotency_mw.core.selection import Selection
from idempotency_mw.errors import IdempotencyConfigurationError

__all__ = ["IdempotencyConfig", "check_choice", "check_count", "check_seconds", "check_selection", "check_type"]

OnError = Literal["release", "store"]
AfterCrash = Literal["retry", "refuse"]
OnStoreFailure = Literal["refuse", "pass"]

MAX_SECONDS = 3650 * 86400
"""Ten years. Far longer than any retry, and far below what stores can count: Redis keeps an expiry as signed
64-bit milliseconds, and a record has 15 digits for its lease."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IdempotencyConfig:
    """How long claims and records stand, and what follows a failure. All times are in seconds.

    Raises `IdempotencyConfigurationError`, which names the option, if a value is invalid.
    """

    expires_after_seconds: float = 86400
    """How long a completed record is replayed, counted from its completion."""
    lease_seconds: float = 30
    """How long a claim stands unless it is extended."""
    heartbeat: bool = True
    """Extend the lease, at every third of it, while the app runs."""
    max_execution_seconds: float = 3600
    """After that the heartbeat stops and the lease may lapse, so that a hung app does not hold its key for
    ever."""
    wait_seconds: float = 0
    """How long a duplicate waits for the one that runs before it is refused."""
    max_waiters: int = 100
    """How many duplicates may wait for one key at once, in one middleware or decorated function of a process.
    One more is refused at once."""
    on_error: OnError = "release"
    """`"release"`: an exception or an error status frees the key. `"store"`: every duplicate gets it too."""
    after_crash: AfterCrash = "retry"
    """What follows a lapsed lease. `"retry"`: takeover. `"refuse"`: the outcome is unknown, and duplicates are
    refused until the record expires."""
    on_store_failure: OnStoreFailure = "refuse"
    """`"refuse"`: the app does not run. `"pass"`: it runs unprotected, and that is reported."""
    event_key_jmespath: str | None = None
    """HTTP: where the key is in the JSON body. Functions: which part of the payload is the key."""
    payload_validation_jmespath: str | None = None
    """HTTP: which part of the body goes into the fingerprint, instead of the whole body. Functions: which part
    of the payload must be equal, besides the key."""
    jmespath_options: jmespath.Options | None = None
    """Passed to every JMESPath search."""
    raise_on_no_idempotency_key: bool = False
    """Functions only: a missing key is an error, instead of a warning and an unprotected run."""
    response_hook: Callable[[Any, Record], Any] | None = None
    """`(response, record) -> response`, called on replays only."""
    key_prefix: str = ""
    """A namespace for all keys of this configuration, such as the service's name."""
    use_local_cache: bool = False
    """Keep completed records in this process too."""
    local_cache_max_items: int = 256
    """How many completed records the local cache holds: the default of Powertools for AWS Lambda."""
    local_cache_max_bytes: int = 64 * 2**20
    """How many bytes it holds at most; a record that is larger is not held. 256 answers of 1 MiB, the defaults of
    `local_cache_max_items` and `max_response_body`, would be 256 MiB in each process."""

    def __post_init__(self) -> None:
        check_seconds("expires_after_seconds", self.expires_after_seconds, least=0.001)
        check_seconds("lease_seconds", self.lease_seconds, least=0.001)
        check_seconds("max_execution_seconds", self.max_execution_seconds, least=0.001)
        check_seconds("wait_seconds", self.wait_seconds, least=0)
        check_count("max_waiters", self.max_waiters, least=0)
        for name in ("heartbeat", "raise_on_no_idempotency_key", "use_local_cache"):
            check_type(name, getattr(self, name), bool)
        check_choice("on_error", self.on_error, get_args(OnError))
        check_choice("after_crash", self.after_crash, get_args(AfterCrash))
        check_choice("on_store_failure", self.on_store_failure, get_args(OnStoreFailure))
        check_type("jmespath_options", self.jmespath_options, jmespath.Options | None)
        check_selection("event_key_jmespath", self.event_key_jmespath, self.jmespath_options)
        check_selection("payload_validation_jmespath", self.payload_validation_jmespath, self.jmespath_options)
        if self.response_hook is not None and not callable(self.response_hook):
            raise IdempotencyConfigurationError("response_hook must be callable")
        check_type("key_prefix", self.key_prefix, str)
        check_count("local_cache_max_items", self.local_cache_max_items, least=1)
        check_count("local_cache_max_bytes", self.local_cache_max_bytes, least=1)

    @property
    def lease_ms(self) -> int:
        """Milliseconds, rounded up."""
        return math.ceil(self.lease_seconds * 1000)

    @property
    def retention_ms(self) -> int:
        """Milliseconds, rounded up."""
        return math.ceil(self.expires_after_seconds * 1000)


def check_seconds(name: str, value: Any, *, least: float, most: float = MAX_SECONDS) -> None:
    """Raise unless the value of the named option is a number of seconds within these bounds."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not least <= value <= most:  # also false for NaN
        raise IdempotencyConfigurationError(
            f"{name} must be a number of seconds from {least} to {most}, not {value!r}"
        )


def check_type(name: str, value: object, expected: Any) -> None:
    """Raise unless the value of the named option is of the expected type."""
    if not isinstance(value, expected):
        wanted = getattr(expected, "__name__", str(expected))
        raise IdempotencyConfigurationError(f"{name} must be {wanted}, not {type(value).__name__}")


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise unless the value of the named option is one of the choices."""
    if value not in choices:
        raise IdempotencyConfigurationError(f"{name} must be one of {', '.join(choices)}, not {value!r}")


def check_count(name: str, value: object, least: int) -> None:
    """Raise unless the value of the named option is a whole number, not less than the least."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise IdempotencyConfigurationError(f"{name} must be a whole number from {least}, not {value!r}")


def check_selection(name: str, expression: object, options: jmespath.Options | None) -> None:
    """Raise unless the named option is None or a JMESPath expression that can be searched with these options."""
    if expression is None:
        return
    if not isinstance(expression, str):
        raise IdempotencyConfigurationError(f"{name} must be a JMESPath expression, not {expression!r}")
    try:
        Selection(expression, options)
    except JMESPathError as error:
        raise IdempotencyConfigurationError(f"{name} is not a JMESPath expression: {error}") from error
