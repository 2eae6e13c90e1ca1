"""Extends leases while asyncio apps run, at every third of a lease: two beats may fail before the lease lapses.

A lifecycle has one timer on each event loop. A claim has a task only while it is being extended.
"""

import asyncio
import threading
from collections import OrderedDict
from contextvars import Context, copy_context
from time import monotonic

from idempotency_mw import report
from idempotency_mw.core.config import IdempotencyConfig
from idempotency_mw.core.record import Claim
from idempotency_mw.persistence.base import AsyncPersistenceLayer

__all__ = ["AsyncHeartbeat", "AsyncPulse"]


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
        """Begin. The first extension is sent after a third of the lease."""
        if self._config.heartbeat:
            self._ends = monotonic() + self._config.max_execution_seconds
            self._context = copy_context()  # so that a warning from a beat belongs to this request's context
            self._line = self._pulse.line()
            self._line.add(self)

    def stop(self) -> None:
        """End.

        May be called at any time, and more than once. An extension under way finishes, which is harmless.
        """
        self._stopped = True
        if self._line is not None:
            self._line.leave(self)
            self._line = None

    async def beat(self) -> float | None:
        """Extend the lease once. Return the seconds until the next beat, or None if there is none."""
        if self._stopped:
            return None
        if monotonic() >= self._ends:
            report.execution_too_long(self._claim.storage_key)
            return None
        try:
            if await self._store.extend(self._claim) or self._stopped:
                return self._pulse.seconds
        except Exception as error:  # noqa: BLE001 - one layer's error must not end the beats of all claims
            report.lease_not_extended(self._claim.storage_key, error)
            return self._pulse.seconds
        report.lease_lost(self._claim.storage_key)
        return None

    def wake(self, line: "_Line") -> None:
        """Beat in a task, and wait in line again."""
        # A loop holds its tasks weakly, so this reference keeps the task alive. The context is entered around
        # create_task, because not every task factory accepts one.
        self._extending = self._context.run(line.loop.create_task, self._beat_and_go_on(line))

    async def _beat_and_go_on(self, line: "_Line") -> None:
        if await self.beat() is not None and not self._stopped:
            line.add(self)


class AsyncPulse(threading.local):
    """The timers of one lifecycle: in each thread one, on the event loop that runs there."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._line: _Line | None = None

    def line(self) -> "_Line":
        """Return the line of the running loop; a new one if this thread runs another loop than before.

        The line of the loop before stays alive as long as a heartbeat waits in it.
        """
        loop, line = asyncio.get_running_loop(), self._line
        if line is None or line.loop is not loop:
            if line is not None:
                line.rest()
            line = self._line = _Line(loop, self.seconds)
        return line


class _Line:
    """The heartbeats that wait for their next beat on one loop. All wait equally long, so the first is due first.

    Most leave before they are due. Therefore the timer is neither cancelled when one leaves, nor set anew for the
    next: it is set for the first heartbeat in the line, and when it fires, for the one that is first then.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        self.loop = loop
        self._seconds = seconds
        self._due: OrderedDict[AsyncHeartbeat, float] = OrderedDict()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, heartbeat: AsyncHeartbeat) -> None:
        """Wake it when it is due, unless it leaves before."""
        self._due[heartbeat] = due = self.loop.time() + self._seconds
        if self._timer is None:
            self._wake_at(due)

    def leave(self, heartbeat: AsyncHeartbeat) -> None:
        """Do not wake it any more."""
        self._due.pop(heartbeat, None)

    def rest(self) -> None:
        """Remove the timer if nothing waits: a process that may be frozen must leave nothing on its loop."""
        if self._timer is not None and not self._due:
            self._timer.cancel()
            self._timer = None

    def _wake_at(self, due: float) -> None:
        self._timer = self.loop.call_at(due, self._wake, context=Context())

    def _wake(self) -> None:
        self._timer = None
        woken = self._take_due()
        if self._due:
            self._wake_at(self._first())
        for each in woken:  # after the timer is set: an eager task may run at once, and join the line again
            each.wake(self)

    def _take_due(self) -> list[AsyncHeartbeat]:
        """Remove the heartbeats that are due from the line, and return them."""
        now = self.loop.time()
        taken: list[AsyncHeartbeat] = []
        while self._due and self._first() <= now:
            taken.append(self._due.popitem(last=False)[0])
        return taken

    def _first(self) -> float:
        return next(iter(self._due.values()))
