"""Extends leases while apps run, at every third of a lease.

For async code a handler has one timer on each event loop, and a claim has a task only for the moment of an
extension. For blocking code one thread, for all claims of the process, started with the first: the one global of
this package, because a thread belongs to a process.
"""

import asyncio
import heapq
import itertools
import os
import threading
from collections import OrderedDict
from contextlib import suppress
from contextvars import Context, copy_context
from time import monotonic

from idempotency_mw import report
from idempotency_mw.core.config import IdempotencyConfig
from idempotency_mw.core.record import Claim
from idempotency_mw.persistence.base import AsyncPersistenceLayer, PersistenceLayer

__all__ = ["AsyncHeartbeat", "AsyncPulse", "Heartbeat"]


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

    __slots__ = ("_claim", "_config", "_context", "_ends", "_extending", "_line", "_pulse", "_stopped", "_store")

    def __init__(
        self, store: AsyncPersistenceLayer, claim: Claim, config: IdempotencyConfig, pulse: "AsyncPulse"
    ) -> None:
        self._store = store
        self._claim = claim
        self._config = config
        self._pulse = pulse
        self._ends = 0.0
        self._stopped = False
        self._line: _Line | None = None
        self._context: Context
        self._extending: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin; nothing is sent before a third of the lease has passed."""
        if self._config.heartbeat:
            self._ends = monotonic() + self._config.max_execution_seconds
            self._context = copy_context()  # what a beat reports, it reports of this request
            self._line = self._pulse.line()
            self._line.add(self)

    def stop(self) -> None:
        """End; may be called at any time, and again. An extension under way goes on, and harms nothing."""
        self._stopped = True
        if self._line is not None:
            self._line.leave(self)
            self._line = None

    async def beat(self) -> float | None:
        """Extend the lease once, and return the seconds until the next time, or None for never."""
        if self._stopped:
            return None
        if monotonic() >= self._ends:
            report.execution_too_long(self._claim.storage_key)
            return None
        try:
            if await self._store.extend(self._claim) or self._stopped:
                return self._pulse.seconds
        except Exception as error:  # noqa: BLE001 - a layer's own error must not end the beats of all claims
            report.lease_not_extended(self._claim.storage_key, error)
            return self._pulse.seconds
        report.lease_lost(self._claim.storage_key)
        return None

    def wake(self, line: "_Line") -> None:
        """Beat, and wait in line again."""
        # A loop holds its tasks weakly; this reference keeps the task alive. Not every factory takes a context.
        self._extending = self._context.run(line.loop.create_task, self._beat_and_go_on(line))

    async def _beat_and_go_on(self, line: "_Line") -> None:
        if await self.beat() is not None and not self._stopped:
            line.add(self)


class AsyncPulse(threading.local):
    """What wakes the heartbeats of one handler's claims: in each thread a timer on its event loop."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._line: _Line | None = None

    def line(self) -> "_Line":
        """Return the line on the running loop: the one there was, unless the thread's loop is another now.

        The line of the loop before goes on for as long as somebody waits in it.
        """
        loop, line = asyncio.get_running_loop(), self._line
        if line is None or line.loop is not loop:
            if line is not None:
                line.rest()
            line = self._line = _Line(loop, self.seconds)
        return line


class _Line:
    """The heartbeats that wait for their next beat on one loop. All wait equally long: the first is due first.

    Most leave before that. So the timer is not cancelled when they leave, nor set anew for the next: it is set for
    the first who waits when it is set, and when it has come, for who is first then.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        self.loop = loop
        self._seconds = seconds
        self._due: OrderedDict[AsyncHeartbeat, float] = OrderedDict()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, heartbeat: AsyncHeartbeat) -> None:
        """Wake it in time, unless it leaves before."""
        self._due[heartbeat] = due = self.loop.time() + self._seconds
        if self._timer is None:
            self._wake_at(due)

    def leave(self, heartbeat: AsyncHeartbeat) -> None:
        """Wake it no more."""
        self._due.pop(heartbeat, None)

    def rest(self) -> None:
        """Leave nothing on the loop of a process that may be frozen, unless somebody waits."""
        if self._timer is not None and not self._due:
            self._timer.cancel()
            self._timer = None

    def _wake_at(self, due: float) -> None:
        self._timer = self.loop.call_at(due, self._wake, context=Context())

    def _wake(self) -> None:
        self._timer = None
        woken = self._taken()
        if self._due:
            self._wake_at(self._first())
        for each in woken:  # whose tasks may run at once, and join the line again
            each.wake(self)

    def _taken(self) -> list[AsyncHeartbeat]:
        """Take those out of the line whose time has come."""
        now = self.loop.time()
        taken: list[AsyncHeartbeat] = []
        while self._due and self._first() <= now:
            taken.append(self._due.popitem(last=False)[0])
        return taken

    def _first(self) -> float:
        return next(iter(self._due.values()))


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
