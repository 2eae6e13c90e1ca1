"""The options of HTTP, frozen and checked when they are built."""

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
"""What is true of one answer only: its time, its hop, its credentials, its trace."""

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110, section 5.6.2


def _is_success(status: int) -> bool:
    return 200 <= status < 400


@dataclass(frozen=True, slots=True, kw_only=True)
class HTTPConfig:
    """Which requests are protected, where their key is, and what of an answer is kept.

    Raises `IdempotencyConfigurationError`, which names the option, when one of them can't be meant. Names of
    methods and headers are matched without regard to case.
    """

    methods: Collection[str] = ("POST", "PATCH")
    """The others pass untouched."""
    header: str | None = "Idempotency-Key"
    """None: the key is in the body only."""
    key_syntax: KeySyntax = "lenient"
    """`"lenient"`: `"abc"` and `abc` are one key. `"strict"`: an RFC 9651 string. `"opaque"`: as it came."""
    min_key_length: int = 1
    """In characters."""
    max_key_length: int = 255
    """In characters."""
    required: bool = False
    """A request without a key is refused, instead of passing by."""
    caller: Callable[[Any], str | Awaitable[str]] | None = None
    """Who sends the request: a stable identity. The framework's own request goes in, without its body."""
    bound_headers: Collection[str] = ("authorization", "cookie", "x-api-key", "host")
    """While there is no `caller`: what must be equal for a retry to be the same request."""
    storable: Callable[[int], bool] = _is_success
    """Whether an answer of this status is kept. By default 2xx and 3xx."""
    dropped_headers: Collection[str] = DROPPED_HEADERS
    """Neither stored nor replayed, besides those of the connection. A `*` at the end stands for any ending."""
    replay_header: str = "Idempotent-Replayed"
    """Its value is `true`, on replays only."""
    max_request_body: int = 10 * 2**20
    """In bytes; over it the request is refused."""
    max_response_body: int = 2**20
    """In bytes; over it the client gets the answer whole, and the record becomes a tombstone."""
    max_wait_seconds: float = 0
    """The longest `Prefer: wait=N` that is honoured; 0: none is."""

    def __post_init__(self) -> None:
        for name in ("methods", "bound_headers", "dropped_headers"):
            # Frozen, hashable, and in one order, whatever collection it came in: a set has another order in each
            # process, and the bound headers go into the fingerprint in theirs.
            object.__setattr__(self, name, _names(name, getattr(self, name)))
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


def _names(option: str, given: Any) -> tuple[str, ...]:
    if isinstance(given, str) or not isinstance(given, Collection):
        raise IdempotencyConfigurationError(f"{option} must be a collection of names, not {given!r}")
    names = cast("Collection[str]", given)
    for name in names:
        _check_name(option, name)
    return tuple(sorted({name.lower() for name in names}))


def _check_hook(option: str, hook: Any) -> None:
    # A resolver may return a configuration for each request: what is computed from it is looked up by its hash.
    if not callable(hook) or getattr(hook, "__hash__", None) is None:
        raise IdempotencyConfigurationError(f"{option} must be callable, and hashable")


def _check_name(option: str, name: object) -> None:
    if not isinstance(name, str) or not _TOKEN.fullmatch(name):
        raise IdempotencyConfigurationError(f"{option} must be an HTTP token, not {name!r}")
