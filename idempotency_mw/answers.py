"""What a function's caller gets in place of a run: the value that a record holds, or the error that says why not.

A caller gets a value or an error, where HTTP has a status. Nothing here runs anything or asks a store.
"""

import math
from contextlib import suppress
from typing import Any

from idempotency_mw import report
from idempotency_mw.core.config import IdempotencyConfig
from idempotency_mw.core.machine import Deliver, Reason, Reject, Replay
from idempotency_mw.core.record import Claim, Operation
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
from idempotency_mw.serializers import OutputSerializer, decode

__all__ = ["answer", "instead_of_own"]


def answer(
    decision: Replay | Reject, operation: Operation, serializer: OutputSerializer | None, config: IdempotencyConfig
) -> Any:
    """Return the value that the record holds, or raise why there is none."""
    if isinstance(decision, Reject):
        raise _error(decision)
    record = decision.record
    try:
        value = decode(record.result or b"", serializer)
    except IdempotencyRecordError as error:
        report.store_refused(operation.storage_key, error)
        raise
    return value if config.response_hook is None else config.response_hook(value, record)


def instead_of_own(
    reply: Deliver | Replay | Reject, claim: Claim, serializer: OutputSerializer | None
) -> Replay | Reject | None:
    """Return what a late owner's caller gets in place of the run's own result or exception, if anything.

    A winner's record that can't be read is nothing: the effect has happened, and its answer is at hand.
    """
    if isinstance(reply, Deliver):
        return None
    if isinstance(reply, Replay):
        try:
            with suppress(IdempotencyExecutionFailedError):  # a stored failure can be read
                decode(reply.record.result or b"", serializer)
        except IdempotencyRecordError as error:
            report.winner_unreadable(claim.storage_key, error)
            return None
    return reply


_ERRORS: dict[Reason, tuple[type[IdempotencyError], str]] = {
    Reason.REUSED: (IdempotencyValidationError, "the key was used before, for something else"),
    Reason.OUTCOME_UNKNOWN: (IdempotencyOutcomeUnknownError, "the first call died, with an unknown outcome"),
    Reason.NOT_KEPT: (IdempotencyResponseNotKeptError, "the first call succeeded, but its result was not kept"),
}


def _error(decision: Reject) -> Exception:
    if decision.cause is not None:
        return decision.cause
    if decision.reason is Reason.IN_PROGRESS:
        seconds = max(math.ceil((decision.retry_after_ms or 0) / 1000), 1)
        return IdempotencyAlreadyInProgressError("the first call with this key still runs", seconds)
    kind, message = _ERRORS.get(decision.reason, (IdempotencyPersistenceLayerError, "the store failed"))
    return kind(message)
