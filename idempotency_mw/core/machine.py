"""The state machine: its functions decide what a request gets, and what becomes of its claim.

Two rules hold everywhere else. A surface does what a decision says, and takes none itself: it tells how a run
ended, also if it was stopped, and never skips that. A store decides only who owns a key, takeovers included,
because that must be one step with the write (`persistence/verbs.py` has the rule). It returns what it found, and
does not judge what the request gets.

The machine knows no store, no HTTP and no clock. A value says what was found, or how a run ended; the returned
value says what to do.

    acquire ──> on_acquired ──> Execute ──> (the app runs) ──> on_ended ──> Complete ──> on_completed ──> Deliver
                   │                                              │                           ├──────────> Replay
                   ├──> Replay                                    ├──> Release                └──────────> Reject
                   └──> Reject                                    └──> Abandon
    acquire failed ──> on_store_failure ──> Unprotected | Reject

Each `match` over a union ends in `assert_never`, so that a type checker finds a decision that is not handled.
"""

import math
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Literal, assert_never

from idempotency_mw.core.record import Acquired, Claim, Existing, Lost, Record, Settled, Status

__all__ = [
    "Abandon",
    "Answered",
    "Complete",
    "Deliver",
    "Discarded",
    "Ending",
    "Execute",
    "Failed",
    "Kept",
    "Reason",
    "Reject",
    "Release",
    "Replay",
    "Stopped",
    "Unprotected",
    "may_wait",
    "on_acquired",
    "on_completed",
    "on_ended",
    "on_store_failure",
]


class Reason(Enum):
    """Why a request is refused."""

    IN_PROGRESS = auto()
    REUSED = auto()
    """The key was used before, for another request."""
    OUTCOME_UNKNOWN = auto()
    NOT_KEPT = auto()
    STORE_UNAVAILABLE = auto()
    RECORD_UNREADABLE = auto()


# What to do with a request.


@dataclass(frozen=True, slots=True)
class Execute:
    """Run the app: this claim owns the key."""

    claim: Claim
    attempt: int


@dataclass(frozen=True, slots=True)
class Replay:
    """Answer with the result that the record holds."""

    record: Record


@dataclass(frozen=True, slots=True)
class Reject:
    """Refuse: this request does not run now. A retry time is given only if waiting can help."""

    reason: Reason
    retry_after_ms: int | None = None
    cause: Exception | None = field(default=None, compare=False)
    """The store's own error, for functions, which raise it."""

    @property
    def retry_after_seconds(self) -> int | None:
        """`retry_after_ms` in whole seconds, rounded up, at least 1: `Retry-After` has no smaller unit."""
        return None if self.retry_after_ms is None else max(1, math.ceil(self.retry_after_ms / 1000))


@dataclass(frozen=True, slots=True)
class Unprotected:
    """Run the app without a claim: the store failed, and the configuration says `on_store_failure="pass"`."""


# How a run ended.


@dataclass(frozen=True, slots=True)
class Answered:
    """A whole answer.

    `storable`: its status says that it may be kept. `captured`: it is small enough to be kept.
    """

    storable: bool
    captured: bool


@dataclass(frozen=True, slots=True)
class Failed:
    """An exception, or no whole answer."""


@dataclass(frozen=True, slots=True)
class Stopped:
    """Cancelled, interrupted or given up: work that the run started may still go on."""


@dataclass(frozen=True, slots=True)
class Discarded:
    """The app asked that its answer not be kept."""


Ending = Answered | Failed | Stopped | Discarded


# What to do with the claim.


class Kept(Enum):
    """What a completed record keeps."""

    ANSWER = auto()
    FAILURE = auto()
    """A failure, instead of an answer that never became whole."""
    NOTHING = auto()
    """A tombstone: a duplicate is refused, and never runs."""


@dataclass(frozen=True, slots=True)
class Complete:
    """Make this the answer to every duplicate."""

    kept: Kept


@dataclass(frozen=True, slots=True)
class Release:
    """Free the key: a retry runs."""


@dataclass(frozen=True, slots=True)
class Abandon:
    """Leave the claim as it is, until its lease lapses."""


# What to do with the answer.


@dataclass(frozen=True, slots=True)
class Deliver:
    """Send the run's own answer."""


def on_acquired(claim: Claim, found: Acquired | Existing) -> Execute | Replay | Reject:
    """Decide what a request gets, from what its acquire found."""
    match found:
        case Acquired():
            return Execute(claim, found.attempt)
        case Existing():
            return _on_existing(claim, found.record)
        case _:
            assert_never(found)


def on_store_failure(
    *, unreadable: bool, policy: Literal["refuse", "pass"], waited: bool = False
) -> Unprotected | Reject:
    """Decide what a request gets if its acquire failed. An unreadable record is always refused.

    `waited` says that the store had answered before: another request runs. Passing then would run the app twice,
    knowingly.
    """
    if unreadable:
        return Reject(Reason.RECORD_UNREADABLE)
    if policy == "pass" and not waited:
        return Unprotected()
    return Reject(Reason.STORE_UNAVAILABLE, retry_after_ms=0)


def may_wait(decision: Execute | Replay | Reject | Unprotected) -> bool:
    """Tell whether asking again later can lead to another decision."""
    return isinstance(decision, Reject) and decision.reason is Reason.IN_PROGRESS


def on_ended(ending: Ending, on_error: Literal["release", "store"]) -> Complete | Release | Abandon:
    """Decide what becomes of the claim whose run ended like this."""
    match ending:
        case Answered(storable, captured):
            if storable or on_error == "store":
                return Complete(Kept.ANSWER if captured else Kept.NOTHING)
            return Release()
        case Failed():
            return Complete(Kept.FAILURE) if on_error == "store" else Release()
        case Stopped():
            return Abandon()
        case Discarded():
            return Release()
        case _:
            assert_never(ending)


def on_completed(claim: Claim, outcome: Settled | Lost, *, sent: bool) -> Deliver | Replay | Reject:
    """Decide what the owner's client gets after `complete`.

        time 0    A acquires, attempt 1
        time 30   A's lease lapses while A still runs
        time 31   B acquires the same key: a takeover, attempt 2
        time 35   A ends, and its complete is Lost: A is a late owner

    If nothing of A's answer was sent yet, A's client gets what the record says now (B's answer, or a refusal
    while B runs), so that all clients of one key hold one answer. If there is no record any more, or one of
    another request, A's client gets A's own answer.
    """
    match outcome:
        case Settled():
            return Deliver()
        case Lost(record):
            if sent or record is None or record.fingerprint != claim.fingerprint:
                return Deliver()
            return _on_existing(claim, record)
        case _:
            assert_never(outcome)


def _on_existing(claim: Claim, record: Record) -> Replay | Reject:
    if record.fingerprint != claim.operation.fingerprint:
        return Reject(Reason.REUSED)
    match record.status:
        case Status.COMPLETED:
            return Replay(record)
        case Status.NOT_KEPT:
            return Reject(Reason.NOT_KEPT)
        case Status.IN_PROGRESS:
            return _on_running(claim, record)
        case _:
            assert_never(record.status)


def _on_running(claim: Claim, record: Record) -> Reject:
    if record.remaining_ms <= 0 and not claim.may_take_over:
        return Reject(Reason.OUTCOME_UNKNOWN)
    # A third of what is left of the lease, the interval of the owner's heartbeat: by then there is an answer,
    # or the lease was extended, or it lapses soon.
    return Reject(Reason.IN_PROGRESS, retry_after_ms=max(record.remaining_ms, 0) // 3)
