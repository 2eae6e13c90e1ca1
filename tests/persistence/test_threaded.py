"""A blocking layer in async code: its threads, its deadline, and acquires that nobody awaits any more."""

import asyncio
import os
import threading
import time

import pytest

from idempotency_mw.core.record import Acquired, Existing, Settled
from idempotency_mw.errors import IdempotencyPersistenceConnectionError, IdempotencyPersistenceLayerError
from idempotency_mw.persistence.base import is_async, verbs_of
from idempotency_mw.persistence.memory import MemoryPersistenceLayer
from idempotency_mw.persistence.redis import AsyncRedisPersistenceLayer
from idempotency_mw.persistence.threaded import InPlacePersistenceLayer, ThreadedPersistenceLayer, as_async
from idempotency_mw.testing import FailingPersistenceLayer
from idempotency_mw.testing.harness import a_claim, rival


class StoredFrame(FailingPersistenceLayer):
    """A layer whose acquire sets `begun` and then waits for `go`. `memory` is the layer inside."""

    timeout_seconds = 0.2

    def __init__(self):
        self.memory = MemoryPersistenceLayer()
        super().__init__(self.memory)
        self.begun, self.go = threading.Event(), threading.Event()

    def acquire(self, claim):
        self.begun.set()
        self.go.wait(10)
        return super().acquire(claim)


@pytest.fixture
def held():
    layer = StoredFrame()
    yield layer
    layer.go.set()


async def called(layer, verb):
    """Wait until the verb was called."""
    async with asyncio.timeout(5):
        while verb not in layer.calls:
            await asyncio.sleep(0.01)


async def cancelled_acquire(layer, held, claim):
    """Cancel an acquire while its thread waits in the layer inside."""
    task = asyncio.create_task(layer.acquire(claim))
    await asyncio.to_thread(held.begun.wait)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_an_async_layer_is_used_as_it_is():
    layer = AsyncRedisPersistenceLayer.from_url("redis://localhost")
    assert as_async(layer) is layer
    assert isinstance(as_async(MemoryPersistenceLayer()), InPlacePersistenceLayer)
    assert isinstance(as_async(FailingPersistenceLayer(MemoryPersistenceLayer())), ThreadedPersistenceLayer)
    assert is_async(as_async(MemoryPersistenceLayer()))


def test_verbs_of_gives_none_for_a_missing_verb():
    class Half:
        def acquire(self, claim): ...

    assert [verb is None for verb in verbs_of(Half())] == [False, True, True, True]


@pytest.mark.row(77)
@pytest.mark.fault(4, 12)
async def test_a_cancelled_acquire_is_released_after_it_has_ended(held):
    layer = ThreadedPersistenceLayer(held)
    claim = a_claim()
    await cancelled_acquire(layer, held, claim)
    assert held.calls == []
    held.go.set()
    await called(held, "release")
    assert held.calls == ["acquire", "release"]
    assert await layer.acquire(rival(claim)) == Acquired(1)


@pytest.mark.row(102)
@pytest.mark.fault(4)
async def test_an_acquire_past_its_deadline_is_released_after_it_has_ended(held):
    layer = ThreadedPersistenceLayer(held)
    claim = a_claim()
    begun = time.monotonic()
    with pytest.raises(IdempotencyPersistenceConnectionError) as failed:
        await layer.acquire(claim)
    # Without a deadline it would wait for ever. What is beyond a tenth of a second is for a busy machine.
    assert time.monotonic() - begun < held.timeout_seconds + 2.0
    assert isinstance(failed.value.__cause__, TimeoutError)
    held.go.set()
    await called(held, "release")
    assert held.calls == ["acquire", "release"]


async def test_a_cancelled_acquire_that_found_a_record_releases_nothing(held):
    claim = a_claim()
    held.memory.acquire(claim)
    layer = ThreadedPersistenceLayer(held)
    await cancelled_acquire(layer, held, rival(claim))
    held.go.set()
    await called(held, "acquire")
    await asyncio.sleep(0.05)
    assert held.calls == ["acquire"]
    assert isinstance(await layer.acquire(rival(claim)), Existing)


async def test_a_cancelled_acquire_that_failed_releases_nothing(held):
    held.fail_before("acquire")
    layer = ThreadedPersistenceLayer(held)
    await cancelled_acquire(layer, held, a_claim())
    held.go.set()
    await called(held, "acquire")
    await asyncio.sleep(0.05)
    assert held.calls == ["acquire"]


async def test_an_acquire_that_never_began_is_not_released(held):
    layer = ThreadedPersistenceLayer(held, threads=1)
    first = asyncio.create_task(layer.acquire(a_claim()))
    await asyncio.to_thread(held.begun.wait)
    second = asyncio.create_task(layer.acquire(a_claim()))
    await asyncio.sleep(0)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    held.go.set()
    assert await first == Acquired(1)
    assert held.calls == ["acquire"]


async def test_a_release_in_doubt_that_fails_raises_nothing(held):
    held.fail_before("release")
    layer = ThreadedPersistenceLayer(held)
    await cancelled_acquire(layer, held, a_claim())
    held.go.set()
    await called(held, "release")


async def test_the_layers_own_error_is_raised_and_not_that_of_the_deadline():
    failing = FailingPersistenceLayer(MemoryPersistenceLayer())
    failing.fail_before("extend", IdempotencyPersistenceLayerError("its own"))
    with pytest.raises(IdempotencyPersistenceLayerError, match="its own"):
        await ThreadedPersistenceLayer(failing).extend(a_claim())


async def test_verbs_run_in_threads_of_the_layer():
    names = []

    class Layer(FailingPersistenceLayer):
        def extend(self, claim):
            names.append(threading.current_thread().name)
            return super().extend(claim)

    await ThreadedPersistenceLayer(Layer(MemoryPersistenceLayer())).extend(a_claim())
    assert names[0].startswith("idempotency_mw")


async def test_a_claim_is_settled_although_acquires_occupy_all_their_threads(held):
    """Many new requests must not prevent the running ones from storing their answers."""
    layer = ThreadedPersistenceLayer(held, threads=1)
    claim = a_claim()
    held.memory.acquire(claim)
    burst = [asyncio.create_task(layer.acquire(a_claim())) for _ in range(20)]
    await asyncio.to_thread(held.begun.wait)
    assert await layer.extend(claim)
    assert await layer.complete(claim, b"answer") == Settled()
    assert not any(task.done() for task in burst)
    held.go.set()
    await asyncio.gather(*burst, return_exceptions=True)


async def test_an_acquire_that_ends_as_it_is_cancelled_is_released_in_a_thread():
    released_in = []

    class Layer(FailingPersistenceLayer):
        def release(self, claim):
            released_in.append(threading.current_thread().name)
            return super().release(claim)

    inner = Layer(MemoryPersistenceLayer())
    layer = ThreadedPersistenceLayer(inner)
    task = asyncio.create_task(layer.acquire(a_claim()))
    await asyncio.sleep(0)
    while "acquire" not in inner.calls:
        time.sleep(0.001)  # without await, so the loop does not learn of the end
    time.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await called(inner, "release")
    assert released_in[0].startswith("idempotency_mw standing")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_has_its_own_threads():
    layer = ThreadedPersistenceLayer(MemoryPersistenceLayer(), threads=1)
    assert asyncio.run(layer.acquire(a_claim())) == Acquired(1)
    child = os.fork()
    if child == 0:  # pragma: no cover - another process
        status = 1
        try:
            status = 0 if asyncio.run(asyncio.wait_for(layer.acquire(a_claim()), 5)) == Acquired(1) else 1
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


async def test_threads_that_another_process_made_are_not_used(monkeypatch):
    used = []

    class Layer(FailingPersistenceLayer):
        def acquire(self, claim):
            used.append(threading.current_thread())
            return super().acquire(claim)

    layer = ThreadedPersistenceLayer(Layer(MemoryPersistenceLayer()), threads=1)
    for pid in (os.getpid(), os.getpid(), -1):
        monkeypatch.setattr(os, "getpid", lambda pid=pid: pid)
        claim = a_claim()
        assert await layer.acquire(claim) == Acquired(1)
        assert await layer.release(claim)
    before, again, after_a_fork = used
    assert again is before
    assert after_a_fork is not before
