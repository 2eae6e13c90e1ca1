"""What is said to Redis and what its replies mean, without a connection.

One script a verb; each file in `redis_scripts/` is headed by its keys, arguments and replies.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha1
from importlib.resources import files
from random import uniform
from typing import Any

from redis import exceptions

from idempotency_mw.core.record import Acquired, Claim, Existing, Lost, Record, Settled
from idempotency_mw.errors import (
    IdempotencyPersistenceConnectionError,
    IdempotencyPersistenceLayerError,
    IdempotencyRecordError,
)
from idempotency_mw.persistence.frame import Frame

__all__ = [
    "DRIVER_ERRORS",
    "RAW",
    "Call",
    "acquire",
    "complete",
    "extend",
    "is_passing",
    "pauses",
    "read_acquire",
    "read_complete",
    "read_flag",
    "release",
    "translated",
]

RAW: dict[str, Any] = {"NEVER_DECODE": True}
"""The option that keeps redis-py from decoding a reply as text, whatever `decode_responses` says."""


@dataclass(frozen=True, slots=True)
class Script:
    """A script's text, and the digest under which a server keeps it."""

    text: str
    sha: str


@dataclass(frozen=True, slots=True)
class Call:
    """One script about one key."""

    script: Script
    key: str
    arguments: tuple[str | bytes | int, ...] = field(repr=False)

    @property
    def by_digest(self) -> tuple[str | bytes | int, ...]:
        """The command that is small, and that a server which lost the script refuses with NOSCRIPT."""
        return ("EVALSHA", self.script.sha, 1, self.key, *self.arguments)

    @property
    def by_text(self) -> tuple[str | bytes | int, ...]:
        """The command that runs the script and makes the server keep it again."""
        return ("EVAL", self.script.text, 1, self.key, *self.arguments)


def _load(name: str) -> Script:
    text = files("idempotency_mw.persistence").joinpath("redis_scripts", f"{name}.lua").read_text("utf-8")
    # SHA-1 is the name that the protocol gives a script; nothing rests on its strength.
    return Script(text, sha1(text.encode("utf-8"), usedforsecurity=False).hexdigest())


_ACQUIRE, _EXTEND, _COMPLETE, _RELEASE = (_load(name) for name in ("acquire", "extend", "complete", "release"))


def acquire(key: str, claim: Claim) -> Call:
    """Return the call of the verb."""
    may_take_over = "1" if claim.may_take_over else "0"
    return Call(_ACQUIRE, key, (claim.token, claim.fingerprint, claim.lease_ms, claim.retention_ms, may_take_over))


def extend(key: str, claim: Claim) -> Call:
    """Return the call of the verb."""
    return Call(_EXTEND, key, (claim.token, claim.lease_ms, claim.retention_ms))


def complete(key: str, claim: Claim, result: bytes | None) -> Call:
    """Return the call of the verb."""
    letter = "N" if result is None else "C"
    return Call(_COMPLETE, key, (claim.token, claim.retention_ms, letter, result or b""))


def release(key: str, claim: Claim) -> Call:
    """Return the call of the verb."""
    return Call(_RELEASE, key, (claim.token,))


def read_acquire(reply: int | list[Any]) -> Acquired | Existing:
    """Read what the acquire script replied; raises `IdempotencyRecordError` for a foreign record."""
    if isinstance(reply, int):
        return Acquired(reply)
    return Existing(_record(reply))


def read_complete(reply: int | list[Any]) -> Settled | Lost:
    """Read what the complete script replied; raises `IdempotencyRecordError` for a foreign record."""
    if isinstance(reply, int):
        return Settled()
    return Lost(_record(reply) if len(reply) > 1 else None)


def read_flag(reply: int) -> bool:
    """Read what the extend and release scripts replied."""
    return reply == 1


def _record(reply: list[Any]) -> Record:
    _, now_ms, data = reply
    return Frame.decode(data).record(now_ms)


DRIVER_ERRORS = (exceptions.RedisError, exceptions.RedisClusterException, OSError)
"""All that redis-py raises when the server, or the way to it, fails."""

_PASSING = (
    OSError,
    exceptions.ConnectionError,  # LOADING and Sentinel's "no master found" are among these
    exceptions.TimeoutError,
    exceptions.ReadOnlyError,
    exceptions.ClusterDownError,
    exceptions.TryAgainError,
    exceptions.MasterDownError,
    exceptions.ClusterError,
    exceptions.RedisClusterException,
)
_LASTING = (exceptions.AuthenticationError, exceptions.AuthorizationError)


def is_passing(error: Exception) -> bool:
    """Tell whether asking again within the deadline can help: a restart, a failover, slots on the move."""
    return isinstance(error, _PASSING) and not isinstance(error, _LASTING)


def translated(error: Exception) -> IdempotencyPersistenceLayerError:
    """Return the error of ours that the driver's error stands for."""
    if is_passing(error):
        return IdempotencyPersistenceConnectionError(f"Redis can't be reached: {error}")
    if str(error).startswith(("WRONGTYPE", "UNREADABLE")):
        return IdempotencyRecordError("the store holds something that is not a record of this version")
    return IdempotencyPersistenceLayerError(f"Redis refused: {error}")


def pauses() -> Iterator[float]:
    """Yield the seconds to wait before each further try: doubling, jittered, a quarter of a second at most."""
    longest = 0.02
    while True:
        yield uniform(longest / 2, longest)  # noqa: S311 - spreads load, guards nothing
        longest = min(longest * 2, 0.25)
