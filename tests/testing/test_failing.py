"""Layers that fail on demand, before or after the store has executed a verb."""

from typing import get_args

import pytest

from idempotency_mw.core.record import Acquired, Lost, Settled
from idempotency_mw.errors import IdempotencyPersistenceConnectionError
from idempotency_mw.persistence.base import VERBS
from idempotency_mw.persistence.memory import MemoryPersistenceLayer
from idempotency_mw.persistence.threaded import as_async
from idempotency_mw.testing import AsyncFailingPersistenceLayer, FailingPersistenceLayer, failing
from idempotency_mw.testing.harness import a_claim, rival


def test_a_planned_failure_never_reaches_the_store():
    layer = FailingPersistenceLayer(MemoryPersistenceLayer())
    layer.fail_before("acquire")
    claim = a_claim()
    with pytest.raises(IdempotencyPersistenceConnectionError):
        layer.acquire(claim)
    assert layer.complete(claim, b"") == Lost(None)
    assert layer.acquire(claim) == Acquired(1)
    assert layer.calls == ["acquire", "complete", "acquire"]


def test_a_reply_is_lost_after_the_store_has_executed_the_verb():
    layer = FailingPersistenceLayer(MemoryPersistenceLayer())
    claim = a_claim()
    layer.acquire(claim)
    layer.lose_reply("complete", OSError("gone"), times=2)
    for _ in range(2):
        with pytest.raises(OSError, match="gone"):
            layer.complete(claim, b"done")
    assert layer.complete(claim, b"done") == Settled()
    assert layer.acquire(rival(claim)).record.result == b"done"


def test_a_permanent_failure_ends_when_the_layer_is_healed():
    layer = FailingPersistenceLayer(MemoryPersistenceLayer())
    layer.fail_before("extend", times=None)
    for _ in range(3):
        with pytest.raises(IdempotencyPersistenceConnectionError):
            layer.extend(a_claim())
    layer.heal()
    assert layer.extend(a_claim()) is False


async def test_the_async_failing_layer_fails_like_the_blocking_one():
    layer = AsyncFailingPersistenceLayer(as_async(MemoryPersistenceLayer()))
    claim = a_claim()
    layer.lose_reply("acquire")
    with pytest.raises(IdempotencyPersistenceConnectionError):
        await layer.acquire(claim)
    assert await layer.acquire(claim) == Acquired(1)
    layer.fail_before("release")
    with pytest.raises(IdempotencyPersistenceConnectionError):
        await layer.release(claim)
    assert await layer.release(claim) is True


def test_faults_are_planned_for_the_verbs_of_a_layer():
    assert get_args(failing.Verb) == VERBS
