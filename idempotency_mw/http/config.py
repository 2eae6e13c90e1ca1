"""The options of HTTP: a frozen value, checked when it is built."""

import re
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from idempotency_mw.core.config import check_choice, check_count, check_seconds, check_type
from idempotency_mw.errors import IdempotencyConfigurationError

__all__ = ["DROPPED_HEADERS", "HTTPConfig"]

KeySyntax = Literal["lenient", "strict", "opaque"]

DROPPED_HEADERS = (
    "date",
    "server",
    "age",
    "set-cookie",
    "www-authenticate",
    "authentication-info",
    "retry-after",
    "ratelimit*",
    "x-ratelimit-*",
    "server-timing",
    "traceparent",
    "tracestate",
    "x-request-id",
    "x-correlation-id",
)
"""Headers that are true of one answer only: its time, its hop, its credentials, its rate limit, its trace."""

_BOUND_BY_DEFAULT = ("authorization", "cookie", "host", "x-api-key")
"""This very object stands for "not given": the same names given by hand are another object."""

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110, section 5.6.2


def _is_success(status: int) -> bool:
    return 200 <= status < 400


@dataclass(frozen=True, slots=True, kw_only=True)
class HTTPConfig:
    """Which requests are protected, where their key is, and which part of an answer is kept.

    Raises `IdempotencyConfigurationError`, which names the option, if a value is invalid. The case of methods
    and header names does not matter.
    """

    methods: Collection[str] = ("POST", "PATCH")
    """The protected methods. All others pass to the app, untouched."""
    header: str | None = "Idempotency-Key"
    """The header that holds the key. None: the key is in the body only."""
    key_syntax: KeySyntax = "lenient"
    """`"lenient"`: `"abc"` and `abc` are one key. `"strict"`: RFC 9651 strings only. `"opaque"`: as sent."""
    min_key_length: int = 1
    """In characters."""
    max_key_length: int = 255
    """In characters. The limit of Stripe's API."""
    required: bool = False
    """Refuse a request without a key, instead of passing it to the app."""
    caller: Callable[[Any], str | Awaitable[str]] | None = None
    """Returns who sends the request, as a stable identity. Takes the framework's own request, without its body."""
    bound_headers: Collection[str] = _BOUND_BY_DEFAULT
    """Headers that must be equal for a retry to be the same request, as long as there is no `caller`."""
    storable: Callable[[int], bool] = _is_success
    """Tells whether an answer with this status is kept. By default 2xx and 3xx."""
    dropped_headers: Collection[str] = DROPPED_HEADERS
    """Headers that are neither stored nor replayed, besides those of the connection. A `*` at the end matches any
    ending."""
    replay_header: str = "Idempotent-Replayed"
    """The header that marks a replay, with the value `true`."""
    max_request_body: int = 10 * 2**20
    """In bytes. A request with a larger body is refused. Ten times nginx's default of 1 MiB: keyed requests are
    orders and payments, and the body is held in memory."""
    max_response_body: int = 2**20
    """In bytes. A client gets a larger answer whole, and its record becomes a tombstone."""
    max_wait_seconds: float = 0
    """The longest `Prefer: wait=N` that is honoured. 0: none is."""

    def __post_init__(self) -> None:
        for name in ("methods", "bound_headers", "dropped_headers"):
            # As a sorted tuple: hashable, and in the same order in every process, because the bound headers go
            # into the fingerprint in this order, and a set has another order in each process.
            given = getattr(self, name)
            if given is not _BOUND_BY_DEFAULT:
                object.__setattr__(self, name, _names(name, given))
        object.__setattr__(self, "methods", tuple(method.upper() for method in self.methods))
        if self.header is not None:
            _check_name("header", self.header)
        _check_name("replay_header", self.replay_header)
        check_choice("key_syntax", self.key_syntax, get_args(KeySyntax))
        check_count("min_key_length", self.min_key_length, least=1)
        check_count("max_key_length", self.max_key_length, least=self.min_key_length)
        check_count("max_request_body", self.max_request_body, least=0)
        check_count("max_response_body", self.max_response_body, least=0)
        check_type("required", self.required, bool)
        if self.caller is not None:
            _check_hook("caller", self.caller)
        _check_hook("storable", self.storable)
        check_seconds("max_wait_seconds", self.max_wait_seconds, least=0, most=3600)

    @property
    def binds_by_hand(self) -> bool:
        """Whether `bound_headers` was given, be it empty."""
        return self.bound_headers is not _BOUND_BY_DEFAULT


def _names(option: str, given: Any) -> tuple[str, ...]:
    if isinstance(given, str) or not isinstance(given, Collection):
        raise IdempotencyConfigurationError(f"{option} must be a collection of names, not {given!r}")
    names = cast("Collection[str]", given)
    for name in names:
        _check_name(option, name)
    return tuple(sorted({name.lower() for name in names}))


def _check_hook(option: str, hook: Any) -> None:
    # A resolver may return a configuration for each request; its exchange is looked up by the configuration's
    # hash.
    if not callable(hook) or getattr(hook, "__hash__", None) is None:
        raise IdempotencyConfigurationError(f"{option} must be callable, and hashable")


def _check_name(option: str, name: object) -> None:
    if not isinstance(name, str) or not _TOKEN.fullmatch(name):
        raise IdempotencyConfigurationError(f"{option} must be an HTTP token, not {name!r}")
