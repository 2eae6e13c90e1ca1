"""A blocking layer offered to async code."""

import asyncio
import os
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar, cast

from idempotency_mw.core.record import Acquired, Claim, Existing, Lost, Settled
from idempotency_mw.errors import IdempotencyPersistenceConnectionError, IdempotencyPersistenceLayerError
from idempotency_mw.persistence.base import AsyncPersistenceLayer, PersistenceLayer, is_async

__all__ = ["InPlacePersistenceLayer", "ThreadedPersistenceLayer", "as_async"]

Answer = TypeVar("Answer")

GRACE_SECONDS = 0.05
"""By how much the async deadline is later than the layer's own, whose error says more. The layer promises to
keep its deadline within 0.1 s, and half of that is enough for a thread to hand its error over."""


def as_async(layer: PersistenceLayer | AsyncPersistenceLayer) -> AsyncPersistenceLayer:
    """Return the layer itself if it is async, else a layer that calls it in place, or in threads of its own."""
    if is_async(layer):
        return layer
    blocking = cast("PersistenceLayer", layer)
    if getattr(blocking, "runs_in_place", False):
        return InPlacePersistenceLayer(blocking)
    return ThreadedPersistenceLayer(blocking)


class InPlacePersistenceLayer:
    """An async layer around a blocking one whose verbs never wait: it calls them directly."""

    def __init__(self, layer: PersistenceLayer) -> None:
        self._layer = layer

    async def acquire(self, claim: Claim) -> Acquired | Existing:
        """As `PersistenceLayer.acquire`."""
        return self._layer.acquire(claim)

    async def extend(self, claim: Claim) -> bool:
        """As `PersistenceLayer.extend`."""
        return self._layer.extend(claim)

    async def complete(self, claim: Claim, result: bytes | None) -> Settled | Lost:
        """As `PersistenceLayer.complete`."""
        return self._layer.complete(claim, result)

    async def release(self, claim: Claim) -> bool:
        """As `PersistenceLayer.release`."""
        return self._layer.release(claim)


class ThreadedPersistenceLayer:
    """An async layer around a blocking one. Runs its verbs in threads of its own, which the app can't exhaust.

    If the layer has `timeout_seconds`, each verb has a deadline. A thread can't be stopped: when the caller is
    cancelled or out of time, the verb goes on to its end. A claim that it still acquires is released after that,
    never beside it:

        caller    acquire ────────── cancelled
        thread    acquire ─────────────────────── acquired ── release

    Acquires have threads apart from the other verbs. New requests are many, and may be refused; but a run has
    to be settled, and must not queue behind a thousand acquires until its time is over.

    `threads` is the number for each of the two kinds. Each costs the blocking layer up to one connection;
    SQLite and the memory layer run one verb at a time anyway.
    """

    def __init__(self, layer: PersistenceLayer, *, threads: int = 8) -> None:
        self._layer = layer
        self._size = threads
        self._threads = _Threads(threads)
        timeout: float | None = getattr(layer, "timeout_seconds", None)
        self._timeout = None if timeout is None else timeout + GRACE_SECONDS

    async def acquire(self, claim: Claim) -> Acquired | Existing:
        """As `PersistenceLayer.acquire`."""
        threads = self._here()
        future = threads.acquiring.submit(self._layer.acquire, claim)
        try:
            return await self._end_of(future)
        except (asyncio.CancelledError, IdempotencyPersistenceConnectionError):
            # If the future is done already, the callback runs at once, here on the event loop. So it only submits.
            future.add_done_callback(lambda done: threads.standing.submit(self._release_if_acquired, done, claim))
            raise

    async def extend(self, claim: Claim) -> bool:
        """As `PersistenceLayer.extend`."""
        return await self._end_of(self._here().standing.submit(self._layer.extend, claim))

    async def complete(self, claim: Claim, result: bytes | None) -> Settled | Lost:
        """As `PersistenceLayer.complete`."""
        return await self._end_of(self._here().standing.submit(self._layer.complete, claim, result))

    async def release(self, claim: Claim) -> bool:
        """As `PersistenceLayer.release`."""
        return await self._end_of(self._here().standing.submit(self._layer.release, claim))

    def _here(self) -> "_Threads":
        """Return the threads of this process: a forked child inherits the objects, but no running thread."""
        if self._threads.pid != os.getpid():
            self._threads = _Threads(self._size)
        return self._threads

    async def _end_of(self, future: Future[Answer]) -> Answer:
        try:
            async with asyncio.timeout(self._timeout):
                return await asyncio.wrap_future(future)
        except TimeoutError as error:
            raise IdempotencyPersistenceConnectionError(
                f"the persistence layer did not answer within {self._timeout} s"
            ) from error

    def _release_if_acquired(self, acquired: Future[Any], claim: Claim) -> None:
        if acquired.cancelled() or acquired.exception() or not isinstance(acquired.result(), Acquired):
            return
        try:
            self._layer.release(claim)
        except IdempotencyPersistenceLayerError:
            return  # the lease ends it


class _Threads:
    """The threads of one process: for new claims, and for claims that stand."""

    def __init__(self, threads: int) -> None:
        self.pid = os.getpid()
        self.acquiring = ThreadPoolExecutor(threads, thread_name_prefix="idempotency_mw acquiring")
        self.standing = ThreadPoolExecutor(threads, thread_name_prefix="idempotency_mw standing")
