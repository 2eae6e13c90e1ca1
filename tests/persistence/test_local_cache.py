"""Copies of completed records in this process: equal to the store's, and never kept longer."""

import asyncio
from collections.abc import Callable
from threading import Thread
from typing import Any

import pytest

from idempotency_mw.core.record import Acquired, Claim, Existing, Lost, Operation, Settled, Status
from idempotency_mw.errors import IdempotencyPersistenceConnectionError
from idempotency_mw.persistence.local_cache import COPY_BYTES, MAX_BYTES, AsyncLocalCache, LocalCache
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

    def __init__(self, kind: str, max_items: int = 256, max_bytes: int = MAX_BYTES) -> None:
        self.clock = ManualClock()
        self.layer = CountingLayer(self.clock)
        if kind == "blocking":
            self.cache: Any = LocalCache(self.layer, max_items, max_bytes, clock=self.clock)
        else:
            layer = InPlacePersistenceLayer(self.layer)
            self.cache = AsyncLocalCache(layer, max_items, max_bytes, clock=self.clock)

    def __getattr__(self, verb: str) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            outcome = getattr(self.cache, verb)(*arguments)
            return asyncio.run(outcome) if asyncio.iscoroutine(outcome) else outcome

        return call

    def completed(self, key: str = "k", result: bytes | None = b"answer", **of_claim: Any) -> None:
        """Run here from beginning to end."""
        assert self.acquire(claim(key, **of_claim)) == Acquired(1)
        assert self.complete(claim(key, **of_claim), result) == Settled()

    def completed_elsewhere(self, key: str = "k", result: bytes | None = b"answer") -> None:
        """Run in another process, over the same store."""
        assert self.layer.inner.acquire(claim(key)) == Acquired(1)
        assert self.layer.inner.complete(claim(key), result) == Settled()

    @property
    def copies(self) -> set[str]:
        """The keys of which there is a copy."""
        return {key[0] for key in self.cache._copies._copies}


@pytest.fixture(params=["blocking", "async"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_completed_record_is_fetched_once(kind: str) -> None:
    cached = Cached(kind)
    cached.completed_elsewhere()
    answers = [cached.acquire(claim(token="a")) for _ in range(5)]
    assert {answer.record.result for answer in answers} == {b"answer"}
    assert cached.layer.acquires == 1


@pytest.mark.row(138)
@pytest.mark.parametrize("result", [b"answer", b"", None], ids=["answer", "empty", "tombstone"])
def test_a_run_that_completes_here_leaves_the_copy_that_an_acquire_would_find(
    kind: str, result: bytes | None
) -> None:
    cached = Cached(kind)
    cached.acquire(claim(token="d"))
    cached.clock.advance(31)
    assert cached.acquire(claim()) == Acquired(2)
    assert cached.complete(claim(), result) == Settled()
    asked = cached.layer.acquires
    found = cached.acquire(claim(token="a"))
    assert cached.layer.acquires == asked
    assert found == cached.layer.inner.acquire(claim(token="a"))
    assert found.record.attempt == 2


@pytest.mark.row(138)
def test_a_slow_completion_does_not_prolong_a_copy(kind: str) -> None:
    cached = Cached(kind)
    cached.acquire(claim())
    complete = cached.layer.inner.complete

    def slowly(*arguments: Any) -> Any:
        outcome = complete(*arguments)
        cached.clock.advance(50)
        return outcome

    cached.layer.inner.complete = slowly  # type: ignore[method-assign]
    cached.complete(claim(), b"answer")
    assert cached.acquire(claim(token="a")).record.remaining_ms == 10_000
    cached.clock.advance(10)
    assert cached.acquire(claim(token="a")) == Acquired(1)


@pytest.mark.row(138)
def test_a_lost_claim_leaves_no_copy(kind: str) -> None:
    cached = Cached(kind)
    cached.acquire(claim())
    cached.clock.advance(31)
    assert cached.layer.inner.acquire(claim(token="b")) == Acquired(2)
    assert isinstance(cached.complete(claim(), b"answer"), Lost)
    assert cached.copies == set()


@pytest.mark.row(138)
def test_only_the_first_completion_of_a_claim_leaves_a_copy(kind: str) -> None:
    # Its reply is lost. Asked again, the store says Settled, but what stands there is older, and the first result.
    cached = Cached(kind)
    cached.acquire(claim())
    complete = cached.layer.inner.complete

    def lost(*arguments: Any) -> Any:
        complete(*arguments)
        raise IdempotencyPersistenceConnectionError("the reply was lost")

    cached.layer.inner.complete = lost  # type: ignore[method-assign]
    with pytest.raises(IdempotencyPersistenceConnectionError):
        cached.complete(claim(), b"first")
    del cached.layer.inner.complete
    assert cached.complete(claim(), b"second") == Settled()
    assert cached.copies == set()
    assert cached.acquire(claim(token="a")).record.result == b"first"


def test_the_attempts_that_are_remembered_are_bounded(kind: str) -> None:
    cached = Cached(kind, max_items=2)
    for key in "abc":
        cached.acquire(claim(key, token=key))
    cached.release(claim("b", token="b"))
    for key in "ac":
        assert cached.complete(claim(key, token=key), b"") == Settled()
    assert cached.copies == {"c"}
    assert len(cached.cache._copies._attempts) == 0


@pytest.mark.row(138)
def test_copies_are_bounded_in_bytes(kind: str) -> None:
    cached = Cached(kind, max_bytes=2 * (COPY_BYTES + 1000))
    cached.completed("a", b"x" * 1000)
    cached.completed("b", b"x" * 1000)
    assert cached.copies == {"a", "b"}
    cached.completed("c", b"x")
    assert cached.copies == {"b", "c"}
    cached.completed("d", b"x" * (COPY_BYTES + 2001))
    assert cached.copies == {"b", "c"}
    cached.completed("e", b"x" * (COPY_BYTES + 2000))
    assert cached.copies == {"e"}
    for _ in range(2):
        assert cached.acquire(claim("d", token="x")).record.result is not None
    assert cached.layer.acquires == 7


@pytest.mark.row(138)
def test_what_has_expired_is_dropped_when_the_next_is_kept(kind: str) -> None:
    cached = Cached(kind)
    cached.completed("a", retention_ms=5_000)
    cached.completed("b", retention_ms=10_000)
    cached.completed("c")
    cached.clock.advance(5)
    cached.completed("a", retention_ms=60_000)  # again, and longer
    cached.clock.advance(5)
    assert cached.copies == {"a", "b", "c"}
    cached.completed("d")
    assert cached.copies == {"a", "c", "d"}
    assert cached.cache._copies._bytes == 3 * (COPY_BYTES + len(b"answer"))


def test_the_expiries_that_are_remembered_are_bounded(kind: str) -> None:
    cached = Cached(kind, max_items=2)
    for key in "abcdefghi":
        cached.completed(key)
    assert len(cached.cache._copies._expiries) <= 4
    cached.clock.advance(60)
    cached.completed("z")
    assert cached.copies == {"z"}


def test_a_tombstone_is_cached_as_a_tombstone(kind: str) -> None:
    cached = Cached(kind)
    cached.completed_elsewhere(result=None)
    for _ in range(2):
        assert cached.acquire(claim(token="a")).record.status is Status.NOT_KEPT
    assert cached.layer.acquires == 1


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
    cached.completed_elsewhere()

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
