"""A thing that is begun is seen done, however often its task is cancelled; with anyio and without."""

import asyncio
import gc
import sys

import anyio
import pytest

from idempotency_mw.errors import IdempotencyPersistenceConnectionError
from idempotency_mw.lifecycle.shielding import to_its_end, until_done


@pytest.fixture(params=["anyio", "no anyio"], autouse=True)
def shield(request, monkeypatch):
    if request.param == "no anyio":
        monkeypatch.setitem(sys.modules, "anyio", None)
    return request.param


def slow(done, *, error=None, turns=10):
    async def verb():
        done.append("begun")
        for _ in range(turns):
            await asyncio.sleep(0)
        if error is not None:
            raise error
        done.append("done")
        return "answer"

    return verb


async def test_uncancelled_it_is_the_step_and_no_task():
    done = []
    before = len(asyncio.all_tasks())

    async def verb():
        done.append(len(asyncio.all_tasks()))
        return "answer"

    assert await to_its_end(verb) == "answer"
    assert done == [before]


async def test_uncancelled_its_error_goes_on():
    error = IdempotencyPersistenceConnectionError("no")
    with pytest.raises(IdempotencyPersistenceConnectionError):
        await to_its_end(slow([], error=error))


@pytest.mark.parametrize("times", [1, 2, 30])
@pytest.mark.parametrize("moment", [1, 5, 10])
async def test_cancelled_it_is_said_again_and_the_cancellation_goes_on(times, moment):
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


async def test_cancelled_before_it_began_it_never_does():
    done = []
    task = asyncio.ensure_future(to_its_end(slow(done)))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done == []


async def test_cancelled_a_failure_of_the_second_does_not_replace_the_cancellation_and_is_not_hidden():
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


async def test_what_is_done_already_is_not_waited_for():
    future = asyncio.get_running_loop().create_future()
    future.set_result(1)
    await until_done(future)


@pytest.mark.parametrize("shield", ["anyio"], indirect=True)
async def test_within_a_scope_that_cancels_at_each_turn_it_sleeps_instead_of_spinning(shield, monkeypatch):
    waits = []
    wait = asyncio.wait

    def counted(futures):
        waits.append(1)
        return wait(futures)

    with anyio.CancelScope() as scope:
        scope.cancel()
        writing = asyncio.ensure_future(asyncio.sleep(0.03))
        monkeypatch.setattr(asyncio, "wait", counted)
        await until_done(writing)
        monkeypatch.undo()
        await anyio.sleep(0)
    assert writing.done()
    assert scope.cancelled_caught
    assert len(waits) <= 2
