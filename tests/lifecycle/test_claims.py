"""How a claim begins, in both lifecycles: each does what the machine decides about the store's answer."""

import asyncio
import time as real_time

import pytest

from idempotency_mw import IdempotencyConfig
from idempotency_mw.core.machine import Execute, Reason, Reject, Replay, Unprotected
from idempotency_mw.core.record import Acquired, Existing, Record, Status
from idempotency_mw.errors import IdempotencyRecordError
from idempotency_mw.lifecycle.async_heartbeat import AsyncHeartbeat
from idempotency_mw.lifecycle.heartbeat import Heartbeat
from tests.lifecycle.scripted import CLAIM, DONE, DOWN, OPERATION, OTHER, RUNNING, claim_of


async def test_an_acquired_claim_is_executed(either):
    config = IdempotencyConfig(lease_seconds=1.5, expires_after_seconds=7)
    decision = await either.over(config, acquire=[Acquired(3)]).begin()
    assert isinstance(decision, Execute)
    assert decision.attempt == 3
    claim = decision.claim
    assert (claim.operation, claim.lease_ms, claim.retention_ms) == (OPERATION, 1500, 7000)
    assert claim.may_take_over
    assert either.store.calls == [("acquire", claim)]


@pytest.mark.fault(7)
async def test_with_after_crash_refuse_no_claim_may_take_over(either):
    decision = await either.over(IdempotencyConfig(after_crash="refuse")).begin()
    assert not decision.claim.may_take_over


async def test_each_try_to_acquire_has_a_fresh_token(either, time):
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
async def test_the_existing_record_decides_what_a_duplicate_gets(either, found, decision):
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
async def test_a_store_failure_is_reported_and_the_policy_decides(either, caplog, error, policy, decision, told):
    assert await either.over(IdempotencyConfig(on_store_failure=policy), acquire=[error]).begin() == decision
    assert told in caplog.text
    assert OPERATION.storage_key not in caplog.text


async def test_an_error_that_no_layer_should_raise_reaches_the_caller(either):
    with pytest.raises(KeyError):
        await either.over(acquire=[KeyError("a bug")]).begin()


async def test_a_lifecycle_returns_a_heartbeat_of_its_kind_that_beats_only_once_it_is_started(either):
    either.over(IdempotencyConfig(lease_seconds=0.03))
    not_started, started = either.lifecycle.heartbeat(CLAIM), either.lifecycle.heartbeat(claim_of(1))
    assert type(not_started) is type(started) is (AsyncHeartbeat if either.is_async else Heartbeat)
    started.start()
    ends = real_time.monotonic() + 5
    while len(either.store.extended) < 3:
        assert real_time.monotonic() < ends
        await asyncio.sleep(0.002)
    started.stop()
    assert CLAIM not in either.store.extended
