"""One call of a function under a key: what it is told apart by, how it runs, and what its caller gets.

A caller gets a value or an error, where HTTP has a status. The blocking way stands above the async one, line for
line the same.
"""

import math
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from inspect import isawaitable, iscoroutine, iscoroutinefunction
from typing import Any, Protocol, TypeVar, assert_never, cast

from idempotency_mw import report
from idempotency_mw.core.config import IdempotencyConfig
from idempotency_mw.core.identity import canonical, digest, text
from idempotency_mw.core.machine import (
    Answered,
    Deliver,
    Discarded,
    Ending,
    Execute,
    Failed,
    Kept,
    Reason,
    Reject,
    Replay,
    Unprotected,
)
from idempotency_mw.core.plain import is_missing, plain_payload
from idempotency_mw.core.record import Claim, Operation
from idempotency_mw.errors import (
    IdempotencyAlreadyInProgressError,
    IdempotencyConfigurationError,
    IdempotencyError,
    IdempotencyExecutionFailedError,
    IdempotencyKeyError,
    IdempotencyOutcomeUnknownError,
    IdempotencyPersistenceLayerError,
    IdempotencyRecordError,
    IdempotencyResponseNotKeptError,
    IdempotencyValidationError,
)
from idempotency_mw.execution import Executing, Execution
from idempotency_mw.heartbeat import AsyncHeartbeat, Heartbeat
from idempotency_mw.serializers import OutputSerializer, decode, encode_failure, encode_value

__all__ = ["Call", "handle", "handle_async", "runs_async"]

Answer = TypeVar("Answer")
Encode = Callable[[Kept], bytes | None]


@dataclass(frozen=True, slots=True)
class Call:
    """What tells one call from others. Key and `validated` are text, or any data that a payload may be."""

    key: Any = field(repr=False)
    name: str = ""
    """A namespace for the key: the function, say."""
    validated: Any = field(default=None, repr=False)
    """What must be equal for a retry to be the same call."""
    output_serializer: OutputSerializer | None = None

    def operation(self, config: IdempotencyConfig) -> Operation:
        """Return the digests that a store knows the call by; `IdempotencyKeyError` where there is no key."""
        key = plain_payload(self.key)
        if is_missing(key):
            raise IdempotencyKeyError("the idempotency key is empty")
        validated = canonical(plain_payload(self.validated))
        return Operation(
            storage_key=digest((b"function", text(config.key_prefix), text(self.name), canonical(key))),
            fingerprint=digest((b"function", validated)),
        )

    def execution(self, operation: Operation, attempt: int) -> Execution:
        """Return what the function can ask while it runs."""
        key = plain_payload(self.key)
        shown = key if isinstance(key, str) else canonical(key).decode("ascii")
        return Execution(key=shown, storage_key=operation.storage_key, attempt=attempt)


class _Blocking(Protocol):
    config: IdempotencyConfig

    def begin(self, operation: Operation) -> Execute | Replay | Reject | Unprotected: ...
    def heartbeat(self, claim: Claim) -> Heartbeat: ...
    def settle(self, claim: Claim, ending: Ending, encode: Encode) -> Deliver | Replay | Reject: ...


class _Async(Protocol):
    config: IdempotencyConfig

    async def begin(self, operation: Operation) -> Execute | Replay | Reject | Unprotected: ...
    def heartbeat(self, claim: Claim) -> AsyncHeartbeat: ...
    async def settle(self, claim: Claim, ending: Ending, encode: Encode) -> Deliver | Replay | Reject: ...


def handle(handler: _Blocking, call: Call, function: Callable[[], Answer]) -> Answer:
    """Run the function under the call's key, or return what the record holds; a refusal is raised."""
    if runs_async(function):
        raise IdempotencyConfigurationError("an async function needs an AsyncIdempotencyHandler")
    operation = call.operation(handler.config)
    decision = handler.begin(operation)
    match decision:
        case Execute(claim, attempt):
            return _run(handler, call, claim, call.execution(operation, attempt), function)
        case Unprotected():
            return function()
        case Replay() | Reject():
            return cast("Answer", _answer(decision, call, handler.config))
        case _:
            assert_never(decision)


def _run(
    handler: _Blocking, call: Call, claim: Claim, execution: Execution, function: Callable[[], Answer]
) -> Answer:
    heartbeat = handler.heartbeat(claim)
    heartbeat.start()
    try:
        with Executing(execution):
            result = _ended(function(), execution)
    except Exception as error:
        heartbeat.stop()
        failure = encode_failure(error)
        reply = handler.settle(claim, _ending(execution, Failed()), lambda _: failure)
        instead = _instead(reply, claim, call)
        if instead is None:
            raise
    else:
        heartbeat.stop()
        reply = handler.settle(
            claim, _ending(execution, _WHOLE), lambda _: encode_value(result, call.output_serializer)
        )
        instead = _instead(reply, claim, call)
        if instead is None:
            return result
    finally:
        # Interrupted, the claim is left as it is: what the function started may still go on.
        heartbeat.stop()
    return cast("Answer", _answer(instead, call, handler.config))


async def handle_async(handler: _Async, call: Call, function: Callable[[], Awaitable[Answer]]) -> Answer:
    """Run the function under the call's key, or return what the record holds; a refusal is raised."""
    operation = call.operation(handler.config)
    decision = await handler.begin(operation)
    match decision:
        case Execute(claim, attempt):
            return await _run_async(handler, call, claim, call.execution(operation, attempt), function)
        case Unprotected():
            return await function()
        case Replay() | Reject():
            return cast("Answer", _answer(decision, call, handler.config))
        case _:
            assert_never(decision)


async def _run_async(
    handler: _Async, call: Call, claim: Claim, execution: Execution, function: Callable[[], Awaitable[Answer]]
) -> Answer:
    heartbeat = handler.heartbeat(claim)
    heartbeat.start()
    try:
        with Executing(execution):
            result = await function()
    except Exception as error:
        heartbeat.stop()
        failure = encode_failure(error)
        reply = await handler.settle(claim, _ending(execution, Failed()), lambda _: failure)
        instead = _instead(reply, claim, call)
        if instead is None:
            raise
    else:
        heartbeat.stop()
        reply = await handler.settle(
            claim, _ending(execution, _WHOLE), lambda _: encode_value(result, call.output_serializer)
        )
        instead = _instead(reply, claim, call)
        if instead is None:
            return result
    finally:
        # Cancelled or interrupted, the claim is left as it is: what the function started may still go on.
        heartbeat.stop()
    return cast("Answer", _answer(instead, call, handler.config))


def runs_async(function: object) -> bool:
    """Tell whether to call it makes a coroutine; of a callable object, its method says so."""
    while isinstance(function, partial):
        function = function.func
    return iscoroutinefunction(function) or iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004


def _ended(result: Answer, execution: Execution) -> Answer:
    """Return the result, unless it is still to come: of a lambda that calls an async function, say.

    Only its call can tell. A coroutine has done nothing yet, and is closed.
    """
    if not isawaitable(result):
        return result
    if iscoroutine(result):
        result.close()
    execution.discard()
    raise IdempotencyConfigurationError(
        "the function is plain, and what it returned has to be awaited: make it async"
    )


_WHOLE = Answered(storable=True, captured=True)


def _ending(execution: Execution, ending: Ending) -> Ending:
    """Return how the run ended, and let nothing be discarded from here on."""
    execution.close()
    return Discarded() if execution.discarded else ending


def _instead(reply: Deliver | Replay | Reject, claim: Claim, call: Call) -> Replay | Reject | None:
    """Return what a late owner's caller gets in place of the run's own result or exception, if anything.

    A winner's record that can't be read is nothing: the effect has happened, and its answer is at hand.
    """
    if isinstance(reply, Deliver):
        return None
    if isinstance(reply, Replay):
        try:
            with suppress(IdempotencyExecutionFailedError):  # a stored failure can be read
                decode(reply.record.result or b"", call.output_serializer)
        except IdempotencyRecordError as error:
            report.winner_unreadable(claim.storage_key, error)
            return None
    return reply


def _answer(decision: Replay | Reject, call: Call, config: IdempotencyConfig) -> Any:
    """Return the value that the record holds, or raise why there is none."""
    if isinstance(decision, Reject):
        raise _error(decision)
    record = decision.record
    try:
        value = decode(record.result or b"", call.output_serializer)
    except IdempotencyRecordError as error:
        report.store_refused(call.operation(config).storage_key, error)
        raise
    return value if config.response_hook is None else config.response_hook(value, record)


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
