"""One run of a function under a claim: begin, run, settle, and what its caller gets.

The blocking way stands above the async one and equals it line by line.
"""

from collections.abc import Awaitable, Callable
from functools import partial
from inspect import isawaitable, iscoroutine, iscoroutinefunction
from typing import TypeVar, assert_never, cast

from idempotency_mw.core.machine import (
    Answered,
    Discarded,
    Ending,
    Execute,
    Failed,
    Kept,
    Reject,
    Replay,
    Stopped,
    Unprotected,
)
from idempotency_mw.errors import IdempotencyConfigurationError
from idempotency_mw.execution import Discard, Executing, Execution
from idempotency_mw.functions.answers import answer, given, late_owner_reply
from idempotency_mw.functions.calls import KeyedCall
from idempotency_mw.functions.serializers import encode_failure, encode_value
from idempotency_mw.lifecycle.claims import AsyncClaimLifecycle, ClaimLifecycle

__all__ = ["run", "run_async", "runs_async"]

Answer = TypeVar("Answer")


def run(lifecycle: ClaimLifecycle, call: KeyedCall, function: Callable[[], Answer]) -> Answer:
    """Run the function under the call's key, or return what the record holds. A refusal is raised as its error."""
    decision = lifecycle.begin(call.operation)
    match decision:
        case Execute():
            return _run(lifecycle, decision, call, function)
        case Unprotected():
            return function()
        case Replay() | Reject():
            return cast("Answer", answer(decision, call, lifecycle.config))
        case _:
            assert_never(decision)


def _run(lifecycle: ClaimLifecycle, decision: Execute, call: KeyedCall, function: Callable[[], Answer]) -> Answer:
    claim, discard = decision.claim, Discard()
    execution = _execution(call, decision, discard)
    heartbeat = lifecycle.heartbeat(claim)
    heartbeat.start()
    try:
        with Executing(execution):
            result = _checked(function(), discard)
    except Exception as error:
        heartbeat.stop()
        failure = encode_failure(error)
        reply = lifecycle.settle(claim, _ended(discard, Failed()), lambda _: failure)
        winners = late_owner_reply(reply, call)
        if winners is None:
            raise
    except BaseException:
        # Interrupted: work that the function started may still go on.
        lifecycle.settle(claim, Stopped(), _nothing)
        raise
    else:
        heartbeat.stop()
        reply = lifecycle.settle(claim, _ended(discard, _WHOLE), lambda _: encode_value(result, call.serializer))
        winners = late_owner_reply(reply, call)
        if winners is None:
            return result
    finally:
        heartbeat.stop()
    # Outside of `except`, so that a stored failure does not carry the run's own exception as its `__context__`.
    return cast("Answer", given(winners, lifecycle.config))


async def run_async(
    lifecycle: AsyncClaimLifecycle, call: KeyedCall, function: Callable[[], Awaitable[Answer]]
) -> Answer:
    """As `run`."""
    decision = await lifecycle.begin(call.operation)
    match decision:
        case Execute():
            return await _run_async(lifecycle, decision, call, function)
        case Unprotected():
            return await function()
        case Replay() | Reject():
            return cast("Answer", answer(decision, call, lifecycle.config))
        case _:
            assert_never(decision)


async def _run_async(
    lifecycle: AsyncClaimLifecycle, decision: Execute, call: KeyedCall, function: Callable[[], Awaitable[Answer]]
) -> Answer:
    claim, discard = decision.claim, Discard()
    execution = _execution(call, decision, discard)
    heartbeat = lifecycle.heartbeat(claim)
    heartbeat.start()
    try:
        with Executing(execution):
            result = await function()
    except Exception as error:
        heartbeat.stop()
        failure = encode_failure(error)
        reply = await lifecycle.settle(claim, _ended(discard, Failed()), lambda _: failure)
        winners = late_owner_reply(reply, call)
        if winners is None:
            raise
    except BaseException:
        # Cancelled or interrupted: work that the function started may still go on.
        await lifecycle.settle(claim, Stopped(), _nothing)
        raise
    else:
        heartbeat.stop()
        reply = await lifecycle.settle(
            claim, _ended(discard, _WHOLE), lambda _: encode_value(result, call.serializer)
        )
        winners = late_owner_reply(reply, call)
        if winners is None:
            return result
    finally:
        heartbeat.stop()
    # Outside of `except`, as above.
    return cast("Answer", given(winners, lifecycle.config))


def _execution(call: KeyedCall, started: Execute, discard: Discard) -> Execution:
    """Return what the function can ask while it runs."""
    storage_key = call.operation.storage_key
    return Execution(key=call.shown_key, storage_key=storage_key, attempt=started.attempt, discard=discard)


def runs_async(function: object) -> bool:
    """Tell whether calling it makes a coroutine. For a callable object, its `__call__` decides."""
    while isinstance(function, partial):
        function = function.func
    return iscoroutinefunction(function) or iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004


_DATA = frozenset((dict, list, str, int, float, bool, type(None)))
"""Fast path: `isawaitable` is slow, and these types never are awaitable."""


def _checked(result: Answer, discard: Discard) -> Answer:
    """Return the result of a plain function, unless it has to be awaited: a lambda may call an async function.

    Only its call can tell. A coroutine that was not awaited has done nothing yet, and is closed.
    """
    if type(result) in _DATA or not isawaitable(result):
        return result
    if iscoroutine(result):
        result.close()
    discard.ask()
    raise IdempotencyConfigurationError(
        "the function is plain, and what it returned has to be awaited: make it async"
    )


_WHOLE = Answered(storable=True, captured=True)


def _ended(discard: Discard, ending: Ending) -> Ending:
    """Return how the run ended: as given, unless the function discarded its result in time."""
    return Discarded() if discard.close() else ending


def _nothing(_kept: Kept) -> None:
    """Encode nothing: what was stopped keeps no result."""
