"""A layer around a layer, which keeps copies of completed records in this process.

A completed record never changes until it expires, so a copy that expires with it is as good. A claim with another
fingerprint gets the copy too: the machine compares fingerprints.

Flushing or deleting records in the store does not reach the copies.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from threading import Lock

from idempotency_mw.core.record import Acquired, Claim, Existing, Lost, Record, Settled, Status
from idempotency_mw.persistence.base import AsyncPersistenceLayer, PersistenceLayer

__all__ = ["AsyncLocalCache", "LocalCache"]

Clock = Callable[[], float]


class _Copies:
    """The completed records used last, bounded in number, safe between threads."""

    def __init__(self, max_items: int, clock: Clock) -> None:
        self._max_items = max_items
        self._clock = clock
        self._lock = Lock()
        self._copies: OrderedDict[str, tuple[Record, float]] = OrderedDict()

    def get(self, claim: Claim) -> Existing | None:
        """Return the copy with its remaining time, or None if there is none or it has expired."""
        with self._lock:
            copy = self._copies.get(claim.storage_key)
            if copy is None:
                return None
            record, expires = copy
            left_ms = int((expires - self._clock()) * 1000)
            if left_ms <= 0:
                del self._copies[claim.storage_key]
                return None
            self._copies.move_to_end(claim.storage_key)
            return Existing(replace(record, remaining_ms=left_ms))

    def now(self) -> float:
        """Return the seconds on the clock by which copies expire."""
        return self._clock()

    def put(self, claim: Claim, found: Acquired | Existing, asked: float) -> None:
        """Keep the record that an acquire found, if it is completed; beyond the bound, drop the oldest.

        `asked` is when the store was asked. The remaining time counts from then, so that after a slow reply the
        copy does not outlive the record.
        """
        if isinstance(found, Acquired) or found.record.status is Status.IN_PROGRESS:
            return
        with self._lock:
            self._copies[claim.storage_key] = found.record, asked + found.record.remaining_ms / 1000
            self._copies.move_to_end(claim.storage_key)
            if len(self._copies) > self._max_items:
                self._copies.popitem(last=False)


class LocalCache:
    """A blocking layer around a blocking layer."""

    def __init__(self, layer: PersistenceLayer, max_items: int, *, clock: Clock = time.monotonic) -> None:
        self._layer = layer
        self._copies = _Copies(max_items, clock)

    def acquire(self, claim: Claim) -> Acquired | Existing:
        """As `PersistenceLayer.acquire`."""
        copy = self._copies.get(claim)
        if copy is not None:
            return copy
        asked = self._copies.now()
        found = self._layer.acquire(claim)
        self._copies.put(claim, found, asked)
        return found

    def extend(self, claim: Claim) -> bool:
        """As `PersistenceLayer.extend`."""
        return self._layer.extend(claim)

    def complete(self, claim: Claim, result: bytes | None) -> Settled | Lost:
        """As `PersistenceLayer.complete`. It makes no copy: the first duplicate that asks here does."""
        return self._layer.complete(claim, result)

    def release(self, claim: Claim) -> bool:
        """As `PersistenceLayer.release`."""
        return self._layer.release(claim)


class AsyncLocalCache:
    """An async layer around an async layer."""

    def __init__(self, layer: AsyncPersistenceLayer, max_items: int, *, clock: Clock = time.monotonic) -> None:
        self._layer = layer
        self._copies = _Copies(max_items, clock)

    async def acquire(self, claim: Claim) -> Acquired | Existing:
        """As `PersistenceLayer.acquire`."""
        copy = self._copies.get(claim)
        if copy is not None:
            return copy
        asked = self._copies.now()
        found = await self._layer.acquire(claim)
        self._copies.put(claim, found, asked)
        return found

    async def extend(self, claim: Claim) -> bool:
        """As `PersistenceLayer.extend`."""
        return await self._layer.extend(claim)

    async def complete(self, claim: Claim, result: bytes | None) -> Settled | Lost:
        """As `PersistenceLayer.complete`. It makes no copy: the first duplicate that asks here does."""
        return await self._layer.complete(claim, result)

    async def release(self, claim: Claim) -> bool:
        """As `PersistenceLayer.release`."""
        return await self._layer.release(claim)

    async def until_released(self, seconds: float) -> None:
        """As the layer's own, where it has one."""
        until_released = getattr(self._layer, "until_released", None)
        if until_released is not None:
            await until_released(seconds)
