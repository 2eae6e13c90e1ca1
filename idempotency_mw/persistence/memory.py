"""Records in this process's memory: for tests, demos, and programs that are one process."""

import heapq
import time
from collections.abc import Callable
from threading import Lock
from types import TracebackType
from typing import Self

from idempotency_mw.core.record import Acquired, Claim, Existing, Lost, Settled
from idempotency_mw.persistence import verbs
from idempotency_mw.persistence.verbs import StoredFrame

__all__ = ["MemoryPersistenceLayer"]

SLACK = 1000
"""The heap of expiries is rebuilt when it holds this many entries more than twice the records. Without the
slack, a layer with few records would rebuild it at nearly every write."""


class MemoryPersistenceLayer:
    """Blocking verbs that never wait, so async code calls them without a thread.

    `clock` returns seconds and must not run backwards. Each acquire drops the records that have expired.
    Nothing is shared with other processes, not even with a forked child.
    """

    runs_in_place = True
    """Async code may call the verbs without a thread."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = Lock()
        self._records: dict[str, StoredFrame] = {}
        self._expiries: list[tuple[int, str]] = []

    def acquire(self, claim: Claim) -> Acquired | Existing:
        """As `PersistenceLayer.acquire`."""
        with self._lock:
            now_ms = self._now_ms()
            self._purge(now_ms)
            found, write = verbs.acquire(self._standing(claim, now_ms), claim, now_ms)
            self._put(claim, write)
            return found

    def extend(self, claim: Claim) -> bool:
        """As `PersistenceLayer.extend`."""
        with self._lock:
            now_ms = self._now_ms()
            write = verbs.extend(self._standing(claim, now_ms), claim, now_ms)
            self._put(claim, write)
            return write is not None

    def complete(self, claim: Claim, result: bytes | None) -> Settled | Lost:
        """As `PersistenceLayer.complete`."""
        with self._lock:
            now_ms = self._now_ms()
            outcome, write = verbs.complete(self._standing(claim, now_ms), claim, result, now_ms)
            self._put(claim, write)
            return outcome

    def release(self, claim: Claim) -> bool:
        """As `PersistenceLayer.release`."""
        with self._lock:
            released = verbs.release(self._standing(claim, self._now_ms()), claim)
            if released:
                del self._records[claim.storage_key]
            return released

    def check(self) -> None:
        """Do nothing: this store is always available."""

    def close(self) -> None:
        """Drop every record."""
        with self._lock:
            self._records.clear()
            self._expiries.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self._records)} records>"

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)

    def _standing(self, claim: Claim, now_ms: int) -> StoredFrame | None:
        held = self._records.get(claim.storage_key)
        return held if held is not None and held.expires_ms > now_ms else None

    def _put(self, claim: Claim, write: StoredFrame | None) -> None:
        if write is not None:
            self._records[claim.storage_key] = write
            heapq.heappush(self._expiries, (write.expires_ms, claim.storage_key))
            if len(self._expiries) > 2 * len(self._records) + SLACK:
                self._forget_old_expiries()

    def _purge(self, now_ms: int) -> None:
        """Drop the records that have expired. One that was written again since has a later entry on the heap."""
        while self._expiries and self._expiries[0][0] <= now_ms:
            _, storage_key = heapq.heappop(self._expiries)
            held = self._records.get(storage_key)
            if held is not None and held.expires_ms <= now_ms:
                del self._records[storage_key]

    def _forget_old_expiries(self) -> None:
        """Keep one entry for each record. Entries of released or extended claims would stay until they are due."""
        self._expiries = [(held.expires_ms, storage_key) for storage_key, held in self._records.items()]
        heapq.heapify(self._expiries)
