"""How a claim ends, in both lifecycles: what is written, what is reported, and what the client gets."""

import asyncio

import pytest

from idempotency_mw import IdempotencyConfig
from idempotency_mw.core.machine import Answered, Deliver, Discarded, Failed, Kept, Reason, Reject, Replay, Stopped
from idempotency_mw.core.record import Lost, Settled
from idempotency_mw.lifecycle.claims import LONGEST_FINISH_SECONDS, AsyncClaimLifecycle
from idempotency_mw.lifecycle.waiting import WAITED_SHARE
from tests.lifecycle.scripted import CLAIM, DONE, DOWN, OTHER, RUNNING, AsyncScriptedStore

WHOLE = Answered(storable=True, captured=True)

ENDINGS = [
    (WHOLE, "release", ("complete", b"result")),
    (Answered(storable=True, captured=False), "release", ("complete", None)),
    (Answered(storable=False, captured=True), "release", ("release",)),
    (Answered(storable=False, captured=True), "store", ("complete", b"result")),
    (Answered(storable=False, captured=False), "store", ("complete", None)),
    (Failed(), "release", ("release",)),
    (Failed(), "store", ("complete", b"result")),
    (Discarded(), "release", ("release",)),
    (Discarded(), "store", ("release",)),
    (Stopped(), "release", None),
    (Stopped(), "store", None),
]
"""How a run ended, `on_error`, and the verb with the result that the store then sees."""


@pytest.mark.parametrize(("ending", "on_error", "call"), ENDINGS)
async def test_the_end_of_a_run_decides_what_is_written(either, ending, on_error, call):
    either.over(IdempotencyConfig(on_error=on_error))
    assert await either.settle(ending) == Deliver()
    if call is None:
        assert either.store.calls == []
    else:
        ((verb, _, *result),) = either.store.calls
        assert (verb, *result) == call


@pytest.mark.parametrize(
    ("ending", "asked"),
    [
        (WHOLE, [Kept.ANSWER]),
        (Failed(), [Kept.FAILURE]),
        (Answered(storable=True, captured=False), []),
        (Discarded(), []),
    ],
)
async def test_a_result_is_encoded_only_if_it_is_kept(either, ending, asked):
    kept = []
    await either.over(IdempotencyConfig(on_error="store")).settle(ending, encode=lambda k: kept.append(k) or b"")
    assert kept == asked


@pytest.mark.row(53)
async def test_a_tombstone_is_reported_with_its_reason(either, caplog):
    await either.over().settle(Answered(storable=True, captured=False))
    assert "too large" in caplog.text
    caplog.clear()
    await either.settle(WHOLE, encode=lambda kept: None)
    assert "can't be stored" in caplog.text
    assert [call[2] for call in either.store.calls] == [None, None]


@pytest.mark.row(50)
@pytest.mark.fault(8)
@pytest.mark.parametrize(
    ("lost", "sent", "reply"),
    [
        (Lost(DONE.record), False, Replay(DONE.record)),
        (Lost(RUNNING.record), False, Reject(Reason.IN_PROGRESS, 3000)),
        (Lost(DONE.record), True, Deliver()),
        (Lost(OTHER.record), False, Deliver()),
        (Lost(None), False, Deliver()),
    ],
)
async def test_a_late_owner_gets_the_record_unless_part_of_its_own_answer_is_sent(
    either, caplog, lost, sent, reply
):
    assert await either.over(complete=[lost]).settle(WHOLE, sent=sent) == reply
    assert "claim was lost" in caplog.text


@pytest.mark.row(104)
@pytest.mark.parametrize(("ending", "verb"), [(WHOLE, "complete"), (Failed(), "release")])
async def test_a_store_failure_at_the_end_is_reported_and_the_answer_delivered(either, caplog, ending, verb):
    assert await either.over(**{verb: [DOWN]}).settle(ending) == Deliver()
    assert f"{verb} failed" in caplog.text
    assert "no route" in caplog.text


@pytest.mark.row(104)
@pytest.mark.parametrize(("ending", "verb"), [(WHOLE, "complete"), (Failed(), "release")])
async def test_an_error_that_no_layer_should_raise_at_the_end_is_reported_by_its_class_alone(
    either, caplog, ending, verb
):
    assert await either.over(**{verb: [KeyError("it may quote a secret")]}).settle(ending) == Deliver()
    assert f"{verb} failed" in caplog.text
    assert "KeyError" in caplog.text
    assert "secret" not in caplog.text


async def test_an_error_while_encoding_is_a_bug_and_reaches_the_caller(either):
    def broken(kept):
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        await either.over().settle(WHOLE, encode=broken)
    assert either.store.calls == []


# Cancellation: only the async lifecycle has to handle it.


class Suspending(AsyncScriptedStore):
    """Suspends before it settles. A call that is cancelled there is not among `calls`."""

    async def complete(self, claim, result):
        await asyncio.sleep(0)
        return await super().complete(claim, result)

    async def release(self, claim):
        await asyncio.sleep(0)
        return await super().release(claim)


@pytest.mark.row(78)
@pytest.mark.parametrize(
    ("ending", "verb", "answer", "told"),
    [
        (WHOLE, "complete", Settled(), ""),
        (WHOLE, "complete", DOWN, "complete failed"),
        (WHOLE, "complete", Lost(None), "claim was lost"),
        (Failed(), "release", True, ""),
        (Failed(), "release", DOWN, "release failed"),
    ],
)
async def test_a_cancelled_settle_calls_its_verb_again_reports_and_stays_cancelled(
    caplog, ending, verb, answer, told
):
    store = Suspending(**{verb: [answer]})
    settling = AsyncClaimLifecycle(store, IdempotencyConfig()).settle(CLAIM, ending, lambda kept: b"result")
    task = asyncio.ensure_future(settling)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert store.verbs == [verb]  # by the second call
    assert told in caplog.text
    assert bool(caplog.text) is bool(told)


# The end of a call in a process that is then frozen.


async def test_finish_waits_for_releases_under_way_but_no_longer_than_the_process_has():
    waited = []

    class Releasing(AsyncScriptedStore):
        async def until_released(self, seconds):
            waited.append(seconds)

    lifecycle = AsyncClaimLifecycle(Releasing(), IdempotencyConfig())
    await lifecycle.finish()
    await lifecycle.within(lambda: 2.0).finish()
    assert waited == [LONGEST_FINISH_SECONDS, pytest.approx(2.0 * WAITED_SHARE)]


async def test_finish_asks_nothing_of_a_store_without_releases_under_way():
    store = AsyncScriptedStore()
    await AsyncClaimLifecycle(store, IdempotencyConfig()).finish()
    assert store.calls == []
