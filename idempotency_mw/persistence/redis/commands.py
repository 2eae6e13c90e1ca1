"""The commands of the four verbs, and what the replies mean. Knows no connection.

Each verb is one script, and completing with a large result is a second one. Each file in `scripts/` begins with
its keys, arguments and replies.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import sha1
from importlib.resources import files
from typing import Any, Final

from idempotency_mw.core.record import Acquired, Claim, Existing, Lost, Record, Settled
from idempotency_mw.errors import IdempotencyPersistenceConnectionError, IdempotencyRecordError
from idempotency_mw.persistence.frame import read_record
from idempotency_mw.persistence.redis.direct.resp import Reply, bulk, packed
from idempotency_mw.persistence.redis.errors import NO_SCRIPT, is_transient
from idempotency_mw.persistence.redis.pipelines import RAW, Command, PipelineSteps

__all__ = [
    "LARGE",
    "RAW",
    "Call",
    "TooFewReplicas",
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
    "unless_too_few",
]

LARGE: Final = 10_000
"""A result of so many bytes does not pass through Lua, which would copy it three times. Near this size both ways
cost the same on Valkey; docs/decisions/011 has the measurements."""

TEMPORARY_MS: Final = 10_000
"""A result under its temporary key expires after 10 s, in case the script that takes it never comes. The script
is in the same message, so it comes at once or not at all; a layer's default time-out is 2 s."""

ROOM: Final = b"0" * 119
"""Stands before a result until the script writes the record's prefix there. It is no prefix of any version."""


@dataclass(frozen=True, slots=True)
class Script:
    """A script: its text, the digest under which a server keeps it, and how many keys it has."""

    text: str
    sha: str
    keys: int
    begin: str
    """The beginning of the packed command by digest."""


@dataclass(slots=True)
class Call:
    """A script with its keys and arguments. The keys lie in one slot; the first is the record's.

    It is not frozen, as other values are: making a frozen one takes as long as packing the command.
    """

    script: Script
    args: tuple[str | int | bytes, ...] = field(repr=False)
    """The keys, then the arguments."""
    prepacked: bytes | None = field(default=None, repr=False)
    """The packed command by digest, if it has been made already."""

    @property
    def by_digest(self) -> Command:
        """The small command. A server that has lost the script refuses it with NOSCRIPT."""
        return ("EVALSHA", self.script.sha, self.script.keys, *map(_raw, self.args))

    @property
    def by_text(self) -> Command:
        """The command with the script's text, which the server then keeps."""
        return ("EVAL", self.script.text, self.script.keys, *map(_raw, self.args))

    def packed(self) -> bytes:
        """Return the command by digest as it goes over the wire."""
        return packed(self.by_digest) if self.prepacked is None else self.prepacked


def _raw(arg: str | int | bytes) -> int | bytes:
    """Return an argument that a client does not encode, because clients have encodings of their own."""
    return arg.encode() if isinstance(arg, str) else arg


def _load(name: str, *, keys: int = 1, arguments: int) -> Script:
    text = files("idempotency_mw.persistence.redis").joinpath("scripts", f"{name}.lua").read_text("utf-8")
    # The protocol names scripts by their SHA-1. No security rests on it.
    sha = sha1(text.encode("utf-8"), usedforsecurity=False).hexdigest()
    begin = bulk("EVALSHA") + bulk(sha) + bulk(str(keys))
    return Script(text, sha, keys, f"*{3 + keys + arguments}\r\n{begin}")


# The lengths that these always have. Formatting the digits of a length takes longer than writing everything else.
_TOKEN: Final = 32
_FINGERPRINT: Final = 64

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
    prepacked = _prepacked(begin, key, token, f"$64\r\n{fingerprint}\r\n{end}") if is_usual else None
    return Call(_ACQUIRE, (key, token, fingerprint, lease, retention, may), prepacked)


def extend(key: str, claim: Claim) -> Call:
    """Return the call of the verb."""
    token, lease, retention = claim.token, claim.lease_ms, claim.retention_ms
    begin, end = _around(_EXTEND.begin, len(key), lease, retention)
    return Call(_EXTEND, (key, token, lease, retention), _prepacked(begin, key, token, end))


def complete(key: str, claim: Claim, result: bytes | None) -> Call:
    """Return the call of the verb."""
    token, retention = claim.token, claim.retention_ms
    letter, kept = ("N", b"") if result is None else ("C", result)
    begin, end = _around(_COMPLETE.begin, len(key), retention, letter)
    head = _prepacked(begin, key, token, f"{end}${len(kept)}\r\n")
    whole = None if head is None else b"".join((head, kept, b"\r\n"))
    return Call(_COMPLETE, (key, token, retention, letter, kept), whole)


def release(key: str, claim: Claim) -> Call:
    """Return the call of the verb."""
    begin, end = _around(_RELEASE.begin, len(key))
    return Call(_RELEASE, (key, claim.token), _prepacked(begin, key, claim.token, end))


@lru_cache
def _around(begin: str, length: int, *args: str | int) -> tuple[str, str]:
    """Return what stands before a key of this length, and the packed arguments. They repeat themselves."""
    return f"{begin}${length}\r\n", "".join([bulk(str(each)) for each in args])


def _prepacked(begin: str, key: str, token: str, end: str) -> bytes | None:
    """Return a packed command; `None` if a length in it would be wrong."""
    command = f"{begin}{key}\r\n$32\r\n{token}\r\n{end}"
    return command.encode() if len(token) == _TOKEN and command.isascii() else None


def _complete_large(key: str, claim: Claim, length: int, temporary: bytes) -> Call:
    return Call(_COMPLETE_LARGE, (key, temporary, claim.token, claim.retention_ms, length))


@dataclass(frozen=True, slots=True)
class TooFewReplicas:
    """Too few replicas acknowledged an acquired claim in time. It was released again."""

    acknowledged: int
    wanted: int


def unless_too_few(found: Acquired | Existing | TooFewReplicas) -> Acquired | Existing:
    """Return what was found, or raise `IdempotencyPersistenceConnectionError` for replicas that are missing."""
    if isinstance(found, TooFewReplicas):
        raise IdempotencyPersistenceConnectionError(
            f"{found.acknowledged} of {found.wanted} replicas acknowledged the claim in time"
        )
    return found


def acquire_acknowledged(
    key: str, claim: Claim, wanted: int, wait_ms: Callable[[], int]
) -> PipelineSteps[Acquired | Existing | TooFewReplicas]:
    """Acquire, and have `wanted` replicas acknowledge it, within `wait_ms()` milliseconds for each try."""
    call = acquire(key, claim)
    found, acknowledged = yield [call.by_digest, ("WAIT", wanted, wait_ms())]
    if isinstance(found, NO_SCRIPT):
        found, acknowledged = yield [call.by_text, ("WAIT", wanted, wait_ms())]
    answer = read_acquire(_unless_error(found))
    if isinstance(answer, Existing):
        return answer  # nothing was written, and the app will not run
    if isinstance(acknowledged, Exception) and is_transient(acknowledged):
        raise acknowledged  # the next try acquires the own token again, and waits again
    if not isinstance(acknowledged, int) or acknowledged < wanted:
        (released,) = yield [release(key, claim).by_text]
        _unless_error(released)
        return TooFewReplicas(_count(_unless_error(acknowledged)), wanted)
    return answer


_IS_GONE: Final = 2
"""What `complete_large.lua` replies if nothing lies under the temporary key."""


def temporary_key(key_prefix: str, key: str, token: str) -> str | None:
    """Return the temporary key for a large result, or `None` if there can be none.

    It begins with the prefix, because an ACL may allow nothing else, and lies in the key's slot. The slot is
    that of the text in a key's first braces, if there is any, else that of the whole key.
    """
    before, opened, after = key.partition("{")
    if not opened:
        return None if "}" in before else f"{key_prefix}{{{key}}}{token}"
    return f"{key}:{token}" if after.find("}") > 0 else None


def complete_large(key: str, claim: Claim, result: bytes, temporary: str) -> PipelineSteps[Settled | Lost]:
    """Complete with a result that is put under the temporary key first. If that is refused, do as `complete`."""
    name = temporary.encode()
    call = _complete_large(key, claim, len(ROOM) + len(result), name)
    _, reply = yield [("SET", name, (ROOM, result), "PX", TEMPORARY_MS), call.by_digest]
    if isinstance(reply, NO_SCRIPT):
        (reply,) = yield [call.by_text]
    if isinstance(reply, Exception) or reply == _IS_GONE:
        # The server is full, an ACL forbids a command, or the slot is on the move and has only one of the keys.
        call = complete(key, claim, result)
        (reply,) = yield [call.by_digest]
    if isinstance(reply, NO_SCRIPT):
        (reply,) = yield [call.by_text]
    return read_complete(_unless_error(reply))


def _unless_error(reply: Reply) -> Reply:
    if isinstance(reply, Exception):
        raise reply
    return reply


def _count(reply: Reply) -> int:
    """Return the number that WAIT replies."""
    if not isinstance(reply, int):
        raise _unknown_reply()
    return reply


def read_acquire(reply: Reply) -> Acquired | Existing:
    """Read what the acquire script replied. Raises `IdempotencyRecordError` for a record that can't be read."""
    if isinstance(reply, int) and reply > 0:
        return Acquired(reply)
    return Existing(_record(reply))


def read_complete(reply: Reply) -> Settled | Lost:
    """Read what the complete scripts replied. Raises `IdempotencyRecordError` for a record that can't be read."""
    if reply == 1:
        return Settled()
    return Lost(None if reply == [0] else _record(reply))


def read_flag(reply: Reply) -> bool:
    """Read what the extend and release scripts replied."""
    if reply not in (0, 1):
        raise _unknown_reply()
    return reply == 1


def _record(reply: Any) -> Record:  # `Any`, because unpacking is the check
    try:
        _, remaining_ms, data = reply
        return read_record(data, remaining_ms)
    except (TypeError, ValueError):
        raise _unknown_reply() from None


def _unknown_reply() -> IdempotencyRecordError:
    return IdempotencyRecordError("the store replied with something that no script of ours says")
