"""The four verbs as pure functions: what stands there and a claim in, what is to stand there and the answer out.

For layers that read, decide and write in one transaction of their own. `redis/scripts/` says the same in Lua,
and one suite holds both to it. A frame that is handed in has not expired; None is nothing there.
"""

from dataclasses import dataclass, replace

from idempotency_mw.core.record import Acquired, Claim, Existing, Lost, Settled, Status
from idempotency_mw.persistence.frame import MAX_ATTEMPT, Frame

__all__ = ["Write", "acquire", "complete", "extend", "release"]


@dataclass(frozen=True, slots=True)
class Write:
    """Put this frame in place of what stands there, to expire at this moment on the store's clock."""

    frame: Frame
    expires_ms: int


def acquire(standing: Frame | None, claim: Claim, now_ms: int) -> tuple[Acquired | Existing, Write | None]:
    """Own the key if it is free, already this claim's, or lapsed and may be taken over."""
    if standing is None:
        attempt = 1
    elif _owns(claim, standing):
        attempt = standing.attempt
    elif _may_take_over(claim, standing, now_ms):
        attempt = min(standing.attempt + 1, MAX_ATTEMPT)
    else:
        return Existing(standing.record(now_ms)), None
    return Acquired(attempt), _in_progress(claim, attempt, now_ms)


def extend(standing: Frame | None, claim: Claim, now_ms: int) -> Write | None:
    """Renew the lease of a claim that stands."""
    if standing is None or not _owns(claim, standing):
        return None
    return _in_progress(claim, standing.attempt, now_ms)


def complete(
    standing: Frame | None, claim: Claim, result: bytes | None, now_ms: int
) -> tuple[Settled | Lost, Write | None]:
    """Put the result in place of a claim that stands; repeated, it changes nothing."""
    if standing is None:
        return Lost(None), None
    if standing.token != claim.token:
        return Lost(standing.record(now_ms)), None
    if standing.status is not Status.IN_PROGRESS:
        return Settled(), None
    expires_ms = now_ms + claim.retention_ms
    completed = replace(
        standing,
        status=Status.NOT_KEPT if result is None else Status.COMPLETED,
        until_ms=expires_ms,
        result=result or b"",
    )
    return Settled(), Write(completed, expires_ms)


def release(standing: Frame | None, claim: Claim) -> bool:
    """Tell whether the key is this claim's to free."""
    return standing is not None and _owns(claim, standing)


def _owns(claim: Claim, standing: Frame) -> bool:
    return standing.status is Status.IN_PROGRESS and standing.token == claim.token


def _may_take_over(claim: Claim, standing: Frame, now_ms: int) -> bool:
    return (
        claim.may_take_over
        and standing.status is Status.IN_PROGRESS
        and standing.until_ms <= now_ms
        and standing.fingerprint == claim.fingerprint
    )


def _in_progress(claim: Claim, attempt: int, now_ms: int) -> Write:
    # The record outlives its lease: what is left of a dead owner tells the next one that there was one.
    frame = Frame(
        status=Status.IN_PROGRESS,
        token=claim.token,
        attempt=attempt,
        until_ms=now_ms + claim.lease_ms,
        fingerprint=claim.fingerprint,
    )
    return Write(frame, expires_ms=now_ms + max(claim.retention_ms, claim.lease_ms))
