"""How a run ends: results, failures, crashes, interruptions, and late owners."""

import asyncio
import logging
import signal

import pytest

from idempotency_mw import IdempotencyConfig, current_execution, idempotent, idempotent_function
from idempotency_mw.errors import (
    IdempotencyAlreadyInProgressError,
    IdempotencyExecutionFailedError,
    IdempotencyOutcomeUnknownError,
    IdempotencyRecordError,
    IdempotencyResponseNotKeptError,
)
from idempotency_mw.persistence.memory import MemoryPersistenceLayer
from tests.functions.bodies import SECRET, Context, DeclinedError
from tests.functions.conftest import Surface, closed


async def test_the_function_can_read_its_execution(surface):
    seen = []

    async def body(payload):
        seen.append(current_execution())

    await surface.call(surface.function(body), "payment-17")
    await surface.call(surface.function(body), {"b": 1, "a": 2})
    assert [(each.key, each.attempt) for each in seen] == [("payment-17", 1), ('{"a":2,"b":1}', 1)]
    assert not seen[0].discard()
    assert current_execution() is None


@pytest.mark.parametrize("on_error", ["release", "store"])
async def test_a_discarded_result_is_delivered_and_frees_the_key(surface, on_error):
    async def body(payload):
        assert current_execution().discard()
        return "once"

    function = surface.function(body, config=IdempotencyConfig(on_error=on_error))
    for _ in range(2):
        assert await surface.call(function, 1) == "once"
    assert len(surface.runs) == 2


@pytest.mark.fault(7)
async def test_after_a_crash_the_next_call_is_the_second_attempt(surface):
    attempts = []

    async def body(payload):
        attempts.append((current_execution().attempt, current_execution().previous_unfinished))
        if len(attempts) == 1:
            raise KeyboardInterrupt

    function = surface.function(body)
    with pytest.raises(KeyboardInterrupt):
        await surface.call(function, 1)
    surface.advance(31)
    await surface.call(function, 1)
    assert attempts == [(1, False), (2, True)]


@pytest.mark.fault(7)
async def test_with_after_crash_refuse_the_outcome_of_a_crashed_call_is_unknown(surface):
    async def body(payload):
        raise SystemExit

    function = surface.function(body, config=IdempotencyConfig(after_crash="refuse"))
    with pytest.raises(SystemExit):
        await surface.call(function, 1)
    surface.advance(31)
    with pytest.raises(IdempotencyOutcomeUnknownError):
        await surface.call(function, 1)


@pytest.mark.fault(8)
async def test_a_late_owner_whose_winner_still_runs_is_refused(surface):
    async def body(payload):
        if len(surface.runs) == 1:
            surface.advance(31)
            with pytest.raises(KeyboardInterrupt):
                await surface.call(function, 1)
            return "late"
        raise KeyboardInterrupt

    function = surface.function(body)
    with pytest.raises(IdempotencyAlreadyInProgressError):
        await surface.call(function, 1)


@pytest.mark.fault(8)
async def test_with_stored_failures_a_late_owner_that_fails_gets_the_winners_result(surface):
    async def body(payload):
        if len(surface.runs) == 1:
            surface.advance(31)
            assert await surface.call(function, 1) == "winner"
            raise DeclinedError
        return "winner"

    function = surface.function(body, config=IdempotencyConfig(on_error="store"))
    assert await surface.call(function, 1) == "winner"


@pytest.mark.fault(12)
async def test_the_claim_of_a_cancelled_task_lapses(store):
    layer = store.open("async")
    surface = Surface("async", layer, store)
    running = asyncio.Event()

    async def body(payload):
        running.set()
        await asyncio.sleep(0 if len(surface.runs) > 1 else 60)
        return "done"

    function = surface.function(body, config=IdempotencyConfig(expires_after_seconds=600))
    task = asyncio.ensure_future(function(1))
    await running.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    surface.advance(20)
    with pytest.raises(IdempotencyAlreadyInProgressError):
        await function(1)
    surface.advance(11)
    assert await function(1) == "done"
    await closed(layer)


@pytest.fixture
def interruptible():
    """Make SIGINT raise KeyboardInterrupt: a shell ignores SIGINT for what it starts in the background."""
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, usual)


@pytest.mark.usefixtures("interruptible")
def test_the_claim_of_a_call_interrupted_by_a_signal_lapses(store):
    layer = store.open("plain")
    surface = Surface("plain", layer, store)

    async def body(payload):
        if len(surface.runs) == 1:
            signal.raise_signal(signal.SIGINT)
        return "done"

    function = surface.function(body, config=IdempotencyConfig(expires_after_seconds=600))
    with pytest.raises(KeyboardInterrupt):
        function(1)
    surface.advance(20)
    with pytest.raises(IdempotencyAlreadyInProgressError):
        function(1)
    surface.advance(11)
    assert function(1) == "done"
    layer.close()


@pytest.mark.fault(24)
async def test_a_duplicate_waits_for_the_first_result():
    function_runs = []

    @idempotent_function(
        persistence_store=MemoryPersistenceLayer(), config=IdempotencyConfig(wait_seconds=10), key_prefix="w"
    )
    async def work(payload):
        function_runs.append(payload)
        await asyncio.sleep(0.02)
        return "done"

    assert await asyncio.gather(work(1), work(1)) == ["done", "done"]
    assert len(function_runs) == 1


# Lambda.


@pytest.mark.parametrize("event", [{"order": 1}, {}], ids=["keyed", "unkeyed"])
async def test_on_lambda_the_lease_is_the_remaining_time_also_for_nested_functions(surface, event):
    leases = []
    surface.watch(lambda verb, claim, outcome: leases.append(claim.lease_ms) if verb == "acquire" else None)
    inner = surface.function()

    async def body(event, context):
        return await surface.call(inner, 5)

    def plain(event, context):
        return inner(5)

    body = body if surface.is_async else plain
    handler = idempotent(body, persistence_store=surface.layer, key_prefix="handler")
    assert await surface.call(handler, event, Context(7)) == 5
    assert leases == ([7000, 7000] if event else [7000])
    leases.clear()
    await surface.call(surface.function(), 6)
    await surface.call(handler, {"order": 2}, None)
    assert leases == [30000, 30000, 30000]


@pytest.mark.fault(17)
async def test_a_result_that_can_not_be_stored_is_returned_reported_and_refused_to_duplicates(surface, caplog):
    result = object()

    async def body(payload):
        return result

    function = surface.function(body)
    with caplog.at_level(logging.WARNING, "idempotency_mw"):
        assert await surface.call(function, 1) is result
    assert "can't be stored" in caplog.text
    with pytest.raises(IdempotencyResponseNotKeptError):
        await surface.call(function, 1)
    assert len(surface.runs) == 1


# A late owner whose winner's record is unreadable.


def late_owner_of_an_unreadable_winner(surface, then):
    """Decorate a late owner; its winner's record is made unreadable before `then` ends the late run."""

    async def body(payload):
        if len(surface.runs) > 1:
            return "winner"
        surface.advance(31)
        assert await surface.call(function, 1) == "winner"
        surface.store.rewrite(lambda result: b"2" + result[1:])
        return then()

    function = surface.function(body, config=IdempotencyConfig(on_error="store"))
    return function


async def test_a_late_owner_gets_its_own_result_if_the_winners_is_unreadable(surface, caplog):
    function = late_owner_of_an_unreadable_winner(surface, lambda: "late")
    assert await surface.call(function, 1) == "late"
    assert "the late owner's own answer goes out: IdempotencyRecordError" in caplog.text
    with pytest.raises(IdempotencyRecordError):
        await surface.call(function, 1)
    assert len(surface.runs) == 2


async def test_a_late_owner_gets_its_own_exception_if_the_winners_result_is_unreadable(surface, caplog):
    def fail():
        raise DeclinedError(SECRET)

    with pytest.raises(DeclinedError, match=SECRET):
        await surface.call(late_owner_of_an_unreadable_winner(surface, fail), 1)
    assert "the late owner's own answer goes out: IdempotencyRecordError" in caplog.text
    assert SECRET not in caplog.text


async def test_an_owner_gets_its_own_result_if_its_record_became_unreadable(holding_bytes, caplog):
    async def body(payload):
        holding_bytes.store.plant(b"2" * 130)
        return "own"

    function = holding_bytes.function(body)
    assert await holding_bytes.call(function, 1) == "own"
    assert "complete failed" in caplog.text
    with pytest.raises(IdempotencyRecordError):
        await holding_bytes.call(function, 1)
    assert len(holding_bytes.runs) == 1


@pytest.mark.parametrize("late", ["ends", "fails"])
async def test_with_stored_failures_a_late_owner_gets_the_winners_failure(surface, late):
    async def body(payload):
        if len(surface.runs) > 1:
            raise DeclinedError
        surface.advance(31)
        with pytest.raises(DeclinedError):
            await surface.call(function, 1)
        if late == "fails":
            raise KeyError(SECRET)
        return "late"

    function = surface.function(body, config=IdempotencyConfig(on_error="store"))
    with pytest.raises(IdempotencyExecutionFailedError, match="DeclinedError") as caught:
        await surface.call(function, 1)
    # The winner's failure is not chained to the late owner's own exception.
    assert caught.value.__context__ is None


async def test_a_late_owner_gets_its_own_result_if_no_record_is_left(surface, caplog):
    async def body(payload):
        surface.advance(90_000)
        return "own"

    assert await surface.call(surface.function(body), 1) == "own"
    assert "the claim was lost" in caplog.text
    assert surface.store.lifetimes() == []
