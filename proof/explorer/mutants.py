"""Twelve faulty systems: each replaces one function of the production system. All must be exposed."""

from dataclasses import replace
from typing import Any

from idempotency_mw.core import machine
from idempotency_mw.core.machine import Answered, Complete, Ending, Execute, Failed, Kept, Release, Replay, Stopped
from idempotency_mw.core.record import Acquired, Claim, Existing, Status
from idempotency_mw.persistence import verbs
from idempotency_mw.persistence.verbs import StoredFrame
from proof.explorer.store import NOW_MS, RETENTION_MS, claim_of
from proof.explorer.system import PRODUCTION, System

__all__ = ["MUTANTS"]

NEVER_MS = NOW_MS + 1000 * RETENTION_MS


# Faults in the verbs


def _with_token(standing: StoredFrame, token: str) -> StoredFrame:
    return replace(standing, frame=replace(standing.frame, token=token))


def _as_own(standing: StoredFrame | None, claim: Claim) -> StoredFrame | None:
    """Return the record as if it bore the claim's token: the effect of not comparing tokens."""
    return standing and _with_token(standing, claim.token)


def _complete_without_compare(
    standing: StoredFrame | None, claim: Claim, result: bytes | None, now_ms: int
) -> Any:
    return verbs.complete(_as_own(standing, claim), claim, result, now_ms)


def _release_without_compare(standing: StoredFrame | None, claim: Claim) -> bool:
    return verbs.release(_as_own(standing, claim), claim)


def _extend_without_compare(standing: StoredFrame | None, claim: Claim, now_ms: int) -> StoredFrame | None:
    return verbs.extend(_as_own(standing, claim), claim, now_ms)


def _acquire_without_own_token(standing: StoredFrame | None, claim: Claim, now_ms: int) -> Any:
    other = standing and _with_token(standing, "0" * 32)
    found, write = verbs.acquire(other, claim, now_ms)
    return found, write


def _acquire_without_new_attempt(standing: StoredFrame | None, claim: Claim, now_ms: int) -> Any:
    found, write = verbs.acquire(standing, claim, now_ms)
    if standing is None or write is None:
        return found, write
    attempt = standing.frame.attempt
    return Acquired(attempt), replace(write, frame=replace(write.frame, attempt=attempt))


def _complete_without_expiry(standing: StoredFrame | None, claim: Claim, result: bytes | None, now_ms: int) -> Any:
    outcome, write = verbs.complete(standing, claim, result, now_ms)
    return outcome, write and replace(write, expires_ms=NEVER_MS)


# Faults in the machine


def _silence_is_acquired(**_: Any) -> Execute:
    return Execute(claim_of(0, may_take_over=True), attempt=1)


def _release_after_cancellation(ending: Ending, on_error: Any) -> Any:
    return Release() if isinstance(ending, Stopped) else machine.on_ended(ending, on_error)


def _store_on_abort(ending: Ending, on_error: Any) -> Any:
    return Complete(Kept.ANSWER) if isinstance(ending, Stopped) else machine.on_ended(ending, on_error)


def _busy_is_replay(claim: Claim, found: Acquired | Existing) -> Any:
    match found:
        case Existing(record) if record.status is Status.IN_PROGRESS:
            return Replay(record)
        case _:
            return machine.on_acquired(claim, found)


def _on_error_inverted(ending: Ending, on_error: Any) -> Any:
    if isinstance(ending, Answered | Failed):
        on_error = "release" if on_error == "store" else "store"
    return machine.on_ended(ending, on_error)


MUTANTS: dict[str, System] = {
    "no compare on complete": replace(PRODUCTION, complete=_complete_without_compare),
    "no compare on release": replace(PRODUCTION, release=_release_without_compare),
    "own token ignored": replace(PRODUCTION, acquire=_acquire_without_own_token),
    "lost reply read as acquired": replace(PRODUCTION, on_store_failure=_silence_is_acquired),
    "extend without compare": replace(PRODUCTION, extend=_extend_without_compare),
    "token used again after release": replace(PRODUCTION, has_fresh_tokens=False),
    "takeover without attempt + 1": replace(PRODUCTION, acquire=_acquire_without_new_attempt),
    "release after cancellation": replace(PRODUCTION, on_ended=_release_after_cancellation),
    "stored on abort": replace(PRODUCTION, on_ended=_store_on_abort),
    "busy read as replay": replace(PRODUCTION, on_acquired=_busy_is_replay),
    "on_error inverted": replace(PRODUCTION, on_ended=_on_error_inverted),
    "expiry dropped on complete": replace(PRODUCTION, complete=_complete_without_expiry),
}
