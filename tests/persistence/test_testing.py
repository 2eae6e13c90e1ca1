"""The parts that are offered for tests: they do what they say, and the suite finds what is wrong with a layer."""

import subprocess
import sys
from dataclasses import replace
from unittest import SkipTest

import pytest

from idempotency_mw.core.record import Acquired, Lost, Settled
from idempotency_mw.errors import IdempotencyPersistenceConnectionError
from idempotency_mw.persistence import verbs
from idempotency_mw.persistence.memory import MemoryPersistenceLayer
from idempotency_mw.persistence.threaded import as_async
from idempotency_mw.testing import (
    AsyncFailingPersistenceLayer,
    FailingPersistenceLayer,
    ManualClock,
    PersistenceConformance,
)
from idempotency_mw.testing.harness import a_claim, rival


def test_the_clock_stands_until_it_is_moved():
    clock = ManualClock(5)
    assert clock() == clock() == 5
    clock.advance(2.5)
    assert clock() == 7.5
    assert repr(clock) == "<ManualClock at 7.5 s>"


def test_a_planned_failure_never_reaches_the_store():
    layer = FailingPersistenceLayer(MemoryPersistenceLayer())
    layer.fail_before("acquire")
    claim = a_claim()
    with pytest.raises(IdempotencyPersistenceConnectionError):
        layer.acquire(claim)
    assert layer.complete(claim, b"") == Lost(None)
    assert layer.acquire(claim) == Acquired(1)
    assert layer.calls == ["acquire", "complete", "acquire"]


def test_a_lost_reply_is_lost_after_the_store_did_it():
    layer = FailingPersistenceLayer(MemoryPersistenceLayer())
    claim = a_claim()
    layer.acquire(claim)
    layer.lose_reply("complete", OSError("gone"), times=2)
    for _ in range(2):
        with pytest.raises(OSError, match="gone"):
            layer.complete(claim, b"done")
    assert layer.complete(claim, b"done") == Settled()
    assert layer.acquire(rival(claim)).record.result == b"done"


def test_a_failure_for_good_ends_when_the_layer_is_healed():
    layer = FailingPersistenceLayer(MemoryPersistenceLayer())
    layer.fail_before("extend", times=None)
    for _ in range(3):
        with pytest.raises(IdempotencyPersistenceConnectionError):
            layer.extend(a_claim())
    layer.heal()
    assert layer.extend(a_claim()) is False


async def test_async_layers_fail_alike():
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


def test_importing_the_package_or_its_testing_part_needs_no_pytest():
    code = "import sys; sys.modules['pytest'] = None; import idempotency_mw, idempotency_mw.testing"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_suite_must_say_how_its_layer_is_made_and_may_leave_the_rest_out():
    suite = PersistenceConformance()
    with pytest.raises(NotImplementedError):
        suite.make_layer()
    with pytest.raises(SkipTest):
        suite.plant("key", b"")
    with pytest.raises(SkipTest):
        suite.peek("key")
    suite.teardown_method()


class Wrong(MemoryPersistenceLayer):
    """A layer with one mistake, made of the right one."""


class CompletesWithoutComparing(Wrong):
    def complete(self, claim, result):
        held = self._records.get(claim.storage_key)
        return super().complete(replace(claim, token=held.frame.token) if held else claim, result)


class ReleasesWithoutComparing(Wrong):
    def release(self, claim):
        held = self._records.get(claim.storage_key)
        return super().release(replace(claim, token=held.frame.token) if held else claim)


class ExtendsWithoutComparing(Wrong):
    def extend(self, claim):
        held = self._records.get(claim.storage_key)
        return super().extend(replace(claim, token=held.frame.token) if held else claim)


class ForgetsItsOwnToken(Wrong):
    def acquire(self, claim):
        return super().acquire(replace(claim, token="0" * 32))


class CountsNoAttempts(Wrong):
    def acquire(self, claim):
        found = super().acquire(claim)
        return Acquired(1) if isinstance(found, Acquired) else found


class TakesOverWhatIsForbidden(Wrong):
    def acquire(self, claim):
        return super().acquire(replace(claim, may_take_over=True))


class CreatesWhatIsGone(Wrong):
    def complete(self, claim, result):
        if claim.storage_key not in self._records:
            self.acquire(claim)
        return super().complete(claim, result)


class KeepsAnEmptyResultAsNone(Wrong):
    def complete(self, claim, result):
        return super().complete(claim, result or None)


class ExpiresWithTheLease(Wrong):
    def acquire(self, claim):
        return super().acquire(replace(claim, retention_ms=claim.lease_ms))


class CountsRetentionFromTheFirst(Wrong):
    def complete(self, claim, result):
        held = self._records.get(claim.storage_key)
        left = held.expires_ms - self._now_ms() if held else 1
        return super().complete(replace(claim, retention_ms=max(left, 1)), result)


class CompletesAgain(Wrong):
    def complete(self, claim, result):
        held = self._records.get(claim.storage_key)
        if held and held.frame.token == claim.token:
            running = replace(held.frame, status=verbs.Status.IN_PROGRESS, result=b"")
            self._records[claim.storage_key] = replace(held, frame=running)
        return super().complete(claim, result)


@pytest.mark.parametrize("wrong", Wrong.__subclasses__())
def test_the_suite_finds_each_mistake_of_a_layer(wrong):
    clock = ManualClock()

    class Suite(PersistenceConformance):
        contenders = 4

        def make_layer(self):
            return wrong(clock=clock)

        def pass_time(self, seconds):
            clock.advance(seconds)

    assert failures(Suite), wrong


def test_the_suite_finds_no_mistake_where_there_is_none():
    clock = ManualClock()

    class Suite(PersistenceConformance):
        def make_layer(self):
            return MemoryPersistenceLayer(clock=clock)

        def pass_time(self, seconds):
            clock.advance(seconds)

    assert failures(Suite) == []


def test_the_suite_finds_a_layer_that_takes_noise_for_free():
    class Suite(PersistenceConformance):
        def make_layer(self):
            return MemoryPersistenceLayer()

        def plant(self, storage_key, data):
            pass

        def peek(self, storage_key):
            return b"noise"

    case = Suite()
    with pytest.raises(AssertionError, match="IdempotencyRecordError"):
        case.test_what_is_no_record_is_an_error_and_stays_as_it_is()
    case.teardown_method()


def failures(suite):
    failed = []
    for name in [name for name in dir(suite) if name.startswith("test_")]:
        case = suite()
        try:
            getattr(case, name)()
        except SkipTest:
            continue
        except AssertionError:
            failed.append(name)
        finally:
            case.teardown_method()
    return failed
