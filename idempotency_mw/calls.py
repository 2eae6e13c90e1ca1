"""One call of a function under a key: what it is told apart by, and how it runs.

The blocking way stands above the async one, line for line the same.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from inspect import isawaitable, iscoroutine, iscoroutinefunction
from typing import Any, Protocol, TypeVar, assert_never, cast

from idempotency_mw.answers import answer, instead_of_own
from idempotency_mw.core.config import IdempotencyConfig
from idempotency_mw.core.identity import canonical
from idempotency_mw.core.machine import (
    Answered,
    Deliver,
    Discarded,
    Ending,
    Execute,
    Failed,
    Kept,
    Reject,
    Replay,
    Unprotected,
)
from idempotency_mw.core.plain import is_missing, plain_payload
from idempotency_mw.core.record import Claim, Operation
from idempotency_mw.errors import IdempotencyConfigurationError, IdempotencyKeyError
from idempotency_mw.execution import Executing, Execution
from idempotency_mw.heartbeat import AsyncHeartbeat, Heartbeat
from idempotency_mw.operations import namespace_of, operation_of
from idempotency_mw.serializers import OutputSerializer, encode_failure, encode_value

__all__ = ["Call", "handle", "handle_async", "protected", "protected_async", "runs_async"]

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
        return _prepared(self, config)[0]


def _prepared(call: Call, config: IdempotencyConfig) -> tuple[Operation, Any]:
    """Return the call's operation, and its key as plain data."""
    key = plain_payload(call.key)
    if is_missing(key):
        raise IdempotencyKeyError("the idempotency key is empty")
    return operation_of(namespace_of(config, call.name), key, plain_payload(call.validated)), key


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
    operation, key = _prepared(call, handler.config)
    return protected(handler, operation, key, call.output_serializer, function)


def protected(
    handler: _Blocking,
    operation: Operation,
    key: Any,
    serializer: OutputSerializer | None,
    function: Callable[[], Answer],
) -> Answer:
    """Do so for an operation, and for its key as plain data, which the function can ask for."""
    decision = handler.begin(operation)
    match decision:
        case Execute():
            execution = _execution(key, decision)
            return _run(handler, decision.claim, execution, serializer, function)
        case Unprotected():
            return function()
        case Replay() | Reject():
            return cast("Answer", answer(decision, operation, serializer, handler.config))
        case _:
            assert_never(decision)


def _run(
    handler: _Blocking,
    claim: Claim,
    execution: Execution,
    serializer: OutputSerializer | None,
    function: Callable[[], Answer],
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
        other = instead_of_own(reply, claim, serializer)
        if other is None:
            raise
    else:
        heartbeat.stop()
        reply = handler.settle(claim, _ending(execution, _WHOLE), lambda _: encode_value(result, serializer))
        other = instead_of_own(reply, claim, serializer)
        if other is None:
            return result
    finally:
        # Interrupted, the claim is left as it is: what the function started may still go on.
        heartbeat.stop()
    return cast("Answer", answer(other, claim.operation, serializer, handler.config))


async def handle_async(handler: _Async, call: Call, function: Callable[[], Awaitable[Answer]]) -> Answer:
    """Run the function under the call's key, or return what the record holds; a refusal is raised."""
    operation, key = _prepared(call, handler.config)
    return await protected_async(handler, operation, key, call.output_serializer, function)


async def protected_async(
    handler: _Async,
    operation: Operation,
    key: Any,
    serializer: OutputSerializer | None,
    function: Callable[[], Awaitable[Answer]],
) -> Answer:
    """Do so for an operation, and for its key as plain data, which the function can ask for."""
    decision = await handler.begin(operation)
    match decision:
        case Execute():
            execution = _execution(key, decision)
            return await _run_async(handler, decision.claim, execution, serializer, function)
        case Unprotected():
            return await function()
        case Replay() | Reject():
            return cast("Answer", answer(decision, operation, serializer, handler.config))
        case _:
            assert_never(decision)


async def _run_async(
    handler: _Async,
    claim: Claim,
    execution: Execution,
    serializer: OutputSerializer | None,
    function: Callable[[], Awaitable[Answer]],
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
        other = instead_of_own(reply, claim, serializer)
        if other is None:
            raise
    else:
        heartbeat.stop()
        reply = await handler.settle(claim, _ending(execution, _WHOLE), lambda _: encode_value(result, serializer))
        other = instead_of_own(reply, claim, serializer)
        if other is None:
            return result
    finally:
        # Cancelled or interrupted, the claim is left as it is: what the function started may still go on.
        heartbeat.stop()
    return cast("Answer", answer(other, claim.operation, serializer, handler.config))


def _execution(key: Any, started: Execute) -> Execution:
    """Return what the function can ask while it runs."""
    shown = key if isinstance(key, str) else canonical(key).decode("ascii")
    return Execution(key=shown, storage_key=started.claim.operation.storage_key, attempt=started.attempt)


def runs_async(function: object) -> bool:
    """Tell whether to call it makes a coroutine; of a callable object, its method says so."""
    while isinstance(function, partial):
        function = function.func
    return iscoroutinefunction(function) or iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004


_DATA = frozenset((dict, list, str, int, float, bool, type(None)))
"""Most results. To find out of any other that it has not to be awaited takes long."""


def _ended(result: Answer, execution: Execution) -> Answer:
    """Return the result, unless it is still to come: of a lambda that calls an async function, say.

    Only its call can tell. A coroutine has done nothing yet, and is closed.
    """
    if type(result) in _DATA or not isawaitable(result):
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
