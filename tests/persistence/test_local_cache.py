"""Copies of completed records in this process: equal to the store's, and never kept longer."""

import asyncio
from collections.abc import Callable
from threading import Thread
from typing import Any

import pytest

from idempotency_mw.core.record import Acquired, Claim, Existing, Operation, Settled, Status
from idempotency_mw.persistence.local_cache import AsyncLocalCache, LocalCache
from idempotency_mw.persistence.memory import MemoryPersistenceLayer
from idempotency_mw.persistence.threaded import InPlacePersistenceLayer
from idempotency_mw.testing import ManualClock


class CountingLayer:
    """A layer that counts its acquires; `during` is called before each reply, to let time pass."""

    def __init__(self, clock: ManualClock) -> None:
        self.inner = MemoryPersistenceLayer(clock=clock)
        self.acquires = 0
        self.during: Callable[[], None] = lambda: None

    def acquire(self, claim: Claim) -> Any:
        self.acquires += 1
        found = self.inner.acquire(claim)
        self.during()
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def claim(key: str = "k", fingerprint: str = "f", token: str = "t", retention_ms: int = 60_000) -> Claim:
    operation = Operation(storage_key=key * 64, fingerprint=fingerprint * 64)
    return Claim(operation, token=token * 32, lease_ms=30_000, retention_ms=retention_ms)


class Cached:
    """A cache, blocking or async, called the same way."""

    def __init__(self, kind: str, max_items: int = 256) -> None:
        self.clock = ManualClock()
        self.layer = CountingLayer(self.clock)
        if kind == "blocking":
            self.cache: Any = LocalCache(self.layer, max_items, clock=self.clock)
        else:
            self.cache = AsyncLocalCache(InPlacePersistenceLayer(self.layer), max_items, clock=self.clock)

    def __getattr__(self, verb: str) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            outcome = getattr(self.cache, verb)(*arguments)
            return asyncio.run(outcome) if asyncio.iscoroutine(outcome) else outcome

        return call

    def completed(self, key: str = "k", result: bytes | None = b"answer") -> None:
        assert self.acquire(claim(key)) == Acquired(1)
        assert self.complete(claim(key), result) == Settled()


@pytest.fixture(params=["blocking", "async"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_completed_record_is_fetched_once(kind: str) -> None:
    cached = Cached(kind)
    cached.completed()
    asked = cached.layer.acquires
    answers = [cached.acquire(claim(token="a")) for _ in range(5)]
    assert {answer.record.result for answer in answers} == {b"answer"}
    assert cached.layer.acquires == asked + 1


def test_a_tombstone_is_cached_as_a_tombstone(kind: str) -> None:
    cached = Cached(kind)
    cached.completed(result=None)
    for _ in range(2):
        assert cached.acquire(claim(token="a")).record.status is Status.NOT_KEPT


def test_a_copy_never_outlives_its_record(kind: str) -> None:
    cached = Cached(kind)
    cached.completed()
    cached.clock.advance(20)
    assert cached.acquire(claim(token="a")).record.remaining_ms == 40_000
    cached.clock.advance(39.5)
    assert cached.acquire(claim(token="a")).record.remaining_ms == 500
    cached.clock.advance(0.5)
    assert cached.acquire(claim(token="a")) == Acquired(1)


def test_a_slow_reply_does_not_prolong_a_copy(kind: str) -> None:
    cached = Cached(kind)
    cached.completed()

    def slowly() -> None:
        cached.clock.advance(50)

    cached.layer.during = slowly
    cached.acquire(claim(token="a"))
    cached.layer.during = lambda: None
    cached.clock.advance(9.9)
    assert isinstance(cached.acquire(claim(token="a")), Existing)
    cached.clock.advance(0.2)
    assert cached.acquire(claim(token="a")) == Acquired(1)


def test_a_record_in_progress_is_never_cached(kind: str) -> None:
    cached = Cached(kind)
    cached.acquire(claim())
    assert cached.acquire(claim(token="a")).record.status is Status.IN_PROGRESS
    assert cached.extend(claim())
    assert cached.release(claim())
    assert cached.acquire(claim(token="a")) == Acquired(1)


def test_a_claim_with_another_fingerprint_gets_the_copy_with_its_fingerprint(kind: str) -> None:
    cached = Cached(kind)
    cached.completed()
    cached.acquire(claim(token="a"))
    assert cached.acquire(claim(fingerprint="e", token="b")).record.fingerprint == "f" * 64


def test_the_least_recently_used_copy_is_evicted_first(kind: str) -> None:
    cached = Cached(kind, max_items=2)
    for key in "abc":
        cached.completed(key)
    for key in "ab":
        cached.acquire(claim(key, token="x"))
    cached.acquire(claim("a", token="x"))
    cached.acquire(claim("c", token="x"))
    asked = cached.layer.acquires
    cached.acquire(claim("a", token="x"))
    cached.acquire(claim("c", token="x"))
    assert cached.layer.acquires == asked
    cached.acquire(claim("b", token="x"))
    assert cached.layer.acquires == asked + 1


def test_many_threads_share_one_cache() -> None:
    cached = Cached("blocking", max_items=3)
    for key in "abcdef":
        cached.completed(key)
    wrong: list[object] = []

    def ask() -> None:
        for turn in range(300):
            key = "abcdef"[turn % 6]
            found = cached.cache.acquire(claim(key, token="x"))
            if not isinstance(found, Existing) or found.record.result != b"answer":
                wrong.append(found)

    threads = [Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
