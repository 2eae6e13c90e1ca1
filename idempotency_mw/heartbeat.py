"""Extends leases while apps run, at every third of a lease.

For async code each claim has a timer of its event loop, and a task only for the moment of an extension. For
blocking code one thread, for all claims of the process, started with the first: the one global of this package,
because a thread belongs to a process.
"""

import asyncio
import heapq
import itertools
import os
import threading
from contextlib import suppress
from time import monotonic

from idempotency_mw import report
from idempotency_mw.core.config import IdempotencyConfig
from idempotency_mw.core.record import Claim
from idempotency_mw.persistence.base import AsyncPersistenceLayer, PersistenceLayer

__all__ = ["AsyncHeartbeat", "Heartbeat"]


class Heartbeat:
    """Keeps one claim's lease for blocking code, from `start` to `stop`."""

    def __init__(self, store: PersistenceLayer, claim: Claim, config: IdempotencyConfig) -> None:
        self._store = store
        self._claim = claim
        self._enabled = config.heartbeat
        self._interval = config.lease_seconds / 3
        self._longest = config.max_execution_seconds
        self._ends = 0.0
        self._stopped = False

    def start(self) -> None:
        """Begin; nothing is sent before a third of the lease has passed."""
        self._ends = monotonic() + self._longest
        if self._enabled:
            _pulse().add(self, self._interval)

    def stop(self) -> None:
        """End; may be called at any time, and again."""
        self._stopped = True

    @property
    def is_stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._stopped

    def beat(self) -> float | None:
        """Extend the lease once, and return the seconds until the next time, or None for never."""
        if self._stopped:
            return None
        if monotonic() >= self._ends:
            report.execution_too_long(self._claim.storage_key)
            return None
        try:
            if self._store.extend(self._claim) or self._stopped:
                return self._interval
        except Exception as error:  # noqa: BLE001 - a layer's own error must not end the beats of all claims
            report.lease_not_extended(self._claim.storage_key, error)
            return self._interval
        report.lease_lost(self._claim.storage_key)
        return None


class AsyncHeartbeat:
    """Keeps one claim's lease for asyncio code, from `start` to `stop`."""

    def __init__(self, store: AsyncPersistenceLayer, claim: Claim, config: IdempotencyConfig) -> None:
        self._store = store
        self._claim = claim
        self._enabled = config.heartbeat
        self._interval = config.lease_seconds / 3
        self._longest = config.max_execution_seconds
        self._ends = 0.0
        self._stopped = False
        self._timer: asyncio.TimerHandle | None = None
        self._extending: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin; nothing is sent before a third of the lease has passed."""
        self._ends = monotonic() + self._longest
        if self._enabled:
            self._again()

    def stop(self) -> None:
        """End; may be called at any time, and again. An extension under way goes on, and harms nothing."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()

    async def beat(self) -> float | None:
        """Extend the lease once, and return the seconds until the next time, or None for never."""
        if self._stopped:
            return None
        if monotonic() >= self._ends:
            report.execution_too_long(self._claim.storage_key)
            return None
        try:
            if await self._store.extend(self._claim) or self._stopped:
                return self._interval
        except Exception as error:  # noqa: BLE001 - a layer's own error must not end the beats of all claims
            report.lease_not_extended(self._claim.storage_key, error)
            return self._interval
        report.lease_lost(self._claim.storage_key)
        return None

    def _again(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._interval, self._wake)

    def _wake(self) -> None:
        # A loop holds its tasks weakly; this reference keeps the task alive.
        self._extending = asyncio.get_running_loop().create_task(self._beat_and_go_on())

    async def _beat_and_go_on(self) -> None:
        if await self.beat() is not None and not self._stopped:
            self._again()


class _Pulse:
    """The thread that beats for all blocking claims of one process."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._due: list[tuple[float, int, Heartbeat]] = []
        self._order = itertools.count()  # so that two heartbeats due at one moment are never compared
        self._thread: threading.Thread | None = None

    def add(self, heartbeat: Heartbeat, seconds: float) -> None:
        """Have it beat after so many seconds."""
        due = (monotonic() + seconds, next(self._order), heartbeat)
        with self._condition:
            heapq.heappush(self._due, due)
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="idempotency_mw heartbeat", daemon=True)
                thread.start()
                self._thread = thread
            if self._due[0] is due:  # otherwise it wakes in time by itself
                self._condition.notify()

    def _run(self) -> None:
        while True:
            heartbeat = self._next()
            again: float | None = None
            with suppress(Exception):  # what a user's logging raises must not end the beats of all claims
                again = heartbeat.beat()
            if again is not None:
                self.add(heartbeat, again)

    def _next(self) -> Heartbeat:
        with self._condition:
            while True:
                self._drop_stopped()
                wait = self._due[0][0] - monotonic() if self._due else None
                if wait is not None and wait <= 0:
                    return heapq.heappop(self._due)[2]
                self._condition.wait(wait)

    def _drop_stopped(self) -> None:
        # Most runs end before their first beat is due: those cost no waking of their own.
        while self._due and self._due[0][2].is_stopped:
            heapq.heappop(self._due)


_pulses: dict[int, _Pulse] = {}


def _pulse() -> _Pulse:
    """Return this process's pulse.

    It is made with the first claim, and not before: gevent may have replaced the locks since the import. A forked
    child makes its own: it inherits neither the thread nor the claims, and perhaps a lock that nobody releases.
    """
    process = os.getpid()
    return _pulses.get(process) or _pulses.setdefault(process, _Pulse())


if hasattr(os, "register_at_fork"):  # pragma: no branch - Windows has no fork
    os.register_at_fork(after_in_child=_pulses.clear)
