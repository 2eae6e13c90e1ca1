"""The rules of the four verbs, as pure functions of a claim and of what stands for its key.

Memory and SQLite call them, because these layers read, decide and write in one step of their own.
`redis/scripts/` holds the same rules in Lua. The conformance suite holds all layers to them, and a property test
compares both forms.

`standing` is `None` if the key is free; the caller leaves out a record that has expired. The functions return:

    acquire, complete   the answer, and what to write; None: write nothing
    extend              what to write; None: the claim does not stand, write nothing
    release             whether to delete the record
"""

from dataclasses import dataclass, replace

from idempotency_mw.core.record import Acquired, Claim, Existing, Lost, Record, Settled, Status
from idempotency_mw.persistence.frame import MAX_ATTEMPT, Frame

__all__ = ["StoredFrame", "acquire", "complete", "extend", "release"]


@dataclass(frozen=True, slots=True)
class StoredFrame:
    """What stands for a key: a frame, and when it expires, in milliseconds on the store's clock."""

    frame: Frame
    expires_ms: int

    def record(self, now_ms: int) -> Record:
        """Return the record that others may see: without the token."""
        is_running = self.frame.status is Status.IN_PROGRESS
        until_ms = self.frame.lease_until_ms if is_running else self.expires_ms
        return self.frame.record(until_ms - now_ms)


def acquire(
    standing: StoredFrame | None, claim: Claim, now_ms: int
) -> tuple[Acquired | Existing, StoredFrame | None]:
    """Own the key if it is free, already this claim's, or lapsed and open to a takeover (`_may_take_over`)."""
    if standing is None:
        attempt = 1
    elif _owns(claim, standing):
        attempt = standing.frame.attempt
    elif _may_take_over(claim, standing, now_ms):
        attempt = min(standing.frame.attempt + 1, MAX_ATTEMPT)
    else:
        return Existing(standing.record(now_ms)), None
    return Acquired(attempt), _in_progress(claim, attempt, now_ms)


def extend(standing: StoredFrame | None, claim: Claim, now_ms: int) -> StoredFrame | None:
    """Renew the lease of a claim that stands."""
    if standing is None or not _owns(claim, standing):
        return None
    return _in_progress(claim, standing.frame.attempt, now_ms)


def complete(
    standing: StoredFrame | None, claim: Claim, result: bytes | None, now_ms: int
) -> tuple[Settled | Lost, StoredFrame | None]:
    """Put the result in place of a claim that stands; repeated, it changes nothing."""
    if standing is None:
        return Lost(None), None
    if standing.frame.token != claim.token:
        return Lost(standing.record(now_ms)), None
    if standing.frame.status is not Status.IN_PROGRESS:
        return Settled(), None
    status = Status.NOT_KEPT if result is None else Status.COMPLETED
    completed = replace(standing.frame, status=status, result=result or b"")
    return Settled(), StoredFrame(completed, expires_ms=now_ms + claim.retention_ms)


def release(standing: StoredFrame | None, claim: Claim) -> bool:
    """Tell whether the key is this claim's to free."""
    return standing is not None and _owns(claim, standing)


def _owns(claim: Claim, standing: StoredFrame) -> bool:
    return standing.frame.status is Status.IN_PROGRESS and standing.frame.token == claim.token


def _may_take_over(claim: Claim, standing: StoredFrame, now_ms: int) -> bool:
    return (
        claim.may_take_over
        and standing.frame.status is Status.IN_PROGRESS
        and standing.frame.lease_until_ms <= now_ms
        and standing.frame.fingerprint == claim.fingerprint
    )


def _in_progress(claim: Claim, attempt: int, now_ms: int) -> StoredFrame:
    # The record outlives its lease, so that the next owner learns that there was one before: attempt 2.
    frame = Frame(
        status=Status.IN_PROGRESS,
        token=claim.token,
        attempt=attempt,
        lease_until_ms=now_ms + claim.lease_ms,
        fingerprint=claim.fingerprint,
    )
    return StoredFrame(frame, expires_ms=now_ms + max(claim.retention_ms, claim.lease_ms))
