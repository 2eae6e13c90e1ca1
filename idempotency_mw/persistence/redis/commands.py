"""What is said to Redis and what its replies mean, without a connection.

One script a verb, and a second one to complete with a large result; each file in `redis/scripts/` is headed by its
keys, arguments and replies.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import sha1
from importlib.resources import files
from typing import Any

from idempotency_mw.core.record import Acquired, Claim, Existing, Lost, Record, Settled
from idempotency_mw.errors import IdempotencyPersistenceConnectionError, IdempotencyRecordError
from idempotency_mw.persistence.frame import read_record
from idempotency_mw.persistence.redis.direct.resp import bulk, packed
from idempotency_mw.persistence.redis.errors import NO_SCRIPT, is_passing
from idempotency_mw.persistence.redis.pipelines import RAW, Command, Talk

__all__ = [
    "LARGE",
    "RAW",
    "Call",
    "Short",
    "acquire",
    "acquire_acknowledged",
    "complete",
    "complete_large",
    "extend",
    "read_acquire",
    "read_complete",
    "read_flag",
    "release",
    "temporary_key",
    "unless_short",
]

LARGE = 10_000
"""From so many bytes on a result is not copied through Lua. docs/decisions/011 has what was measured."""

TEMPORARY_MS = 10_000
"""How long a result lies under its temporary key, should nobody come for it."""

ROOM = b"0" * 119
"""What stands before a result until the script writes the prefix there. Not a prefix of any version."""


@dataclass(frozen=True, slots=True)
class Script:
    """A script's text, the digest under which a server keeps it, and how many keys it is about."""

    text: str
    sha: str
    keys: int
    begin: str
    """How the command by digest begins on the wire."""


@dataclass(slots=True)
class Call:
    """One script about its keys, which lie in one slot; the first is the record's.

    Not frozen, as all else is: to freeze one takes as long as to pack it.
    """

    script: Script
    args: tuple[str | int | bytes, ...] = field(repr=False)
    """The keys, then the arguments."""
    said: bytes | None = field(default=None, repr=False)
    """The command by digest as it goes over the wire, where it is there already."""

    @property
    def by_digest(self) -> Command:
        """The command that is small, and that a server which lost the script refuses with NOSCRIPT."""
        return ("EVALSHA", self.script.sha, self.script.keys, *map(_raw, self.args))

    @property
    def by_text(self) -> Command:
        """The command that runs the script and makes the server keep it again."""
        return ("EVAL", self.script.text, self.script.keys, *map(_raw, self.args))

    def packed(self) -> bytes:
        """Return the command by digest as it goes over the wire."""
        return packed(self.by_digest) if self.said is None else self.said


def _raw(arg: str | int | bytes) -> int | bytes:
    """Return what no client encodes in its own way."""
    return arg.encode() if isinstance(arg, str) else arg


def _load(name: str, *, keys: int = 1, arguments: int) -> Script:
    text = files("idempotency_mw.persistence.redis").joinpath("scripts", f"{name}.lua").read_text("utf-8")
    # SHA-1 is the name that the protocol gives a script; nothing rests on its strength.
    sha = sha1(text.encode("utf-8"), usedforsecurity=False).hexdigest()
    begin = bulk("EVALSHA") + bulk(sha) + bulk(str(keys))
    return Script(text, sha, keys, f"*{3 + keys + arguments}\r\n{begin}")


# What is always of one length: to make the digits of a length takes longer than to write all else.
_TOKEN = 32
_FINGERPRINT = 64

_ACQUIRE = _load("acquire", arguments=5)
_EXTEND = _load("extend", arguments=3)
_COMPLETE = _load("complete", arguments=4)
_COMPLETE_LARGE = _load("complete_large", keys=2, arguments=3)
_RELEASE = _load("release", arguments=1)


def acquire(key: str, claim: Claim) -> Call:
    """Return the call of the verb."""
    token, fingerprint = claim.token, claim.operation.fingerprint
    lease, retention, may = claim.lease_ms, claim.retention_ms, 1 if claim.may_take_over else 0
    begin, end = _around(_ACQUIRE.begin, len(key), lease, retention, may)
    is_usual = len(fingerprint) == _FINGERPRINT
    said = _said(begin, key, token, f"$64\r\n{fingerprint}\r\n{end}") if is_usual else None
    return Call(_ACQUIRE, (key, token, fingerprint, lease, retention, may), said)


def extend(key: str, claim: Claim) -> Call:
    """Return the call of the verb."""
    token, lease, retention = claim.token, claim.lease_ms, claim.retention_ms
    begin, end = _around(_EXTEND.begin, len(key), lease, retention)
    return Call(_EXTEND, (key, token, lease, retention), _said(begin, key, token, end))


def complete(key: str, claim: Claim, result: bytes | None) -> Call:
    """Return the call of the verb."""
    token, retention = claim.token, claim.retention_ms
    letter, kept = ("N", b"") if result is None else ("C", result)
    begin, end = _around(_COMPLETE.begin, len(key), retention, letter)
    said = _said(begin, key, token, f"{end}${len(kept)}\r\n")
    whole = None if said is None else b"".join((said, kept, b"\r\n"))
    return Call(_COMPLETE, (key, token, retention, letter, kept), whole)


def release(key: str, claim: Claim) -> Call:
    """Return the call of the verb."""
    begin, end = _around(_RELEASE.begin, len(key))
    return Call(_RELEASE, (key, claim.token), _said(begin, key, claim.token, end))


@lru_cache
def _around(begin: str, length: int, *args: str | int) -> tuple[str, str]:
    """Return what stands before a key of this length, and these arguments: those of a configuration, mostly."""
    return f"{begin}${length}\r\n", "".join([bulk(str(each)) for each in args])


def _said(begin: str, key: str, token: str, end: str) -> bytes | None:
    """Return a command as it goes over the wire; None if a length in it is not what it says."""
    said = f"{begin}{key}\r\n$32\r\n{token}\r\n{end}"
    return said.encode() if len(token) == _TOKEN and said.isascii() else None


def _complete_large(key: str, claim: Claim, length: int, temporary: bytes) -> Call:
    return Call(_COMPLETE_LARGE, (key, temporary, claim.token, claim.retention_ms, length))


@dataclass(frozen=True, slots=True)
class Short:
    """Too few replicas acknowledged an acquired claim in time; it was released again."""

    acknowledged: int
    wanted: int


def unless_short(found: Acquired | Existing | Short) -> Acquired | Existing:
    """Return what was found; raises `IdempotencyPersistenceConnectionError` where replicas are missing."""
    if isinstance(found, Short):
        raise IdempotencyPersistenceConnectionError(
            f"{found.acknowledged} of {found.wanted} replicas acknowledged the claim in time"
        )
    return found


def acquire_acknowledged(
    key: str, claim: Claim, wanted: int, wait_ms: Callable[[], int]
) -> Talk[Acquired | Existing | Short]:
    """Acquire, and have so many replicas acknowledge it within the milliseconds of each try."""
    call = acquire(key, claim)
    found, acknowledged = yield [call.by_digest, ("WAIT", wanted, wait_ms())]
    if isinstance(found, NO_SCRIPT):
        found, acknowledged = yield [call.by_text, ("WAIT", wanted, wait_ms())]
    answer = read_acquire(_unless_error(found))
    if isinstance(answer, Existing):
        return answer  # nothing was written, and the app will not run
    if isinstance(acknowledged, Exception) and is_passing(acknowledged):
        raise acknowledged  # asked again, the own token is acquired again, and waited for
    if isinstance(acknowledged, Exception) or acknowledged < wanted:
        (released,) = yield [release(key, claim).by_text]
        _unless_error(released)
        return Short(_unless_error(acknowledged), wanted)
    return answer


_IS_GONE = 2


def temporary_key(key_prefix: str, key: str, token: str) -> str | None:
    """Return the name under which a large result waits for its script, or None if there can be none.

    It begins with the prefix, which is all that an ACL may allow, and is in the key's slot. A slot is that of the
    first text in braces, if there is one with text in it, else of the whole key.
    """
    before, opened, after = key.partition("{")
    if not opened:
        return None if "}" in before else f"{key_prefix}{{{key}}}{token}"
    return f"{key}:{token}" if after.find("}") > 0 else None


def complete_large(key: str, claim: Claim, result: bytes, temporary: str) -> Talk[Settled | Lost]:
    """Complete with a result that waits under the temporary key; where that is refused, as `complete`."""
    name = temporary.encode()
    call = _complete_large(key, claim, len(ROOM) + len(result), name)
    _, reply = yield [("SET", name, (ROOM, result), "PX", TEMPORARY_MS), call.by_digest]
    if isinstance(reply, NO_SCRIPT):
        (reply,) = yield [call.by_text]
    if isinstance(reply, Exception) or reply == _IS_GONE:
        # The server is full, or the slot on the move with one of the keys here and the other there.
        call = complete(key, claim, result)
        (reply,) = yield [call.by_digest]
    if isinstance(reply, NO_SCRIPT):
        (reply,) = yield [call.by_text]
    return read_complete(_unless_error(reply))


def _unless_error(reply: Any) -> Any:
    if isinstance(reply, Exception):
        raise reply
    return reply


def read_acquire(reply: int | list[Any]) -> Acquired | Existing:
    """Read what the acquire script replied; raises `IdempotencyRecordError` for a foreign record."""
    if isinstance(reply, int) and reply > 0:
        return Acquired(reply)
    return Existing(_record(reply))


def read_complete(reply: int | list[Any]) -> Settled | Lost:
    """Read what the complete script replied; raises `IdempotencyRecordError` for a foreign record."""
    if reply == 1:
        return Settled()
    return Lost(None if reply == [0] else _record(reply))


def read_flag(reply: int) -> bool:
    """Read what the extend and release scripts replied."""
    if reply not in (0, 1):
        raise _unsaid()
    return reply == 1


def _record(reply: Any) -> Record:
    try:
        _, remaining_ms, data = reply
        return read_record(data, remaining_ms)
    except (TypeError, ValueError):
        raise _unsaid() from None


def _unsaid() -> IdempotencyRecordError:
    return IdempotencyRecordError("the store replied with something that no script of ours says")
