"""Heartbeats: what both kinds have in common, and the thread that extends the leases of blocking code."""

import asyncio
import logging
import os
import signal
import threading
import time
import traceback
from contextlib import contextmanager

import pytest

from idempotency_mw import IdempotencyConfig
from idempotency_mw.lifecycle import async_heartbeat, heartbeat
from idempotency_mw.lifecycle.async_heartbeat import AsyncHeartbeat, AsyncPulse
from idempotency_mw.lifecycle.heartbeat import Heartbeat, Pulse
from idempotency_mw.testing import ManualClock
from tests.lifecycle.scripted import CLAIM, DOWN, AsyncScriptedStore, ScriptedStore, claim_of

FAST = IdempotencyConfig(lease_seconds=0.03)
"""A beat is due every 10 ms, so that a test that waits for a few beats ends soon."""


def eventually(condition, within=5.0):
    ends = time.monotonic() + within
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.002)


# Both kinds. The lease is long, so that only the test beats.


def async_kind(store, claim, config):
    return AsyncHeartbeat(store, claim, config, AsyncPulse(config.lease_seconds / 3))


@contextmanager
def started(kind, store, **options):
    beating = kind(store, CLAIM, IdempotencyConfig(lease_seconds=30, **options))
    beating.start()
    try:
        yield beating
    finally:
        beating.stop()


async def beat(beating):
    """Beat once, and return the seconds until the next beat."""
    seconds = beating.beat()
    return await seconds if asyncio.iscoroutine(seconds) else seconds


KINDS = pytest.mark.parametrize(
    ("kind", "store_kind"),
    [(Heartbeat, ScriptedStore), (async_kind, AsyncScriptedStore)],
    ids=["blocking", "async"],
)


@KINDS
async def test_a_beat_extends_the_lease_and_the_next_is_due_after_a_third_of_it(kind, store_kind):
    store = store_kind()
    with started(kind, store) as beating:
        assert await beat(beating) == 10
    assert store.extended == [CLAIM]


@KINDS
async def test_a_store_failure_is_reported_and_the_beats_go_on(kind, store_kind, caplog):
    with started(kind, store_kind(extend=[DOWN])) as beating:
        assert await beat(beating) == 10
    assert "not extended" in caplog.text
    assert "no route" in caplog.text


@KINDS
async def test_an_error_that_no_layer_should_raise_is_reported_by_its_class_alone(kind, store_kind, caplog):
    with started(kind, store_kind(extend=[KeyError("it may quote a secret")])) as beating:
        assert await beat(beating) == 10
    assert "KeyError" in caplog.text
    assert "secret" not in caplog.text


@KINDS
async def test_a_lost_claim_is_reported_and_its_beats_end(kind, store_kind, caplog):
    with started(kind, store_kind(extend=[False])) as beating:
        assert await beat(beating) is None
    assert "the claim was lost while the app runs" in caplog.text


@KINDS
async def test_beats_end_after_max_execution_seconds(kind, store_kind, caplog, monkeypatch):
    clock, store = ManualClock(time.monotonic()), store_kind()
    for module in (heartbeat, async_heartbeat):
        monkeypatch.setattr(module, "monotonic", clock)
    with started(kind, store, max_execution_seconds=20) as beating:
        clock.advance(19)
        assert await beat(beating) == 10
        assert caplog.text == ""
        clock.advance(1)
        assert await beat(beating) is None
    assert store.extended == [CLAIM]
    assert "max_execution_seconds" in caplog.text


@KINDS
async def test_a_heartbeat_that_is_stopped_extends_nothing(kind, store_kind):
    store = store_kind()
    with started(kind, store) as beating:
        beating.stop()
        beating.stop()
        assert await beat(beating) is None
    assert store.extended == []


@KINDS
async def test_a_refusal_after_stop_is_not_reported_as_a_loss(kind, store_kind, caplog):
    """The run ends and settles its claim while an extension is under way, so the store refuses the extension."""

    class StoppedMeanwhile(store_kind):
        def extend(self, claim):
            beating.stop()
            return super().extend(claim)

    with started(kind, StoppedMeanwhile(extend=[False])) as beating:
        await beat(beating)
    assert caplog.text == ""


# The thread of blocking code. It lives in real time, so these tests wait until something has happened.


@pytest.fixture
def pulse():
    """A thread that no other test uses. It starts with its first claim."""
    return Pulse()


def let_beats_pass(pulse=None, config=FAST, beats=3):
    """Return when one more claim was extended so often. Beats that were due before it have happened by then."""
    store = ScriptedStore()
    witness = Heartbeat(store, claim_of(999), config, pulse)
    witness.start()
    eventually(lambda: len(store.extended) >= beats)
    witness.stop()


def test_with_the_heartbeat_switched_off_no_thread_starts(pulse):
    store = ScriptedStore()
    before = threading.enumerate()
    beating = Heartbeat(store, CLAIM, IdempotencyConfig(lease_seconds=0.03, heartbeat=False), pulse)
    beating.start()
    assert threading.enumerate() == before
    let_beats_pass(pulse)
    beating.stop()
    assert store.extended == []


def test_one_daemon_thread_beats_for_all_claims(pulse):
    store = ScriptedStore()
    before = set(threading.enumerate())
    beating = [Heartbeat(store, claim_of(number), FAST, pulse) for number in range(20)]
    for each in beating:
        each.start()
    eventually(lambda: len(set(store.extended)) == 20 and len(store.extended) > 60)
    (thread,) = set(threading.enumerate()) - before
    assert thread.daemon
    assert store.threads == {thread.ident}
    for each in beating:
        each.stop()
    let_beats_pass(pulse)
    extended = len(store.extended)
    let_beats_pass(pulse)
    assert len(store.extended) == extended


def test_a_claim_that_is_due_before_all_others_does_not_wait_for_them(pulse):
    store = ScriptedStore()
    late = Heartbeat(store, CLAIM, IdempotencyConfig(lease_seconds=3000), pulse)
    late.start()
    soon = Heartbeat(store, claim_of(1), FAST, pulse)
    soon.start()
    eventually(lambda: store.extended)
    soon.stop()
    late.stop()
    assert CLAIM not in store.extended


def test_a_lost_claim_is_not_extended_again(pulse, caplog):
    store = ScriptedStore(extend=[False])
    Heartbeat(store, CLAIM, FAST, pulse).start()
    let_beats_pass(pulse)
    assert store.extended == [CLAIM]
    assert caplog.text.count("the claim was lost") == 1


class CountedWaits(threading.Condition):
    """Counts how often a thread goes to sleep."""

    def __init__(self):
        super().__init__()
        self.waits = 0

    def wait(self, timeout=None):
        self.waits += 1
        return super().wait(timeout)


def test_runs_that_end_before_their_first_beat_do_not_wake_the_thread(monkeypatch):
    condition = CountedWaits()
    with monkeypatch.context() as patched:
        patched.setattr(threading, "Condition", lambda: condition)
        pulse = Pulse()
    slow = IdempotencyConfig(lease_seconds=0.3)
    for _ in range(50):
        beating = Heartbeat(ScriptedStore(), CLAIM, slow, pulse)
        beating.start()
        time.sleep(0.001)  # the run; without it all would be due at once, and one wake-up would do for all
        beating.stop()
    let_beats_pass(pulse, slow, beats=1)
    assert 0 < condition.waits < 10


def test_a_layer_with_a_bug_does_not_end_the_beats_of_other_claims(pulse, caplog):
    faulty = Heartbeat(ScriptedStore(extend=[KeyError("a bug")]), CLAIM, FAST, pulse)
    faulty.start()
    eventually(lambda: "KeyError" in caplog.text)
    let_beats_pass(pulse)
    faulty.stop()


def test_logging_that_raises_does_not_end_the_beats_of_other_claims(pulse):
    class Broken(logging.Filter):
        def filter(self, record):
            raise RuntimeError("a bug in the user's filter")

    logger, broken, lost = logging.getLogger("idempotency_mw"), Broken(), ScriptedStore(extend=[False])
    logger.addFilter(broken)
    try:
        Heartbeat(lost, CLAIM, FAST, pulse).start()
        eventually(lambda: lost.extended)
        let_beats_pass(pulse)
    finally:
        logger.removeFilter(broken)


def test_if_the_thread_can_not_start_the_next_claim_tries_again(pulse, monkeypatch):
    store = ScriptedStore()
    beating = Heartbeat(store, CLAIM, FAST, pulse)
    with monkeypatch.context() as patched:

        def refuse(thread):
            raise RuntimeError("can't start new thread")

        patched.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError):
            beating.start()
    beating.start()
    eventually(lambda: store.extended)
    beating.stop()


# Forks. Here claims share the thread of the process.

FORKS = pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
WARNED = pytest.mark.filterwarnings("ignore:This process.*fork:DeprecationWarning")


def exit_code_of_a_child(check):
    """Fork, and call `check` in the child: 0 if it returns. A child that hangs is killed after 10 seconds."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(10)
            check()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.fixture
def of_parent():
    """The store of a claim that this process keeps; it has been extended."""
    store = ScriptedStore()
    beating = Heartbeat(store, CLAIM, FAST)
    beating.start()
    eventually(lambda: store.extended)
    yield store
    beating.stop()


@FORKS
@WARNED
def test_a_forked_child_starts_a_thread_and_its_parent_keeps_its_own(of_parent):
    assert exit_code_of_a_child(let_beats_pass) == 0
    extended = len(of_parent.extended)
    eventually(lambda: len(of_parent.extended) > extended)


@FORKS
@WARNED
def test_a_forked_child_does_not_extend_the_claims_of_its_parent(of_parent):
    def check():
        inherited = len(of_parent.extended)
        let_beats_pass()
        assert len(of_parent.extended) == inherited

    assert exit_code_of_a_child(check) == 0


@FORKS
@WARNED
def test_a_fork_while_the_thread_holds_its_lock_does_not_block_the_child():
    held, go_on = threading.Event(), threading.Event()

    class Holding(Heartbeat):
        @property
        def is_stopped(self):  # the thread asks under its lock
            held.set()
            return go_on.wait(30)

    Holding(ScriptedStore(), CLAIM, FAST).start()
    assert held.wait(5)
    try:
        assert exit_code_of_a_child(lambda: let_beats_pass(beats=1)) == 0
    finally:
        go_on.set()
