"""The lock of the event loop: one holder at a time, in the order of asking, also if some are cancelled."""

import asyncio
from contextlib import suppress

import pytest

from idempotency_mw.asgi.lock import FairLock


async def hold(lock, name, log, gate=None):
    """Take the lock, log the name, and release the lock once the gate is open."""
    if not lock.acquire():
        await lock.wait()
    try:
        log.append(name)
        if gate is not None:
            await gate.wait()
    finally:
        lock.release()


async def begun(*coroutines):
    """Start each in a task, in order, and let all run as far as they can."""
    tasks = [asyncio.ensure_future(each) for each in coroutines]
    for _ in range(5):
        await asyncio.sleep(0)
    return tasks


async def test_a_free_lock_is_taken_at_once():
    lock = FairLock()
    for _ in range(2):
        assert lock.acquire()
        assert lock.is_locked
        lock.release()
        assert not lock.is_locked


async def test_waiting_tasks_get_the_lock_in_the_order_of_asking():
    lock, log, gate = FairLock(), [], asyncio.Event()
    tasks = await begun(hold(lock, 0, log, gate), *(hold(lock, number, log) for number in range(1, 5)))
    assert log == [0]
    gate.set()
    await asyncio.gather(*tasks)
    assert log == [0, 1, 2, 3, 4]
    assert not lock.is_locked


async def test_a_newcomer_can_not_take_a_lock_that_was_handed_to_a_waiting_task():
    lock, log = FairLock(), []
    assert lock.acquire()
    tasks = await begun(hold(lock, "waits", log))
    lock.release()
    assert not lock.acquire()  # the waiting task owns the lock although it has not run yet
    tasks += [asyncio.ensure_future(hold(lock, "late", log))]
    await asyncio.gather(*tasks)
    assert log == ["waits", "late"]


@pytest.mark.parametrize("cancelled", [0, 1])
async def test_a_task_cancelled_while_it_waits_is_skipped(cancelled):
    lock, log = FairLock(), []
    assert lock.acquire()
    tasks = await begun(hold(lock, 0, log), hold(lock, 1, log))
    tasks[cancelled].cancel()
    await asyncio.sleep(0)
    lock.release()
    await asyncio.wait(tasks)
    assert log == [1 - cancelled]
    assert not lock.is_locked


async def test_a_task_cancelled_when_it_was_given_the_lock_hands_it_on():
    lock, log = FairLock(), []
    assert lock.acquire()
    tasks = await begun(hold(lock, 0, log), hold(lock, 1, log))
    lock.release()
    tasks[0].cancel()
    await asyncio.wait(tasks)
    assert tasks[0].cancelled()
    assert log == [1]
    assert not lock.is_locked


@pytest.mark.parametrize("has_come", [False, True])
@pytest.mark.parametrize("stop", [lambda each: each.close(), lambda each: each.throw(asyncio.CancelledError)])
async def test_a_waiting_coroutine_that_is_closed_neither_keeps_the_lock_nor_releases_it_for_another(
    stop, has_come
):
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
