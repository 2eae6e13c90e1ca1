"""The errors of the drivers, by the names that redis-py gave them; what they are to us, and when to ask again.

A client that is brought along may be valkey-py's. Its errors bear the same names, and are no kin of redis-py's.
"""

import re
from collections.abc import Iterator
from importlib import import_module
from random import uniform
from typing import Any

from redis import exceptions

from idempotency_mw.errors import (
    IdempotencyPersistenceConnectionError,
    IdempotencyPersistenceLayerError,
    IdempotencyRecordError,
)

__all__ = [
    "ASK",
    "DRIVER_ERRORS",
    "MOVED",
    "NO_PERMISSION",
    "NO_SCRIPT",
    "RESPONSE",
    "UNKNOWN_NODE",
    "TryAgainError",
    "is_passing",
    "pauses",
    "translated",
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

_PASSING: Errors = (
    OSError,
    *_named("ConnectionError"),  # LOADING and Sentinel's "no master found" are among these
    *_named("InvalidResponse"),  # what a reply that can't be read is about may have been done
    *_named("TimeoutError", "ReadOnlyError", "ClusterDownError", "TryAgainError", "MasterDownError"),
    *_named("AskError"),  # and MOVED: followed by clients, unless slots move again and again
    *_named("ClusterError", "RedisClusterException", "ValkeyClusterException"),
)
_LASTING = _named("AuthenticationError", "AuthorizationError")

NO_SCRIPT = _named("NoScriptError")
NO_PERMISSION = _named("NoPermissionError")
RESPONSE = _named("ResponseError")
MOVED = _named("MovedError")
ASK = _named("AskError")
UNKNOWN_NODE: Errors = (OSError, *_named("SlotNotCoveredError", "ConnectionError", "TimeoutError"))
"""What a client raises that does not know, or no longer knows, where a key is."""

TryAgainError = exceptions.TryAgainError


# What servers, of commands that they do not know, and redis-py, of those in a pipeline and of replies that it
# can't read, quote: a storage key, a token, a result. The driver's own error, which ours is chained to, says it in
# full.
_QUOTED = re.compile(
    r"\ACommand # \d+ \(.*\) of pipeline caused error: |,? with args beginning with:.*|(?<=Protocol Error): .*",
    re.DOTALL,
)


def is_passing(error: Exception) -> bool:
    """Tell whether asking again within the deadline can help: a restart, a failover, slots on the move."""
    if isinstance(error, _LASTING):
        return False
    # A master that becomes a replica ends its clients' WAIT so.
    return isinstance(error, _PASSING) or str(error).startswith("UNBLOCKED")


def translated(error: Exception) -> IdempotencyPersistenceLayerError:
    """Return the error of ours that the driver's error stands for."""
    said = _QUOTED.sub("", str(error))
    if is_passing(error):
        return IdempotencyPersistenceConnectionError(f"Redis can't be reached: {said}")
    if said.startswith(("WRONGTYPE", "UNREADABLE")):
        return IdempotencyRecordError("the store holds something that is not a record of this version")
    return IdempotencyPersistenceLayerError(f"Redis refused: {said}")


def pauses() -> Iterator[float]:
    """Yield the seconds to wait before each further try: doubling, jittered, a quarter of a second at most."""
    longest = 0.02
    while True:
        yield uniform(longest / 2, longest)  # noqa: S311 - spreads load, guards nothing
        longest = min(longest * 2, 0.25)
