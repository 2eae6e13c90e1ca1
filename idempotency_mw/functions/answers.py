"""What a function's caller gets instead of a run: the value that a record holds, or the error that says why not.

Where HTTP has a status, a caller gets a value or an error. Nothing here runs a function or asks a store.
"""

from typing import Any, NamedTuple, assert_never

from idempotency_mw import report
from idempotency_mw.core.config import IdempotencyConfig
from idempotency_mw.core.machine import Deliver, Reason, Reject, Replay
from idempotency_mw.core.record import Record
from idempotency_mw.errors import (
    IdempotencyAlreadyInProgressError,
    IdempotencyError,
    IdempotencyExecutionFailedError,
    IdempotencyOutcomeUnknownError,
    IdempotencyPersistenceLayerError,
    IdempotencyRecordError,
    IdempotencyResponseNotKeptError,
    IdempotencyValidationError,
)
from idempotency_mw.functions.calls import KeyedCall
from idempotency_mw.functions.serializers import StoredFailure, StoredValue, decode

__all__ = ["Winners", "answer", "given", "late_owner_reply"]


class Stored(NamedTuple):
    """A record with its result, decoded."""

    record: Record
    result: StoredValue | StoredFailure


Winners = Stored | Reject
"""What the caller of a late owner gets: the result of the call that took over, or why there is none."""


def answer(decision: Replay | Reject, call: KeyedCall, config: IdempotencyConfig) -> Any:
    """Return the value that the record holds, or raise the error that says why there is none."""
    if isinstance(decision, Reject):
        raise _error(decision)
    try:
        stored = _stored(decision.record, call)
    except IdempotencyRecordError as error:
        report.store_refused(call.operation.storage_key, error)
        raise
    return given(stored, config)


def late_owner_reply(reply: Deliver | Replay | Reject, call: KeyedCall) -> Winners | None:
    """Return what a late owner's caller gets instead of the run's own result or exception; None if it keeps that.

    It keeps its own if the winner's record can't be read: the effect has happened, and its answer is at hand.
    """
    match reply:
        case Deliver():
            return None
        case Reject():
            return reply
        case Replay(record):
            try:
                return _stored(record, call)
            except IdempotencyRecordError as error:
                report.winner_unreadable(call.operation.storage_key, error)
                return None
        case _:
            assert_never(reply)


def given(winners: Winners, config: IdempotencyConfig) -> Any:
    """Return the value, through `response_hook` if there is one, or raise the failure or the refusal."""
    if isinstance(winners, Reject):
        raise _error(winners)
    result = winners.result
    if isinstance(result, StoredFailure):
        raise IdempotencyExecutionFailedError(f"the first call failed with {result.class_name}")
    return result.value if config.response_hook is None else config.response_hook(result.value, winners.record)


def _stored(record: Record, call: KeyedCall) -> Stored:
    return Stored(record, decode(record.result or b"", call.serializer))


_ERRORS: dict[Reason, tuple[type[IdempotencyError], str]] = {
    Reason.REUSED: (IdempotencyValidationError, "the key was used before, for something else"),
    Reason.OUTCOME_UNKNOWN: (IdempotencyOutcomeUnknownError, "the first call died, with an unknown outcome"),
    Reason.NOT_KEPT: (IdempotencyResponseNotKeptError, "the first call succeeded, but its result was not kept"),
}


def _error(decision: Reject) -> Exception:
    if decision.cause is not None:
        return decision.cause
    if decision.reason is Reason.IN_PROGRESS:
        seconds = decision.retry_after_seconds or 1
        return IdempotencyAlreadyInProgressError("the first call with this key still runs", seconds)
    kind, message = _ERRORS.get(decision.reason, (IdempotencyPersistenceLayerError, "the store failed"))
    return kind(message)
