"""Turns on an event loop: one at a time, in the order in which they were asked for, whoever is cancelled."""

import asyncio
from contextlib import suppress

import pytest

from idempotency_mw.asgi.lock import FairLock


async def turn(lock, name, log, gate=None):
    """Take a turn, and say when it began; it ends with the gate."""
    if not lock.acquire():
        await lock.wait()
    try:
        log.append(name)
        if gate is not None:
            await gate.wait()
    finally:
        lock.release()


async def begun(*coroutines):
    """Start each in a task, in order, and let all get as far as they can."""
    tasks = [asyncio.ensure_future(each) for each in coroutines]
    for _ in range(5):
        await asyncio.sleep(0)
    return tasks


async def test_a_turn_that_nobody_has_is_taken_at_once():
    lock = FairLock()
    for _ in range(2):
        assert lock.acquire()
        assert lock.is_locked
        lock.release()
        assert not lock.is_locked


async def test_turns_come_one_by_one_in_the_order_in_which_they_were_asked_for():
    lock, log, gate = FairLock(), [], asyncio.Event()
    tasks = await begun(turn(lock, 0, log, gate), *(turn(lock, number, log) for number in range(1, 5)))
    assert log == [0]
    gate.set()
    await asyncio.gather(*tasks)
    assert log == [0, 1, 2, 3, 4]
    assert not lock.is_locked


async def test_who_comes_between_the_end_of_a_turn_and_the_next_one_waits():
    lock, log = FairLock(), []
    assert lock.acquire()
    tasks = await begun(turn(lock, "waits", log))
    lock.release()
    assert not lock.acquire()  # it is the other's, who has not run yet
    tasks += [asyncio.ensure_future(turn(lock, "late", log))]
    await asyncio.gather(*tasks)
    assert log == ["waits", "late"]


@pytest.mark.parametrize("cancelled", [0, 1])
async def test_who_is_cancelled_while_it_waits_is_passed_over(cancelled):
    lock, log = FairLock(), []
    assert lock.acquire()
    tasks = await begun(turn(lock, 0, log), turn(lock, 1, log))
    tasks[cancelled].cancel()
    await asyncio.sleep(0)
    lock.release()
    await asyncio.wait(tasks)
    assert log == [1 - cancelled]
    assert not lock.is_locked


async def test_who_is_cancelled_as_its_turn_comes_passes_it_on():
    lock, log = FairLock(), []
    assert lock.acquire()
    tasks = await begun(turn(lock, 0, log), turn(lock, 1, log))
    lock.release()
    tasks[0].cancel()
    await asyncio.wait(tasks)
    assert tasks[0].cancelled()
    assert log == [1]
    assert not lock.is_locked


@pytest.mark.parametrize("has_come", [False, True])
@pytest.mark.parametrize("stop", [lambda each: each.close(), lambda each: each.throw(asyncio.CancelledError)])
async def test_a_coroutine_that_is_ended_without_a_task_takes_no_turn_and_ends_none_of_another(stop, has_come):
    lock = FairLock()
    assert lock.acquire()
    waiting, next_one = lock.wait(), lock.wait()
    turn, next_turn = waiting.send(None), next_one.send(None)
    if has_come:
        lock.release()
    with suppress(asyncio.CancelledError):
        stop(waiting)
    assert turn.done()
    assert next_turn.done() == has_come
    if not has_come:
        lock.release()
        assert next_turn.done()
    with suppress(StopIteration):
        next_one.send(None)
    lock.release()
    assert not lock.is_locked
