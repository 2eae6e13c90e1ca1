"""One suite for both lifecycles: they do what the machine says, wait, and settle."""

import asyncio
import inspect
import random
from contextlib import suppress
from types import SimpleNamespace

import pytest

from idempotency_mw import IdempotencyConfig
from idempotency_mw.core.machine import (
    Answered,
    Deliver,
    Discarded,
    Execute,
    Failed,
    Kept,
    Reason,
    Reject,
    Replay,
    Stopped,
    Unprotected,
)
from idempotency_mw.core.record import Acquired, Claim, Existing, Lost, Operation, Record, Settled, Status
from idempotency_mw.errors import IdempotencyPersistenceConnectionError, IdempotencyRecordError
from idempotency_mw.lifecycle import waiting
from idempotency_mw.lifecycle.async_heartbeat import AsyncHeartbeat
from idempotency_mw.lifecycle.claims import AsyncClaimLifecycle, ClaimLifecycle
from idempotency_mw.lifecycle.heartbeat import Heartbeat
from idempotency_mw.lifecycle.waiting import LONGEST_PAUSE, SHORTEST_PAUSE

OPERATION = Operation("5" * 64, "f" * 64)
DOWN = IdempotencyPersistenceConnectionError("no route")
RUNNING = Existing(Record(Status.IN_PROGRESS, 1, "f" * 64, 9000))
DONE = Existing(Record(Status.COMPLETED, 1, "f" * 64, 1000, b"answer"))
OTHER = Existing(Record(Status.COMPLETED, 1, "0" * 64, 1000, b"answer"))
WHOLE = Answered(storable=True, captured=True)


class Store:
    """Answers as it is told, each verb from its own list; the last answer stands for ever."""

    def __init__(self, **answers):
        defaults = {"acquire": [Acquired(1)], "extend": [True], "complete": [Settled()], "release": [True]}
        self.answers = defaults | {verb: list(given) for verb, given in answers.items()}
        self.calls = []

    def _answer(self, verb, *arguments):
        self.calls.append((verb, *arguments))
        answers = self.answers[verb]
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def acquire(self, claim):
        return self._answer("acquire", claim)

    def extend(self, claim):
        return self._answer("extend", claim)

    def complete(self, claim, result):
        return self._answer("complete", claim, result)

    def release(self, claim):
        return self._answer("release", claim)

    @property
    def verbs(self):
        return [call[0] for call in self.calls]


class AsyncStore(Store):
    async def acquire(self, claim):
        return super().acquire(claim)

    async def extend(self, claim):
        return super().extend(claim)

    async def complete(self, claim, result):
        return super().complete(claim, result)

    async def release(self, claim):
        return super().release(claim)


class Either:
    """One of the two lifecycles, asked in the same way."""

    def __init__(self, kind):
        self.is_async = kind == "async"
        self.store = None

    def over(self, config=None, **answers):
        self.store = (AsyncStore if self.is_async else Store)(**answers)
        kind = AsyncClaimLifecycle if self.is_async else ClaimLifecycle
        self.lifecycle = kind(self.store, config or IdempotencyConfig())
        return self

    async def _ask(self, answer):
        return await answer if inspect.isawaitable(answer) else answer

    async def begin(self, *, pause=None, **options):
        if pause is not None:

            async def apause(seconds):
                pause(seconds)

            options["pause"] = apause if self.is_async else pause
        return await self._ask(self.lifecycle.begin(OPERATION, **options))

    async def settle(self, ending, *, encode=lambda kept: b"result", **options):
        claim = Claim(OPERATION, "a" * 32, 30000, 1000)
        return await self._ask(self.lifecycle.settle(claim, ending, encode, **options))


@pytest.fixture(params=["blocking", "async"])
def either(request):
    return Either(request.param)


@pytest.fixture
def time(monkeypatch):
    """The time of those who wait: it passes while they pause."""
    passing = SimpleNamespace(now=0.0, pauses=[])

    def pause(seconds):
        passing.pauses.append(seconds)
        passing.now += seconds

    passing.pause = pause
    monkeypatch.setattr(waiting, "time", SimpleNamespace(monotonic=lambda: passing.now))
    return passing


# Beginning.


async def test_an_acquired_claim_is_to_be_executed(either):
    config = IdempotencyConfig(lease_seconds=1.5, expires_after_seconds=7)
    decision = await either.over(config, acquire=[Acquired(3)]).begin()
    assert isinstance(decision, Execute)
    assert decision.attempt == 3
    claim = decision.claim
    assert (claim.operation, claim.lease_ms, claim.retention_ms) == (OPERATION, 1500, 7000)
    assert claim.may_take_over
    assert either.store.calls == [("acquire", claim)]


@pytest.mark.fault(7)
async def test_where_crashes_are_refused_no_claim_may_take_over(either):
    decision = await either.over(IdempotencyConfig(after_crash="refuse")).begin()
    assert not decision.claim.may_take_over


async def test_each_acquiring_round_has_a_fresh_token(either, time):
    either.over(acquire=[RUNNING, RUNNING, Acquired(1)])
    await either.begin(wait_seconds=10, pause=time.pause)
    await either.begin()
    tokens = [call[1].token for call in either.store.calls]
    assert len(tokens) == len(set(tokens)) == 4
    assert all(len(token) == 32 and int(token, 16) >= 0 for token in tokens)


@pytest.mark.parametrize(
    ("found", "decision"),
    [
        (DONE, Replay(DONE.record)),
        (OTHER, Reject(Reason.REUSED)),
        (RUNNING, Reject(Reason.IN_PROGRESS, 3000)),
        (Existing(Record(Status.NOT_KEPT, 1, "f" * 64, 9)), Reject(Reason.NOT_KEPT)),
    ],
    ids=["completed", "mismatch", "running", "tombstone"],
)
async def test_what_stands_there_decides(either, found, decision):
    assert await either.over(acquire=[found]).begin() == decision


@pytest.mark.row(102, 103)
@pytest.mark.parametrize(
    ("error", "policy", "decision", "told"),
    [
        (DOWN, "refuse", Reject(Reason.STORE_UNAVAILABLE, 0), "refused"),
        (DOWN, "pass", Unprotected(), "unprotected"),
        (IdempotencyRecordError("mangled"), "refuse", Reject(Reason.RECORD_UNREADABLE), "refused"),
        (IdempotencyRecordError("mangled"), "pass", Reject(Reason.RECORD_UNREADABLE), "refused"),
    ],
)
async def test_a_store_that_fails_is_reported_and_policy_decides(either, caplog, error, policy, decision, told):
    assert await either.over(IdempotencyConfig(on_store_failure=policy), acquire=[error]).begin() == decision
    assert told in caplog.text
    assert OPERATION.storage_key not in caplog.text


async def test_an_error_that_is_not_a_stores_goes_on(either):
    with pytest.raises(KeyError):
        await either.over(acquire=[KeyError("a bug")]).begin()


# Waiting.


@pytest.mark.row(115)
async def test_nobody_waits_unless_told(either, time):
    await either.over(acquire=[RUNNING]).begin(pause=time.pause)
    assert time.pauses == []
    assert either.store.verbs == ["acquire"]


@pytest.mark.row(114)
@pytest.mark.parametrize(
    ("then", "decision"), [(DONE, Replay), (Acquired(1), Execute), (Acquired(2), Execute), (DOWN, Reject)]
)
async def test_a_duplicate_waits_until_something_else_can_be_said(either, time, then, decision):
    config = IdempotencyConfig(wait_seconds=60)
    found = await either.over(config, acquire=[RUNNING, RUNNING, RUNNING, then]).begin(pause=time.pause)
    assert isinstance(found, decision)
    assert len(time.pauses) == 3
    assert either.store.verbs == 4 * ["acquire"]


@pytest.mark.row(103, 114)
async def test_one_that_waited_for_another_that_runs_is_never_passed_by(either, time, caplog):
    config = IdempotencyConfig(wait_seconds=60, on_store_failure="pass")
    found = await either.over(config, acquire=[RUNNING, DOWN]).begin(pause=time.pause)
    assert found == Reject(Reason.STORE_UNAVAILABLE, 0)
    assert "refused" in caplog.text


@pytest.mark.parametrize("found", [DONE, OTHER, DOWN], ids=["completed", "mismatch", "down"])
async def test_only_one_that_runs_is_waited_for(either, time, found):
    await either.over(IdempotencyConfig(wait_seconds=60), acquire=[found]).begin(pause=time.pause)
    assert time.pauses == []


@pytest.mark.row(115)
async def test_waiting_ends_at_its_time_with_a_last_try(either, time):
    found = await either.over(IdempotencyConfig(wait_seconds=7), acquire=[RUNNING]).begin(pause=time.pause)
    assert found == Reject(Reason.IN_PROGRESS, 3000)
    assert time.now == pytest.approx(7)
    assert len(either.store.calls) == len(time.pauses) + 1


@pytest.mark.row(114)
async def test_a_time_that_is_given_stands_for_the_configured_one(either, time):
    either.over(IdempotencyConfig(wait_seconds=7), acquire=[RUNNING])
    await either.begin(wait_seconds=2, pause=time.pause)
    assert time.now == pytest.approx(2)
    await either.begin(wait_seconds=0, pause=time.pause)
    assert time.now == pytest.approx(2)


@pytest.mark.row(115)
@pytest.mark.parametrize("most", [0, 1, 3])
async def test_beyond_the_most_that_may_wait_for_a_key_one_is_refused_at_once(either, time, most):
    either.over(IdempotencyConfig(wait_seconds=60, max_waiters=most), acquire=[RUNNING])
    other = Operation("6" * 64, "f" * 64)
    waiters = either.lifecycle._waiters
    for _ in range(most):
        assert waiters.enter(OPERATION.storage_key)
    assert await either.begin(pause=time.pause) == Reject(Reason.IN_PROGRESS, 3000)
    assert time.pauses == []
    assert waiters.enter(other.storage_key) is bool(most)


@pytest.mark.parametrize("how", ["in vain", "to an answer", "interrupted"])
async def test_who_waited_makes_room_for_the_next(either, time, how):
    found = [RUNNING, DONE] if how == "to an answer" else [RUNNING]
    either.over(IdempotencyConfig(wait_seconds=7, max_waiters=1), acquire=found)

    def interrupted(seconds):
        raise LookupError

    with suppress(LookupError):
        await either.begin(pause=interrupted if how == "interrupted" else time.pause)
    assert not either.lifecycle._waiters._waiting
    await either.begin(pause=time.pause)
    assert how == "to an answer" or time.pauses


async def test_who_waits_within_a_process_that_dies_counts_too(either, time):
    either.over(IdempotencyConfig(wait_seconds=7, max_waiters=1), acquire=[RUNNING])
    either.lifecycle._waiters.enter(OPERATION.storage_key)
    either.lifecycle = either.lifecycle.within(lambda: 60.0)
    assert await either.begin(pause=time.pause) == Reject(Reason.IN_PROGRESS, 3000)
    assert time.pauses == []


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


async def test_what_a_pause_raises_ends_the_waiting_without_another_claim(either, time):
    def gone(seconds):
        raise LookupError

    either.over(acquire=[RUNNING])
    with pytest.raises(LookupError):
        await either.begin(wait_seconds=5, pause=gone)
    assert either.store.verbs == ["acquire"]


async def test_without_a_pause_of_ones_own_time_is_slept_through(either):
    either.over(acquire=[RUNNING, DONE])
    if not either.is_async:
        # The default is the module's own sleep; a hundredth of a second shows that it is used.
        assert inspect.signature(either.lifecycle.begin).parameters["pause"].default.__name__ == "sleep"
    assert isinstance(await either.begin(wait_seconds=0.01), Replay)


# Settling.

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


@pytest.mark.parametrize(("ending", "on_error", "call"), ENDINGS)
async def test_how_a_run_ended_decides_what_is_written(either, ending, on_error, call):
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
async def test_a_result_is_encoded_only_where_one_is_kept(either, ending, asked):
    kept = []
    await either.over(IdempotencyConfig(on_error="store")).settle(ending, encode=lambda k: kept.append(k) or b"")
    assert kept == asked


@pytest.mark.row(53)
async def test_a_tombstone_is_reported_by_its_reason(either, caplog):
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
async def test_a_late_owner_gets_what_the_record_says_unless_part_of_its_own_is_out(
    either, caplog, lost, sent, reply
):
    assert await either.over(complete=[lost]).settle(WHOLE, sent=sent) == reply
    assert "claim was lost" in caplog.text


@pytest.mark.row(104)
@pytest.mark.parametrize(("ending", "verb"), [(WHOLE, "complete"), (Failed(), "release")])
async def test_a_store_that_fails_at_the_end_is_reported_and_the_answer_delivered(either, caplog, ending, verb):
    assert await either.over(**{verb: [DOWN]}).settle(ending) == Deliver()
    assert f"{verb} failed" in caplog.text
    assert "no route" in caplog.text


@pytest.mark.row(104)
@pytest.mark.parametrize(("ending", "verb"), [(WHOLE, "complete"), (Failed(), "release")])
async def test_an_error_that_no_layer_should_raise_at_the_end_costs_nobody_the_answer(
    either, caplog, ending, verb
):
    assert await either.over(**{verb: [KeyError("what it quotes may be a secret")]}).settle(ending) == Deliver()
    assert f"{verb} failed" in caplog.text
    assert "KeyError" in caplog.text
    assert "secret" not in caplog.text


async def test_an_answer_that_can_not_be_encoded_is_a_bug_and_goes_on(either):
    def broken(kept):
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        await either.over().settle(WHOLE, encode=broken)
    assert either.store.calls == []


async def test_a_lifecycle_makes_a_heartbeat_of_its_own_kind_not_started(either):
    claim = Claim(OPERATION, "a" * 32, 30000, 1000)
    beating = either.over().lifecycle.heartbeat(claim)
    assert type(beating) is (AsyncHeartbeat if either.is_async else Heartbeat)
    assert beating._ends == 0


# Cancellation, which only the async one has.


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
async def test_cancelled_while_it_settles_the_verb_is_said_again_and_reported(caplog, ending, verb, answer, told):
    class Slow(AsyncStore):
        async def complete(self, claim, result):
            await asyncio.sleep(0)
            return self._answer("complete", claim, result)

        async def release(self, claim):
            await asyncio.sleep(0)
            return self._answer("release", claim)

    store = Slow(**{verb: [answer]})
    settling = AsyncClaimLifecycle(store, IdempotencyConfig()).settle(
        Claim(OPERATION, "a" * 32, 30000, 1000), ending, lambda kept: b"result"
    )
    task = asyncio.ensure_future(settling)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert store.verbs == [verb]
    assert told in caplog.text
    assert bool(caplog.text) is bool(told)
