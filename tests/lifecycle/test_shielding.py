"""A step that has begun is finished although its task is cancelled, once or often; with anyio and without."""

import asyncio
import gc
import sys

import anyio
import pytest

from idempotency_mw.errors import IdempotencyPersistenceConnectionError
from idempotency_mw.lifecycle.shielding import to_its_end, until_done


@pytest.fixture(params=["anyio", "no anyio"], autouse=True)
def shield(request, monkeypatch):
    """Run each test with anyio installed, and as if it were not."""
    if request.param == "no anyio":
        monkeypatch.setitem(sys.modules, "anyio", None)
    return request.param


def slow(done, *, error=None, turns=10):
    """Return a step that suspends for this many turns of the loop, and notes in `done` how far it came."""

    async def step():
        done.append("begun")
        for _ in range(turns):
            await asyncio.sleep(0)
        if error is not None:
            raise error
        done.append("done")
        return "answer"

    return step


async def test_a_step_that_is_not_cancelled_runs_without_a_task_of_its_own():
    running_in = []

    async def step():
        running_in.append(asyncio.current_task())
        return "answer"

    assert await to_its_end(step) == "answer"
    assert running_in == [asyncio.current_task()]


async def test_an_error_of_a_step_that_is_not_cancelled_reaches_the_caller():
    error = IdempotencyPersistenceConnectionError("no")
    with pytest.raises(IdempotencyPersistenceConnectionError):
        await to_its_end(slow([], error=error))


@pytest.mark.parametrize("times", [1, 2, 30])
@pytest.mark.parametrize("moment", [1, 5, 10])
async def test_a_cancelled_step_is_taken_again_to_its_end_and_the_task_stays_cancelled(times, moment):
    done = []
    task = asyncio.ensure_future(to_its_end(slow(done)))
    for _ in range(moment):
        await asyncio.sleep(0)
    for _ in range(times):
        task.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done == ["begun", "begun", "done"]
    assert task.cancelled()


async def test_a_task_that_is_cancelled_before_it_starts_takes_no_step():
    done = []
    task = asyncio.ensure_future(to_its_end(slow(done)))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done == []


async def test_an_error_of_the_second_step_does_not_replace_the_cancellation_but_reaches_the_loop():
    told = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: told.append(context["exception"]))
    error = KeyError("a bug")
    task = asyncio.ensure_future(to_its_end(slow([], error=error)))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    del task
    gc.collect()
    assert told == [error]


async def test_a_future_that_is_done_already_is_not_waited_for():
    future = asyncio.get_running_loop().create_future()
    future.set_result(1)
    await until_done(future)


@pytest.mark.parametrize("shield", ["anyio"], indirect=True)
async def test_in_a_scope_that_cancels_at_each_turn_it_waits_once_instead_of_spinning(shield, monkeypatch):
    waits = []
    wait = asyncio.wait

    def counted(futures):
        waits.append(1)
        return wait(futures)

    with anyio.CancelScope() as scope:
        scope.cancel()
        writing = asyncio.ensure_future(slow([], turns=50)())
        monkeypatch.setattr(asyncio, "wait", counted)
        await until_done(writing)
        monkeypatch.undo()
        await anyio.sleep(0)
    assert writing.done()
    assert scope.cancelled_caught
    assert len(waits) <= 2
