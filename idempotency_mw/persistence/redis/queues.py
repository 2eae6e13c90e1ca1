"""Who may ask an async client at a time: on each event loop a few, first come first served."""

import asyncio
from weakref import WeakKeyDictionary

from idempotency_mw.persistence.redis.clients import most_at_once
from idempotency_mw.persistence.redis.connection import RedisClientProtocol

__all__ = ["Queues"]


class Queues:
    """Two queues on each loop: for what is answered at once, and for claims that wait for replicas.

    Results must not queue behind those.
    """

    def __init__(self, *, for_replicas: bool) -> None:
        self._for_replicas = for_replicas
        self._queues: WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[asyncio.Semaphore, asyncio.Semaphore]]
        self._queues = WeakKeyDictionary()

    def of(self, client: RedisClientProtocol, *, waits: bool = False) -> asyncio.Semaphore:
        """Return what lets a few at a time ask the client on this loop."""
        loop = asyncio.get_running_loop()
        queues = self._queues.get(loop)
        if queues is None:
            self._forget_closed_loops()
            most = most_at_once(client)
            waiting = most // 2 if self._for_replicas else 0
            queues = asyncio.Semaphore(most - waiting), asyncio.Semaphore(max(waiting, 1))
            self._queues[loop] = queues
        return queues[waits]

    def _forget_closed_loops(self) -> None:
        """A semaphore for which somebody has waited holds its loop, and so the loop's entry holds itself."""
        for known in self._queues.keyrefs():
            if (loop := known()) is not None and loop.is_closed():
                self._queues.pop(loop, None)
