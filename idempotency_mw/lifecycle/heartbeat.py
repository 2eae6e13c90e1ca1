"""Extends leases while blocking apps run, at every third of a lease: two beats may fail before the lease lapses.

One thread extends all claims of the process. It starts with the first claim, because a thread belongs to a
process, and this is the one global of the package.
"""

import heapq
import itertools
import os
import threading
from contextlib import suppress
from time import monotonic

from idempotency_mw import report
from idempotency_mw.core.config import IdempotencyConfig
from idempotency_mw.core.record import Claim
from idempotency_mw.persistence.base import PersistenceLayer

__all__ = ["Heartbeat", "Pulse"]


class Heartbeat:
    """Keeps one claim's lease for blocking code, from `start` to `stop`.

    `pulse` is the thread that beats. By default it is the process's, looked up at `start`: a fork may come before.
    """

    def __init__(
        self, store: PersistenceLayer, claim: Claim, config: IdempotencyConfig, pulse: "Pulse | None" = None
    ) -> None:
        self._store = store
        self._claim = claim
        self._enabled = config.heartbeat
        self._interval = config.lease_seconds / 3
        self._longest = config.max_execution_seconds
        self._pulse = pulse
        self._ends = 0.0
        self._stopped = False

    def start(self) -> None:
        """Begin. The first extension is sent after a third of the lease."""
        self._ends = monotonic() + self._longest
        if self._enabled:
            (self._pulse or _pulse()).add(self, self._interval)

    def stop(self) -> None:
        """End. May be called at any time, and more than once."""
        self._stopped = True

    @property
    def is_stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._stopped

    def beat(self) -> float | None:
        """Extend the lease once. Return the seconds until the next beat, or None if there is none."""
        if self._stopped:
            return None
        if monotonic() >= self._ends:
            report.execution_too_long(self._claim.storage_key)
            return None
        try:
            if self._store.extend(self._claim) or self._stopped:
                return self._interval
        except Exception as error:  # noqa: BLE001 - one layer's error must not end the beats of all claims
            report.lease_not_extended(self._claim.storage_key, error)
            return self._interval
        report.lease_lost(self._claim.storage_key)
        return None


class Pulse:
    """One thread that beats for all its claims. It starts with the first one."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._due: list[tuple[float, int, Heartbeat]] = []
        self._order = itertools.count()  # breaks ties, so that two heartbeats are never compared
        self._thread: threading.Thread | None = None

    def add(self, heartbeat: Heartbeat, seconds: float) -> None:
        """Have it beat after this many seconds."""
        due = (monotonic() + seconds, next(self._order), heartbeat)
        with self._condition:
            heapq.heappush(self._due, due)
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="idempotency_mw heartbeat", daemon=True)
                thread.start()
                self._thread = thread
            if self._due[0] is due:  # the thread sleeps until the first is due, and this one is due earlier
                self._condition.notify()

    def _run(self) -> None:
        while True:
            heartbeat = self._next()
            again: float | None = None
            with suppress(Exception):  # an exception from a user's logging handler must not end all beats
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
        # Most runs end before their first beat is due; dropping them here saves the thread a wake-up for each.
        while self._due and self._due[0][2].is_stopped:
            heapq.heappop(self._due)


_pulses: dict[int, Pulse] = {}


def _pulse() -> Pulse:
    """Return this process's pulse.

    It is made with the first claim and not at import, because gevent may replace the locks in between. A forked
    child makes its own: it inherits neither the thread nor the claims, and perhaps a lock that stays locked.
    """
    process = os.getpid()
    return _pulses.get(process) or _pulses.setdefault(process, Pulse())


if hasattr(os, "register_at_fork"):  # pragma: no branch - Windows has no fork
    os.register_at_fork(after_in_child=_pulses.clear)
