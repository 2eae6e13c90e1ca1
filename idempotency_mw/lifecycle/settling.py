"""The end of a claim, apart from the store: which bytes are kept, and what is reported when the end goes wrong.

Nothing here raises. The effect has happened by now, and the run's own answer must not be lost with an error.
"""

from collections.abc import Callable

from idempotency_mw import report
from idempotency_mw.core.machine import Complete, Deliver, Kept, Reject, Release, Replay, on_completed
from idempotency_mw.core.record import Claim, Lost, Settled

__all__ = ["Encode", "after_completion", "not_settled", "result_to_keep"]

Encode = Callable[[Kept], bytes | None]
"""Returns the result to keep, or None if it can't be kept. Called only after the machine chose to keep one."""


def result_to_keep(kept: Kept, encode: Encode, claim: Claim) -> bytes | None:
    """Return the bytes for the record; None makes a tombstone, which is reported."""
    if kept is Kept.NOTHING:
        report.answer_not_kept(claim.storage_key)
        return None
    result = encode(kept)
    if result is None:
        report.answer_not_storable(claim.storage_key)
    return result


def after_completion(claim: Claim, outcome: Settled | Lost, *, sent: bool) -> Deliver | Replay | Reject:
    """Decide what the owner's client gets once `complete` has returned; a lost claim is reported."""
    if isinstance(outcome, Lost):
        report.completion_lost(claim.storage_key)
    return on_completed(claim, outcome, sent=sent)


def not_settled(claim: Claim, ended: Complete | Release, error: Exception) -> Deliver:
    """Report that the store failed; the client gets the run's own answer."""
    report.claim_not_settled(claim.storage_key, type(ended).__name__.lower(), error)
    return Deliver()
