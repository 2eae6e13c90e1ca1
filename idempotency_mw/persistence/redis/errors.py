"""The errors of the drivers, by the names that redis-py gave them.

A client that is brought along may be valkey-py's. Its errors bear the same names, and are no kin of redis-py's.
"""

from importlib import import_module
from typing import Any

from redis import exceptions

__all__ = [
    "ASK",
    "DRIVER_ERRORS",
    "LASTING",
    "MOVED",
    "NO_PERMISSION",
    "NO_SCRIPT",
    "PASSING",
    "RESPONSE",
    "UNKNOWN_NODE",
    "TryAgainError",
]

Errors = tuple[type[Exception], ...]


def _drivers() -> list[Any]:
    try:
        return [exceptions, import_module("valkey.exceptions")]
    except ImportError:
        return [exceptions]


_DRIVERS = _drivers()


def _named(*names: str) -> Errors:
    return tuple(getattr(driver, name) for driver in _DRIVERS for name in names if hasattr(driver, name))


DRIVER_ERRORS: Errors = (
    OSError,
    *_named("RedisError", "RedisClusterException", "ValkeyError", "ValkeyClusterException"),
)
"""All that a driver raises when the server, or the way to it, fails."""

PASSING: Errors = (
    OSError,
    *_named("ConnectionError"),  # LOADING and Sentinel's "no master found" are among these
    *_named("InvalidResponse"),  # what a reply that can't be read is about may have been done
    *_named("TimeoutError", "ReadOnlyError", "ClusterDownError", "TryAgainError", "MasterDownError"),
    *_named("AskError"),  # and MOVED: followed by clients, unless slots move again and again
    *_named("ClusterError", "RedisClusterException", "ValkeyClusterException"),
)
LASTING = _named("AuthenticationError", "AuthorizationError")

NO_SCRIPT = _named("NoScriptError")
NO_PERMISSION = _named("NoPermissionError")
RESPONSE = _named("ResponseError")
MOVED = _named("MovedError")
ASK = _named("AskError")
UNKNOWN_NODE: Errors = (OSError, *_named("SlotNotCoveredError", "ConnectionError", "TimeoutError"))
"""What a client raises that does not know, or no longer knows, where a key is."""

TryAgainError = exceptions.TryAgainError
