"""The drivers' errors: what they mean to us, and when to try again.

An error is transient (the verb is tried again until its deadline) or lasts (the verb fails at once).
A client that is brought along may be valkey-py's. Its errors have redis-py's names, but are no subclasses of them.
"""

import re
from importlib import import_module
from random import uniform
from types import ModuleType

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
    "Retries",
    "TryAgainError",
    "is_transient",
    "translated",
]

Errors = tuple[type[Exception], ...]


def _drivers() -> list[ModuleType]:
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
"""Everything that a driver raises when the server or the network fails."""

_TRANSIENT: Errors = (
    OSError,
    *_named("ConnectionError"),  # LOADING and Sentinel's "no master found" are among these
    *_named("InvalidResponse"),  # the reply can't be read, and the command may have been carried out
    *_named("TimeoutError", "ReadOnlyError", "ClusterDownError", "TryAgainError", "MasterDownError"),
    *_named("AskError"),  # and MOVED: clients follow these, unless slots move again and again
    *_named("ClusterError", "RedisClusterException", "ValkeyClusterException"),
)
"""Errors of a server or a network that may recover within the deadline. Any other error lasts."""

_TRANSIENT_WORDS = ("UNBLOCKED",)
"""First words of transient errors for which drivers have no class. A master that becomes a replica ends WAIT with
UNBLOCKED."""

_LASTING = _named("AuthenticationError", "AuthorizationError")
"""These last although they are subclasses of `ConnectionError`."""

NO_SCRIPT = _named("NoScriptError")
NO_PERMISSION = _named("NoPermissionError")
RESPONSE = _named("ResponseError")
MOVED = _named("MovedError")
ASK = _named("AskError")
UNKNOWN_NODE: Errors = (OSError, *_named("SlotNotCoveredError", "ConnectionError", "TimeoutError"))
"""What a client raises if it does not know, or no longer knows, which node has a key."""

TryAgainError = exceptions.TryAgainError


# A storage key, a token or a result may stand in an error: servers quote commands that they do not know, redis-py
# quotes commands of a pipeline, and replies that it can't read. The driver's own error, to which ours is chained,
# still has it.
_QUOTED = re.compile(
    r"\ACommand # \d+ \(.*\) of pipeline caused error: |,? with args beginning with:.*|(?<=Protocol Error): .*",
    re.DOTALL,
)


def is_transient(error: Exception) -> bool:
    """Tell whether another try within the deadline can help: after a restart, a failover, a move of slots."""
    if isinstance(error, _LASTING):
        return False
    return isinstance(error, _TRANSIENT) or str(error).startswith(_TRANSIENT_WORDS)


def translated(error: Exception) -> IdempotencyPersistenceLayerError:
    """Return our error for a driver's error, without what that one may quote."""
    said = _QUOTED.sub("", str(error))
    if is_transient(error):
        return IdempotencyPersistenceConnectionError(f"Redis can't be reached: {said}")
    if said.startswith(("WRONGTYPE", "UNREADABLE")):
        return IdempotencyRecordError("the store holds something that is not a record of this version")
    return IdempotencyPersistenceLayerError(f"Redis refused: {said}")


class Retries:
    """Whether one verb tries again after an error, and when.

    The pause doubles from 20 ms to 250 ms, with jitter down to half of it. The first is a few round trips, which
    is as long as most interruptions take; the longest leaves time for several tries within a layer's default
    time-out, 2 s.
    """

    def __init__(self) -> None:
        self._longest = 0.02

    def pause_after(self, error: Exception, left: float) -> float | None:
        """Return the seconds until the next try; `None` if the error lasts, or too little time is left."""
        longest, self._longest = self._longest, min(self._longest * 2, 0.25)
        pause = uniform(longest / 2, longest)  # noqa: S311 - spreads load, guards nothing
        return pause if is_transient(error) and left > pause else None
