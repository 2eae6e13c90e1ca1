"""The heartbeats of asyncio code: one timer on each event loop, and a task only while a lease is extended."""

import asyncio
import gc
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from contextvars import ContextVar

import pytest

from idempotency_mw import IdempotencyConfig
from idempotency_mw.lifecycle.async_heartbeat import AsyncHeartbeat, AsyncPulse
from tests.lifecycle.scripted import CLAIM, DOWN, AsyncScriptedStore, claim_of

BEAT = 10
"""Seconds between two beats, on the clock of the loop. No test waits for them."""

TURNS = 10
"""How many turns of the loop a beat gets. It takes about three: the timer fires, the task starts, it ends."""


class LoopClock:
    """The time of one event loop, which passes only by `advance`; and the timers that were set on the loop."""

    def __init__(self, loop):
        self._now = 1000.0  # whole seconds, so that sums are exact
        self._timers = []
        call_at = loop.call_at

        def collecting(when, *arguments, **options):
            timer = call_at(when, *arguments, **options)
            self._timers.append(timer)
            return timer

        loop.time = lambda: self._now
        loop.call_at = collecting

    @property
    def armed(self):
        """How many timers are still to fire."""
        return sum(not timer.cancelled() and timer.when() > self._now for timer in self._timers)

    async def advance(self, seconds):
        """Let the time pass, and the loop do what is due then."""
        self._now += seconds
        for _ in range(TURNS):
            await asyncio.sleep(0)


@pytest.fixture
async def clock():
    return LoopClock(asyncio.get_running_loop())


def heartbeat(store, claim=CLAIM, pulse=None, **options):
    return AsyncHeartbeat(store, claim, IdempotencyConfig(**options), pulse or AsyncPulse(BEAT))


async def test_no_task_exists_between_two_beats(clock):
    store = AsyncScriptedStore()
    before = asyncio.all_tasks()
    beating = heartbeat(store)
    beating.start()
    await clock.advance(BEAT - 1)
    assert (store.extended, asyncio.all_tasks()) == ([], before)
    await clock.advance(1)
    assert (store.extended, asyncio.all_tasks()) == ([CLAIM], before)
    beating.stop()


async def test_it_beats_until_it_is_stopped(clock):
    store = AsyncScriptedStore(extend=[DOWN, True])
    beating = heartbeat(store)
    beating.start()
    for beats in range(1, 4):
        await clock.advance(BEAT)
        assert len(store.extended) == beats
    beating.stop()
    await clock.advance(BEAT)
    assert len(store.extended) == 3


async def test_with_the_heartbeat_switched_off_no_timer_is_set(clock):
    store = AsyncScriptedStore()
    beating = heartbeat(store, heartbeat=False)
    beating.start()
    assert clock.armed == 0
    await clock.advance(BEAT)
    beating.stop()
    assert store.extended == []


async def test_for_a_lost_claim_no_further_timer_is_set(clock, caplog):
    store = AsyncScriptedStore(extend=[False])
    heartbeat(store).start()
    await clock.advance(BEAT)
    assert clock.armed == 0
    await clock.advance(BEAT)
    assert store.extended == [CLAIM]
    assert caplog.text.count("lost") == 1


async def test_an_extension_that_is_under_way_at_stop_is_the_last(clock):
    gate = asyncio.Event()

    class Slow(AsyncScriptedStore):
        async def extend(self, claim):
            extended = await super().extend(claim)
            await gate.wait()
            return extended

    store = Slow()
    beating = heartbeat(store)
    beating.start()
    await clock.advance(BEAT)
    assert store.extended == [CLAIM]
    beating.stop()
    gate.set()
    await clock.advance(BEAT)
    assert store.extended == [CLAIM]
    assert clock.armed == 0


async def test_stop_before_start_does_nothing():
    heartbeat(AsyncScriptedStore()).stop()


async def test_one_timer_beats_for_all_claims_of_a_lifecycle(clock):
    store, pulse = AsyncScriptedStore(), AsyncPulse(BEAT)
    claims = [claim_of(number) for number in range(20)]
    beating = [heartbeat(store, claim, pulse) for claim in claims]
    for each in beating[:10]:
        each.start()
    await clock.advance(4)
    for each in beating[10:]:
        each.start()
    assert clock.armed == 1
    await clock.advance(BEAT - 4)
    assert store.extended == claims[:10]
    await clock.advance(4)
    assert store.extended == claims
    assert clock.armed == 1
    for each in beating:
        each.stop()
    await clock.advance(BEAT)
    assert (store.extended, clock.armed) == (claims, 0)


async def test_claims_that_end_early_leave_one_timer_until_it_fires_or_rest_removes_it(clock):
    store, pulse = AsyncScriptedStore(), AsyncPulse(BEAT)
    pulse.line().rest()
    for number in range(5):
        each = heartbeat(store, claim_of(number), pulse)
        each.start()
        pulse.line().rest()
        assert clock.armed == 1
        each.stop()
        assert clock.armed == 1
    await clock.advance(BEAT)
    assert clock.armed == 0
    each = heartbeat(store, CLAIM, pulse)
    each.start()
    each.stop()
    pulse.line().rest()
    assert (clock.armed, store.extended) == (0, [])


async def test_a_store_that_hangs_for_one_claim_does_not_delay_the_beats_of_others(clock):
    class Hanging(AsyncScriptedStore):
        async def extend(self, claim):
            extended = await super().extend(claim)
            if claim is CLAIM:
                await asyncio.Event().wait()
            return extended

    store, pulse = Hanging(), AsyncPulse(BEAT)
    before = asyncio.all_tasks()
    stuck, other = heartbeat(store, CLAIM, pulse), heartbeat(store, claim_of(1), pulse)
    stuck.start()
    other.start()
    for _ in range(3):
        await clock.advance(BEAT)
    assert store.extended == [CLAIM, *3 * [claim_of(1)]]
    stuck.stop()
    other.stop()
    gc.collect()  # the loop holds its tasks weakly: a task that nobody else held would be gone
    (extending,) = asyncio.all_tasks() - before
    extending.cancel()
    await asyncio.wait([extending])


def test_each_loop_has_a_timer_and_a_closed_loop_is_freed_once_its_thread_runs_another():
    store, pulse = AsyncScriptedStore(), AsyncPulse(BEAT)
    claims = [claim_of(number) for number in range(4)]
    beating = [heartbeat(store, claim, pulse) for claim in claims]

    async def beaten(clock, times, starting=None):
        if starting is not None:
            starting.start()
        for _ in range(times):
            await clock.advance(BEAT)

    async def beaten_on_a_new_loop(times, starting):
        loop = asyncio.get_running_loop()
        await beaten(LoopClock(loop), times, starting)
        return weakref.ref(loop)

    first = asyncio.new_event_loop()
    clock = LoopClock(first)
    first.run_until_complete(beaten(clock, 1, beating.pop(0)))
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, beaten_on_a_new_loop(2, beating.pop(0))).result(5)
    first.run_until_complete(beaten(clock, 2))  # it goes on, although another loop came in between
    assert [store.extended.count(claim) for claim in claims] == [3, 2, 0, 0]
    first.close()
    closed = weakref.ref(first)
    del first, clock
    second = asyncio.run(beaten_on_a_new_loop(2, beating.pop(0)))
    gc.collect()
    assert closed() is None
    asyncio.run(beaten_on_a_new_loop(1, beating.pop(0)))
    gc.collect()
    assert second() is None
    assert [store.extended.count(claim) for claim in claims] == [3, 2, 2, 1]


@pytest.mark.parametrize("threads", [1, 2])
def test_loops_that_run_alternately_have_one_timer_each(threads):
    pulse = AsyncPulse(BEAT)

    async def run():
        each = heartbeat(AsyncScriptedStore(), CLAIM, pulse)
        each.start()
        each.stop()

    armed, loops = [], [asyncio.new_event_loop() for _ in range(2)]
    clocks = [LoopClock(loop) for loop in loops]
    with ThreadPoolExecutor(1) as first, ThreadPoolExecutor(1) as second:
        for _ in range(3):
            for loop, clock, thread in zip(loops, clocks, (first, second if threads == 2 else first), strict=True):
                thread.submit(loop.run_until_complete, run()).result(5)
                armed.append(clock.armed)
    for loop in loops:
        loop.close()
    assert armed == [1] * 6
    # A thread that changes loops removes the idle timer of the loop before. It touches no loop of another thread.
    assert [clock.armed for clock in clocks] == ([0, 1] if threads == 1 else [1, 1])


async def test_a_beat_has_the_context_of_its_request(clock):
    seen: list[str] = []
    request: ContextVar[str] = ContextVar("request")

    class Seeing(AsyncScriptedStore):
        async def extend(self, claim):
            seen.append(request.get("none"))
            return await super().extend(claim)

    pulse = AsyncPulse(BEAT)
    for name in ("first", "second"):
        request.set(name)
        heartbeat(Seeing(extend=[False]), CLAIM, pulse).start()
    request.set("another")
    await clock.advance(BEAT)
    assert seen == ["first", "second"]


@contextmanager
def tasks_made_by(factory):
    """Set the task factory of the running loop."""
    loop = asyncio.get_running_loop()
    loop.set_task_factory(factory)
    try:
        yield
    finally:
        loop.set_task_factory(None)


async def test_a_task_factory_that_takes_no_context_works(clock):
    store = AsyncScriptedStore()
    beating = heartbeat(store)
    with tasks_made_by(lambda loop, coroutine: asyncio.Task(coroutine, loop=loop)):
        beating.start()
        for _ in range(2):
            await clock.advance(BEAT)
    beating.stop()
    assert store.extended == [CLAIM, CLAIM]


def eager_on_python_3_11(loop, coroutine, **_):
    """As `asyncio.eager_task_factory`, which came with Python 3.12, for coroutines that never suspend."""
    with suppress(StopIteration):
        coroutine.send(None)
    return asyncio.Task(asyncio.sleep(0), loop=loop)


async def test_with_eager_tasks_all_claims_still_have_one_timer(clock):
    store, pulse = AsyncScriptedStore(), AsyncPulse(BEAT)
    beating = [heartbeat(store, claim_of(number), pulse) for number in range(2)]
    with tasks_made_by(getattr(asyncio, "eager_task_factory", eager_on_python_3_11)):
        for each in beating:
            each.start()
        for _ in range(3):
            await clock.advance(BEAT)
            assert clock.armed == 1
    for each in beating:
        each.stop()
    assert store.extended == 3 * [claim_of(0), claim_of(1)]
