"""How a duplicate waits, in both lifecycles, and how many may wait for a key."""

import random
import weakref
from contextlib import suppress
from time import monotonic

import pytest

from idempotency_mw import IdempotencyConfig
from idempotency_mw.core.machine import Execute, Reason, Reject, Replay
from idempotency_mw.core.record import Acquired
from idempotency_mw.lifecycle.waiting import LONGEST_PAUSE, SHORTEST_PAUSE, Waiters
from tests.lifecycle.scripted import DONE, DOWN, OPERATION, OTHER, RUNNING


@pytest.mark.row(115)
async def test_a_duplicate_does_not_wait_by_default(either, time):
    await either.over(acquire=[RUNNING]).begin(pause=time.pause)
    assert time.pauses == []
    assert either.store.verbs == ["acquire"]


@pytest.mark.row(114)
@pytest.mark.parametrize(
    ("then", "decision"), [(DONE, Replay), (Acquired(1), Execute), (Acquired(2), Execute), (DOWN, Reject)]
)
async def test_a_duplicate_waits_until_the_store_answers_otherwise(either, time, then, decision):
    config = IdempotencyConfig(wait_seconds=60)
    found = await either.over(config, acquire=[RUNNING, RUNNING, RUNNING, then]).begin(pause=time.pause)
    assert isinstance(found, decision)
    assert len(time.pauses) == 3
    assert either.store.verbs == 4 * ["acquire"]


@pytest.mark.row(103, 114)
async def test_a_duplicate_that_saw_a_running_request_never_runs_unprotected(either, time, caplog):
    config = IdempotencyConfig(wait_seconds=60, on_store_failure="pass")
    found = await either.over(config, acquire=[RUNNING, DOWN]).begin(pause=time.pause)
    assert found == Reject(Reason.STORE_UNAVAILABLE, 0)
    assert "refused" in caplog.text


@pytest.mark.parametrize("found", [DONE, OTHER, DOWN], ids=["completed", "mismatch", "down"])
async def test_a_duplicate_waits_for_nothing_but_a_running_request(either, time, found):
    await either.over(IdempotencyConfig(wait_seconds=60), acquire=[found]).begin(pause=time.pause)
    assert time.pauses == []


@pytest.mark.row(115)
async def test_waiting_ends_in_time_and_with_a_last_try(either, time):
    found = await either.over(IdempotencyConfig(wait_seconds=7), acquire=[RUNNING]).begin(pause=time.pause)
    assert found == Reject(Reason.IN_PROGRESS, 3000)
    assert time.now == pytest.approx(7)
    assert len(either.store.calls) == len(time.pauses) + 1


@pytest.mark.row(114)
async def test_wait_seconds_of_one_call_replaces_the_configured_value(either, time):
    either.over(IdempotencyConfig(wait_seconds=7), acquire=[RUNNING])
    await either.begin(wait_seconds=2, pause=time.pause)
    assert time.now == pytest.approx(2)
    await either.begin(wait_seconds=0, pause=time.pause)
    assert time.now == pytest.approx(2)


@pytest.mark.row(115)
@pytest.mark.parametrize("most", [0, 1, 3])
async def test_once_max_waiters_wait_for_a_key_one_more_is_refused_at_once(either, time, most):
    either.over(IdempotencyConfig(wait_seconds=60, max_waiters=most), acquire=[RUNNING])
    for _ in range(most):
        assert either.waiters.enter(OPERATION.storage_key)
    assert await either.begin(pause=time.pause) == Reject(Reason.IN_PROGRESS, 3000)
    assert time.pauses == []
    assert either.waiters.enter("6" * 64) is bool(most)  # each key is counted by itself


@pytest.mark.parametrize("how", ["refused", "answered", "interrupted"])
async def test_a_duplicate_that_waited_makes_room_for_the_next(either, time, how):
    found = [RUNNING, DONE] if how == "answered" else [RUNNING]
    either.over(IdempotencyConfig(wait_seconds=7, max_waiters=1), acquire=found)

    def interrupted(seconds):
        time.pause(seconds)
        raise LookupError

    with suppress(LookupError):
        await either.begin(pause=interrupted if how == "interrupted" else time.pause)
    assert time.pauses
    assert either.waiters.enter(OPERATION.storage_key)


async def test_a_duplicate_in_a_process_with_limited_time_is_counted_too(either, time):
    either.over(IdempotencyConfig(wait_seconds=7, max_waiters=1), acquire=[RUNNING])
    either.waiters.enter(OPERATION.storage_key)
    either.lifecycle = either.lifecycle.within(lambda: 60.0)
    assert await either.begin(pause=time.pause) == Reject(Reason.IN_PROGRESS, 3000)
    assert time.pauses == []


def test_a_key_for_which_none_waits_takes_no_memory():
    class Key(str):  # a plain str can't be referred to weakly
        __slots__ = ("__weakref__",)

    waiters, key = Waiters(2), Key("a")
    forgotten = weakref.ref(key)
    assert waiters.enter(key)
    assert waiters.enter(key)
    waiters.leave(key)
    waiters.leave(key)
    del key
    assert forgotten() is None


async def test_pauses_double_up_to_a_second_and_are_jittered(either, time):
    random.seed(7)
    await either.over(acquire=[RUNNING]).begin(wait_seconds=30, pause=time.pause)
    longest = SHORTEST_PAUSE
    for pause in time.pauses[:-1]:
        assert longest / 2 <= pause <= longest
        longest = min(longest * 2, LONGEST_PAUSE)
    assert longest == LONGEST_PAUSE
    full = [pause for pause in time.pauses[:-1] if pause > LONGEST_PAUSE / 2]
    assert len(set(full)) == len(full) > 10


async def test_an_exception_from_a_pause_ends_the_waiting_without_another_claim(either, time):
    def gone(seconds):
        raise LookupError

    either.over(acquire=[RUNNING])
    with pytest.raises(LookupError):
        await either.begin(wait_seconds=5, pause=gone)
    assert either.store.verbs == ["acquire"]


async def test_a_duplicate_sleeps_by_default(either):
    started = monotonic()
    assert isinstance(await either.over(acquire=[RUNNING, DONE]).begin(wait_seconds=0.02), Replay)
    assert monotonic() - started >= 0.01
