"""Leases that are extended while apps run: by a timer of the loop, and by one thread for all blocking claims."""

import asyncio
import gc
import logging
import os
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any

import pytest

from idempotency_mw import IdempotencyConfig
from idempotency_mw.core.record import Claim, Operation
from idempotency_mw.errors import IdempotencyPersistenceConnectionError
from idempotency_mw.lifecycle import heartbeat
from idempotency_mw.lifecycle.async_heartbeat import AsyncHeartbeat, AsyncPulse
from idempotency_mw.lifecycle.heartbeat import Heartbeat

CLAIM = Claim(Operation("5" * 64, "f" * 64), "a" * 32, 30, 1000)
FAST = IdempotencyConfig(lease_seconds=0.03)


class Store:
    """Extends as it is told: each answer is a bool, or an exception to raise; the last one for ever."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers) or [True]
        self.extended: list[str] = []
        self.threads: set[int] = set()
        self.gate: threading.Event | None = None

    def extend(self, claim: Claim) -> bool:
        self.extended.append(claim.storage_key)
        self.threads.add(threading.get_ident())
        if self.gate is not None:
            self.gate.wait(5)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


class AsyncStore(Store):
    async def extend(self, claim: Claim) -> bool:
        return super().extend(claim)


def asynchronous(store, claim, config):
    """Return a heartbeat of a handler that has no other claim."""
    return AsyncHeartbeat(store, claim, config, AsyncPulse(config.lease_seconds / 3))


@pytest.fixture
def pulse(monkeypatch):
    """A pulse of the test's own."""
    fresh = heartbeat._Pulse()
    monkeypatch.setattr(heartbeat, "_pulses", {os.getpid(): fresh})
    return fresh


def eventually(condition, within=5.0):
    ends = time.monotonic() + within
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.002)


async def beat(kind, store, config=FAST, before=None):
    """Beat once, as both kinds do, and return when the next one is due."""
    beating = kind(store, CLAIM, config)
    if before is not None:
        before(beating)
    due = beating.beat()
    return await due if asyncio.iscoroutine(due) else due


KINDS = pytest.mark.parametrize(
    ("kind", "store_kind"), [(Heartbeat, Store), (asynchronous, AsyncStore)], ids=["blocking", "async"]
)


def begun(beating):
    beating._ends = time.monotonic() + 1000


@KINDS
async def test_a_beat_extends_and_the_next_is_due_after_a_third_of_the_lease(kind, store_kind):
    store = store_kind()
    assert await beat(kind, store, IdempotencyConfig(lease_seconds=30), begun) == 10
    assert store.extended == [CLAIM.storage_key]


@KINDS
async def test_a_store_that_fails_is_reported_and_tried_again(kind, store_kind, caplog):
    store = store_kind(IdempotencyPersistenceConnectionError("no route"), True)
    assert await beat(kind, store, before=begun) == pytest.approx(0.01)
    assert "not extended" in caplog.text
    assert "no route" in caplog.text


@KINDS
async def test_an_error_that_no_layer_should_raise_is_reported_by_its_name_alone(kind, store_kind, caplog):
    store = store_kind(KeyError("what it quotes may be a secret"))
    assert await beat(kind, store, before=begun) == pytest.approx(0.01)
    assert "KeyError" in caplog.text
    assert "secret" not in caplog.text


@KINDS
async def test_a_lost_claim_is_reported_and_beats_no_more(kind, store_kind, caplog):
    assert await beat(kind, store_kind(False), before=begun) is None
    assert "the claim was lost while the app runs" in caplog.text


@KINDS
async def test_after_the_longest_execution_it_beats_no_more(kind, store_kind, caplog):
    store = store_kind()
    assert await beat(kind, store) is None  # its end is long past
    assert store.extended == []
    assert "max_execution_seconds" in caplog.text


@KINDS
async def test_once_stopped_it_does_nothing(kind, store_kind):
    store = store_kind()

    def stopped(beating):
        begun(beating)
        beating.stop()
        beating.stop()

    assert await beat(kind, store, before=stopped) is None
    assert store.extended == []


@KINDS
async def test_stopped_while_it_extends_a_refusal_is_no_loss(kind, store_kind, caplog):
    """The claim was settled meanwhile: that it no longer stands is as it should be."""
    store = store_kind(False)
    beating = kind(store, CLAIM, FAST)
    begun(beating)
    plain = Store.extend

    def extend(claim):
        beating.stop()
        return plain(store, claim)

    async def aextend(claim):
        return extend(claim)

    store.extend = aextend if store_kind is AsyncStore else extend
    due = beating.beat()
    if asyncio.iscoroutine(due):
        await due
    assert caplog.text == ""


@KINDS
async def test_switched_off_it_never_beats(kind, store_kind, pulse):
    store = store_kind()
    beating = kind(store, CLAIM, IdempotencyConfig(lease_seconds=0.001, heartbeat=False))
    beating.start()
    await asyncio.sleep(0.02)
    beating.stop()
    assert store.extended == []
    assert pulse._thread is None


# The blocking one.


def test_one_thread_beats_for_all_claims(pulse):
    store = Store()
    before = threading.active_count()
    beating = [Heartbeat(store, Claim(Operation(f"{n:064}", "f" * 64), "a" * 32, 30, 1), FAST) for n in range(20)]
    for each in beating:
        each.start()
    eventually(lambda: len(set(store.extended)) == 20 and len(store.extended) > 60)
    assert threading.active_count() == before + 1
    assert len(store.threads) == 1
    for each in beating:
        each.stop()
    eventually(lambda: not pulse._due)
    time.sleep(0.03)
    extended = len(store.extended)
    time.sleep(0.03)
    assert len(store.extended) == extended
    assert pulse._thread.daemon


def test_a_claim_that_is_due_sooner_than_all_others_is_not_made_to_wait(pulse):
    store = Store()
    late = Heartbeat(store, CLAIM, IdempotencyConfig(lease_seconds=3000))
    late.start()
    soon = Heartbeat(store, CLAIM, FAST)
    soon.start()
    eventually(lambda: store.extended)
    soon.stop()
    late.stop()


def test_a_lost_claim_is_beaten_for_no_more(pulse, caplog):
    store = Store(False)
    Heartbeat(store, CLAIM, FAST).start()
    eventually(lambda: "the claim was lost" in caplog.text and not pulse._due)
    time.sleep(0.03)
    assert len(store.extended) == 1


def test_runs_that_end_before_their_first_beat_is_due_do_not_wake_the_thread(pulse):
    waits = []
    wait = pulse._condition.wait
    pulse._condition.wait = lambda seconds: waits.append(seconds) or wait(seconds)
    long = IdempotencyConfig(lease_seconds=0.3)
    for _ in range(50):
        beating = Heartbeat(Store(), CLAIM, long)
        beating.start()
        beating.stop()
    eventually(lambda: not pulse._due)
    assert len(waits) < 10


def test_a_layer_with_a_fault_of_its_own_does_not_end_the_beats_of_the_others(pulse, caplog):
    faulty = Heartbeat(Store(KeyError("a bug")), CLAIM, FAST)
    sound_store = Store()
    sound = Heartbeat(sound_store, CLAIM, FAST)
    faulty.start()
    eventually(lambda: "KeyError" in caplog.text)
    sound.start()
    eventually(lambda: len(sound_store.extended) > 2)
    faulty.stop()
    sound.stop()


def test_logging_that_raises_does_not_end_the_beats_of_the_others(pulse, monkeypatch):
    lost, kept = Store(False), Store(True)

    class Broken(logging.Filter):
        def filter(self, record):
            raise RuntimeError("a filter of the user's")

    logger = logging.getLogger("idempotency_mw")
    broken = Broken()
    logger.addFilter(broken)
    try:
        Heartbeat(lost, CLAIM, FAST).start()
        eventually(lambda: lost.extended)
        beating = Heartbeat(kept, CLAIM, FAST)
        beating.start()
        eventually(lambda: len(kept.extended) >= 2)
        beating.stop()
    finally:
        logger.removeFilter(broken)


def test_a_thread_that_could_not_be_started_is_tried_again_with_the_next_claim(pulse, monkeypatch):
    store = Store()
    beating = Heartbeat(store, CLAIM, FAST)
    with monkeypatch.context() as patched:

        def refuse(thread):
            raise RuntimeError("can't start new thread")

        patched.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError):
            beating.start()
    beating.start()
    eventually(lambda: store.extended)
    beating.stop()


def test_what_begins_anew_has_neither_thread_nor_claims(pulse):
    pulse.add(Heartbeat(Store(), CLAIM, FAST), 1000)
    assert heartbeat._pulse() is pulse
    heartbeat._pulses.clear()  # as a forked child does
    assert (heartbeat._pulse()._thread, heartbeat._pulse()._due) == (None, [])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:This process.*fork:DeprecationWarning")
def test_a_forked_child_starts_a_thread_of_its_own():
    parents = Store()
    of_parent = Heartbeat(parents, CLAIM, FAST)
    of_parent.start()
    eventually(lambda: parents.extended)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            store = Store()
            inherited = len(parents.extended)
            Heartbeat(store, CLAIM, FAST).start()
            eventually(lambda: len(store.extended) > 2)
            code = 0 if len(parents.extended) == inherited else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    extended = len(parents.extended)
    eventually(lambda: len(parents.extended) > extended)
    of_parent.stop()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:This process.*fork:DeprecationWarning")
def test_a_fork_while_the_thread_holds_its_lock_does_not_block_the_child(pulse):
    with pulse._condition:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                store = Store()
                Heartbeat(store, CLAIM, FAST).start()
                eventually(lambda: store.extended, within=2)
                code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# The async one.


async def test_no_task_exists_until_the_timer_fires():
    store = AsyncStore()
    before = asyncio.all_tasks()
    # Slow enough that a busy machine is looked at between two beats.
    beating = asynchronous(store, CLAIM, IdempotencyConfig(lease_seconds=1.5))
    beating.start()
    assert asyncio.all_tasks() == before
    while not store.extended:
        await asyncio.sleep(0.002)
    assert asyncio.all_tasks() == before
    beating.stop()


async def test_it_beats_until_it_is_stopped():
    store = AsyncStore(IdempotencyPersistenceConnectionError("once"), True)
    beating = asynchronous(store, CLAIM, FAST)
    beating.start()
    while len(store.extended) < 3:
        await asyncio.sleep(0.002)
    beating.stop()
    extended = len(store.extended)
    await asyncio.sleep(0.03)
    assert len(store.extended) == extended


async def test_a_lost_claim_sets_no_further_timer(caplog):
    store = AsyncStore(False)
    beating = asynchronous(store, CLAIM, FAST)
    beating.start()
    await asyncio.sleep(0.05)
    assert len(store.extended) == 1
    assert caplog.text.count("lost") == 1


async def test_stopped_while_an_extension_is_under_way_it_ends_with_that_one():
    class Slow(AsyncStore):
        async def extend(self, claim):
            self.extended.append(claim.storage_key)
            await gate.wait()
            return True

    gate, store = asyncio.Event(), Slow()
    beating = asynchronous(store, CLAIM, FAST)
    beating.start()
    while not store.extended:
        await asyncio.sleep(0.002)
    beating.stop()
    gate.set()
    await asyncio.sleep(0.03)
    assert len(store.extended) == 1


async def test_stopped_before_it_began_it_is_no_trouble():
    asynchronous(AsyncStore(), CLAIM, FAST).stop()


def timers():
    """Return the timers that are armed on this loop."""
    return [timer for timer in asyncio.get_running_loop()._scheduled if not timer.cancelled()]


def claim_of(number):
    return Claim(Operation(f"{number:064}", "f" * 64), "a" * 32, 30, 1000)


async def test_one_timer_beats_for_all_claims_of_a_handler():
    store, pulse = AsyncStore(), AsyncPulse(0.05)
    beating = [AsyncHeartbeat(store, claim_of(number), IdempotencyConfig(), pulse) for number in range(20)]
    for each in beating[:10]:
        each.start()
    await asyncio.sleep(0.02)
    for each in beating[10:]:
        each.start()
    assert len(timers()) == 1
    while len(store.extended) < 60:
        await asyncio.sleep(0.002)
    assert set(store.extended[:10]).isdisjoint(store.extended[10:20])  # who began later is due later
    for each in beating:
        each.stop()
    extended = len(store.extended)
    await asyncio.sleep(0.06)
    assert (len(store.extended), timers()) == (extended, [])


async def test_the_timer_of_claims_that_ended_early_is_one_and_goes_by_itself_or_when_told():
    store, pulse = AsyncStore(), AsyncPulse(0.03)
    pulse.line().rest()
    for number in range(5):
        each = AsyncHeartbeat(store, claim_of(number), IdempotencyConfig(), pulse)
        each.start()
        pulse.line().rest()
        assert len(timers()) == 1
        each.stop()
        assert len(timers()) == 1
    await asyncio.sleep(0.05)
    assert timers() == []
    each = AsyncHeartbeat(store, CLAIM, IdempotencyConfig(), pulse)
    each.start()
    each.stop()
    pulse.line().rest()
    assert (timers(), store.extended) == ([], [])


async def test_a_store_that_hangs_for_one_claim_does_not_keep_the_others_from_beating():
    class Hanging(AsyncStore):
        async def extend(self, claim):
            if claim is CLAIM:
                await asyncio.Event().wait()
            return await super().extend(claim)

    store, pulse = Hanging(), AsyncPulse(0.01)
    stuck, other = (AsyncHeartbeat(store, each, IdempotencyConfig(), pulse) for each in (CLAIM, claim_of(1)))
    stuck.start()
    other.start()
    while len(store.extended) < 3:
        await asyncio.sleep(0.002)
    for each in (stuck, other):
        each.stop()
    assert await asyncio.wait([stuck._extending], timeout=0.01) == (set(), {stuck._extending})
    stuck._extending.cancel()
    await asyncio.wait([stuck._extending])


def test_each_loop_has_its_timer_and_one_that_is_over_is_let_go_with_the_next():
    store, pulse = AsyncStore(), AsyncPulse(0.01)
    beating = [AsyncHeartbeat(store, claim_of(number), IdempotencyConfig(), pulse) for number in range(3)]

    async def beaten(each, times):
        each.start()
        async with asyncio.timeout(5):
            while store.extended.count(each._claim.storage_key) < times:
                await asyncio.sleep(0.002)
        return weakref.ref(asyncio.get_running_loop())

    first = asyncio.new_event_loop()
    first.run_until_complete(beaten(beating[0], 1))
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, beaten(beating[1], 2)).result(5)
    first.run_until_complete(beaten(beating[0], 3))  # not closed: it goes on, though another has come meanwhile
    first.close()
    closed = weakref.ref(first)
    del first, beating[0]
    over = asyncio.run(beaten(beating[-1], 2))
    gc.collect()
    assert closed() is None
    asyncio.run(beaten(AsyncHeartbeat(store, CLAIM, IdempotencyConfig(), pulse), 1))
    del beating[:]
    gc.collect()
    assert over() is None


@pytest.mark.parametrize("threads", [1, 2])
def test_loops_that_take_turns_have_one_timer_each(threads):
    pulse = AsyncPulse(1000)

    async def armed_by_one_that_comes_and_goes():
        each = AsyncHeartbeat(AsyncStore(), CLAIM, IdempotencyConfig(), pulse)
        each.start()
        each.stop()
        return len(timers())

    armed, loops = [], [asyncio.new_event_loop() for _ in range(2)]
    with ThreadPoolExecutor(1) as first, ThreadPoolExecutor(1) as second:
        for _ in range(3):
            for loop, thread in zip(loops, (first, second if threads == 2 else first), strict=True):
                coming = thread.submit(loop.run_until_complete, armed_by_one_that_comes_and_goes())
                armed.append(coming.result(5))
    for loop in loops:
        loop.close()
    assert armed == [1] * 6


async def test_a_beat_has_the_context_of_its_request():
    class Seeing(AsyncStore):
        async def extend(self, claim):
            seen.append(request.get(None))
            return await super().extend(claim)

    seen: list[str | None] = []
    request: ContextVar[str] = ContextVar("request")
    pulse = AsyncPulse(0.01)
    for name in ("first", "second"):
        request.set(name)
        AsyncHeartbeat(Seeing(False), CLAIM, IdempotencyConfig(), pulse).start()
    request.set("another")
    while len(seen) < 2:
        await asyncio.sleep(0.002)
    assert seen == ["first", "second"]


@contextmanager
def tasks_made_by(factory):
    """Have the tasks of this loop made so."""
    loop = asyncio.get_running_loop()
    loop.set_task_factory(factory)
    try:
        yield
    finally:
        loop.set_task_factory(None)


async def test_a_factory_of_tasks_that_takes_no_context_makes_those_of_beats():
    store = AsyncStore()
    beating = asynchronous(store, CLAIM, FAST)
    with tasks_made_by(lambda loop, coroutine: asyncio.Task(coroutine, loop=loop)):
        beating.start()
        await asyncio.sleep(0.05)
    beating.stop()
    assert len(store.extended) > 1


async def test_claims_whose_beats_run_at_once_when_they_are_woken_have_one_timer():
    def eager(
        loop, coroutine, **_
    ):  # as asyncio's, which came with Python 3.12, where nothing has to be waited for
        with suppress(StopIteration):
            coroutine.send(None)
        return loop.create_future()

    store, pulse = AsyncStore(), AsyncPulse(0.01)
    beating = [AsyncHeartbeat(store, claim_of(number), IdempotencyConfig(), pulse) for number in range(2)]
    with tasks_made_by(eager):
        for each in beating:
            each.start()
        await asyncio.sleep(0.1)
        armed = len(timers())
    for each in beating:
        each.stop()
    assert len(store.extended) > 4
    assert armed == 1
