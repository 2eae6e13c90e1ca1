"""Properties of the memory layer alone: its size is bounded, and closing it forgets all records."""

from idempotency_mw.core.record import Acquired, Existing
from idempotency_mw.persistence.memory import SLACK, MemoryPersistenceLayer
from idempotency_mw.testing import ManualClock
from idempotency_mw.testing.harness import a_claim, rival
from tests.memory import expiries


def test_expired_records_are_dropped_and_renewed_ones_are_not():
    clock = ManualClock()
    with MemoryPersistenceLayer(clock=clock) as layer:
        short = [a_claim(lease_ms=1000, retention_ms=1000) for _ in range(10)]
        for claim in short:
            layer.acquire(claim)
        clock.advance(0.5)
        assert layer.extend(short[0]) is True
        layer.release(short[1])
        clock.advance(0.5)
        layer.acquire(a_claim())
        assert repr(layer) == "<MemoryPersistenceLayer of 2 records>"
        assert isinstance(layer.acquire(rival(short[0])), Existing)
        clock.advance(1)
        layer.acquire(a_claim())
        assert repr(layer) == "<MemoryPersistenceLayer of 2 records>"


def test_closing_forgets_everything():
    layer = MemoryPersistenceLayer()
    claim = a_claim()
    layer.check()
    layer.acquire(claim)
    layer.close()
    assert layer.acquire(rival(claim)) == Acquired(1)


def test_released_keys_do_not_fill_the_memory():
    with MemoryPersistenceLayer() as layer:
        kept = a_claim()
        layer.acquire(kept)
        for _ in range(3 * SLACK):
            claim = a_claim()
            layer.acquire(claim)
            layer.release(claim)
        assert expiries(layer) <= SLACK + 10
        assert isinstance(layer.acquire(rival(kept)), Existing)


def test_records_still_expire_after_the_heap_was_rebuilt():
    clock = ManualClock()
    with MemoryPersistenceLayer(clock=clock) as layer:
        layer.acquire(a_claim(lease_ms=1000, retention_ms=1000))
        beating = a_claim(lease_ms=1000, retention_ms=2000)
        layer.acquire(beating)
        for _ in range(2 * SLACK):
            layer.extend(beating)
        clock.advance(1)
        layer.acquire(a_claim())
        assert repr(layer) == "<MemoryPersistenceLayer of 2 records>"
