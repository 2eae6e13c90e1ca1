"""The conformance suite finds each mistake of a layer, and none in a correct one."""

import subprocess
import sys
from dataclasses import replace
from unittest import SkipTest

import pytest

from idempotency_mw.core.record import Acquired
from idempotency_mw.persistence import verbs
from idempotency_mw.persistence.memory import MemoryPersistenceLayer
from idempotency_mw.testing import ManualClock, PersistenceConformance


def test_the_package_and_its_testing_module_can_be_imported_without_pytest():
    code = "import sys; sys.modules['pytest'] = None; import idempotency_mw, idempotency_mw.testing"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_suite_must_define_make_layer_and_may_omit_the_rest():
    suite = PersistenceConformance()
    with pytest.raises(NotImplementedError):
        suite.make_layer()
    with pytest.raises(SkipTest):
        suite.plant("key", b"")
    with pytest.raises(SkipTest):
        suite.peek("key")
    suite.teardown_method()


class Wrong(MemoryPersistenceLayer):
    """The memory layer; each subclass adds one mistake."""


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


def test_the_suite_finds_no_mistake_in_the_memory_layer():
    clock = ManualClock()

    class Suite(PersistenceConformance):
        def make_layer(self):
            return MemoryPersistenceLayer(clock=clock)

        def pass_time(self, seconds):
            clock.advance(seconds)

    assert failures(Suite) == []


def test_the_suite_finds_a_layer_that_takes_unreadable_bytes_for_a_free_key():
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
