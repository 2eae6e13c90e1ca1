"""A layer around a layer, which keeps copies of completed records in this process.

A completed record never changes until it expires, so a copy that expires with it is as good. A claim with another
fingerprint gets the copy too: the machine compares fingerprints.

A copy is made of what an acquire found, and of what a run here completed. `complete` returns no attempt, so the
cache remembers the one that `acquire` returned, by the claim's token. It forgets it at the first `complete` or
`release` of that claim, whatever comes of it: a second `complete` may find that the first one took effect earlier,
with another result, and a copy of the second would be wrong. Where the attempt is not known, no copy is made, and
the first duplicate asks the store.

Flushing or deleting records in the store does not reach the copies.
"""

import heapq
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from threading import Lock

from idempotency_mw.core.record import Acquired, Claim, Existing, Lost, Record, Settled, Status
from idempotency_mw.persistence.base import AsyncPersistenceLayer, PersistenceLayer

__all__ = ["MAX_BYTES", "AsyncLocalCache", "LocalCache"]

Clock = Callable[[], float]

MAX_BYTES = 64 * 2**20
"""The default bound. 256 answers, the default of `local_cache_max_items`, of up to 1 MiB, the default of
`max_response_body`, would be 256 MiB in each process: more than most workers weigh without them."""

COPY_BYTES = 600
"""What one copy takes beside its result: key, fingerprint, the record, and its places here. Measured with
tracemalloc: 510 bytes on CPython 3.11."""


class _Copies:
    """The completed records used last, bounded in number and in bytes, safe between threads."""

    def __init__(self, max_items: int, max_bytes: int, clock: Clock) -> None:
        self._max_items = max_items
        self._max_bytes = max_bytes
        self._clock = clock
        self._lock = Lock()
        self._copies: OrderedDict[str, tuple[Record, float]] = OrderedDict()
        self._bytes = 0
        self._expiries: list[tuple[float, str]] = []
        self._attempts: OrderedDict[str, int] = OrderedDict()

    def get(self, claim: Claim) -> Existing | None:
        """Return the copy with its remaining time, or None if there is none or it has expired."""
        with self._lock:
            copy = self._copies.get(claim.storage_key)
            if copy is None:
                return None
            record, expires = copy
            left_ms = int((expires - self._clock()) * 1000)
            if left_ms <= 0:
                self._drop(claim.storage_key)
                return None
            self._copies.move_to_end(claim.storage_key)
            return Existing(replace(record, remaining_ms=left_ms))

    def now(self) -> float:
        """Return the seconds on the clock by which copies expire."""
        return self._clock()

    def found(self, claim: Claim, found: Acquired | Existing, asked: float) -> None:
        """Keep the record that an acquire found, if it is completed; remember the attempt that it began.

        `asked` is when the store was asked. The remaining time counts from then, so that after a slow reply the
        copy does not outlive the record.
        """
        with self._lock:
            if isinstance(found, Acquired):
                self._attempts[claim.token] = found.attempt
                if len(self._attempts) > self._max_items:
                    self._attempts.popitem(last=False)
            elif found.record.status is not Status.IN_PROGRESS:
                self._put(claim.storage_key, found.record, asked)

    def ended(self, claim: Claim) -> int | None:
        """Return the attempt of a claim that is about to end, and forget it; None if it is not known."""
        with self._lock:
            return self._attempts.pop(claim.token, None)

    def settled(
        self, claim: Claim, attempt: int | None, result: bytes | None, outcome: Settled | Lost, asked: float
    ) -> None:
        """Keep the record that a `complete` made: what an acquire would find now.

        `asked` is when the store was asked, as in `found`: it has counted the claim's retention from then, or from
        later.
        """
        if attempt is None or isinstance(outcome, Lost):
            return
        status = Status.NOT_KEPT if result is None else Status.COMPLETED
        with self._lock:
            record = Record(status, attempt, claim.fingerprint, claim.retention_ms, result)
            self._put(claim.storage_key, record, asked)

    def _put(self, storage_key: str, record: Record, asked: float) -> None:
        """Keep a copy. Drop those that have expired, and beyond the bounds those that were used longest ago."""
        self._drop(storage_key)
        self._purge()
        size = _size(record)
        if size > self._max_bytes:
            return
        expires = asked + record.remaining_ms / 1000
        self._copies[storage_key] = record, expires
        self._bytes += size
        heapq.heappush(self._expiries, (expires, storage_key))
        while len(self._copies) > self._max_items or self._bytes > self._max_bytes:
            self._drop(next(iter(self._copies)))
        if len(self._expiries) > 2 * self._max_items:
            self._forget_old_expiries()

    def _drop(self, storage_key: str) -> None:
        copy = self._copies.pop(storage_key, None)
        if copy is not None:
            self._bytes -= _size(copy[0])

    def _purge(self) -> None:
        """Drop the copies that have expired. The heap may name one that is gone, or was made again since then."""
        now = self._clock()
        while self._expiries and self._expiries[0][0] <= now:
            _, storage_key = heapq.heappop(self._expiries)
            if storage_key in self._copies and self._copies[storage_key][1] <= now:
                self._drop(storage_key)

    def _forget_old_expiries(self) -> None:
        """Keep one entry for each copy. Those of copies that were dropped would stay until they are due."""
        self._expiries = [(expires, storage_key) for storage_key, (_, expires) in self._copies.items()]
        heapq.heapify(self._expiries)


def _size(record: Record) -> int:
    return COPY_BYTES + len(record.result or b"")


class LocalCache:
    """A blocking layer around a blocking layer."""

    def __init__(
        self,
        layer: PersistenceLayer,
        max_items: int,
        max_bytes: int = MAX_BYTES,
        *,
        clock: Clock = time.monotonic,
    ) -> None:
        self._layer = layer
        self._copies = _Copies(max_items, max_bytes, clock)

    def acquire(self, claim: Claim) -> Acquired | Existing:
        """As `PersistenceLayer.acquire`."""
        copy = self._copies.get(claim)
        if copy is not None:
            return copy
        asked = self._copies.now()
        found = self._layer.acquire(claim)
        self._copies.found(claim, found, asked)
        return found

    def extend(self, claim: Claim) -> bool:
        """As `PersistenceLayer.extend`."""
        return self._layer.extend(claim)

    def complete(self, claim: Claim, result: bytes | None) -> Settled | Lost:
        """As `PersistenceLayer.complete`. If it settles the claim, a copy is kept."""
        attempt = self._copies.ended(claim)
        asked = self._copies.now()
        outcome = self._layer.complete(claim, result)
        self._copies.settled(claim, attempt, result, outcome, asked)
        return outcome

    def release(self, claim: Claim) -> bool:
        """As `PersistenceLayer.release`."""
        self._copies.ended(claim)
        return self._layer.release(claim)


class AsyncLocalCache:
    """An async layer around an async layer."""

    def __init__(
        self,
        layer: AsyncPersistenceLayer,
        max_items: int,
        max_bytes: int = MAX_BYTES,
        *,
        clock: Clock = time.monotonic,
    ) -> None:
        self._layer = layer
        self._copies = _Copies(max_items, max_bytes, clock)

    async def acquire(self, claim: Claim) -> Acquired | Existing:
        """As `PersistenceLayer.acquire`."""
        copy = self._copies.get(claim)
        if copy is not None:
            return copy
        asked = self._copies.now()
        found = await self._layer.acquire(claim)
        self._copies.found(claim, found, asked)
        return found

    async def extend(self, claim: Claim) -> bool:
        """As `PersistenceLayer.extend`."""
        return await self._layer.extend(claim)

    async def complete(self, claim: Claim, result: bytes | None) -> Settled | Lost:
        """As `PersistenceLayer.complete`. If it settles the claim, a copy is kept."""
        attempt = self._copies.ended(claim)
        asked = self._copies.now()
        outcome = await self._layer.complete(claim, result)
        self._copies.settled(claim, attempt, result, outcome, asked)
        return outcome

    async def release(self, claim: Claim) -> bool:
        """As `PersistenceLayer.release`."""
        self._copies.ended(claim)
        return await self._layer.release(claim)

    async def until_released(self, seconds: float) -> None:
        """As the layer's own, where it has one."""
        until_released = getattr(self._layer, "until_released", None)
        if until_released is not None:
            await until_released(seconds)
