"""Who may ask an async client at a time: on each event loop a few, first come first served."""

import asyncio
from typing import Any
from weakref import WeakKeyDictionary

from idempotency_mw.persistence.redis.address import RedisClientProtocol
from idempotency_mw.persistence.redis.direct.asynchronous import OWN_CONNECTIONS, DirectRedis

__all__ = ["Queues", "most_at_once"]

MOST_AT_ONCE = 50


def most_at_once(client: Any) -> int:
    """Return how many commands may be under way on an async client at once.

    redis-py opens a connection for each. At its pool's limit (100 since 8.0) it raises instead of waiting, and
    then the owner of a claim competes for its completion with the herd that asks whether it is there. The direct
    path has connections of their own for what is said together; single commands share another.
    """
    if isinstance(client, DirectRedis):
        return OWN_CONNECTIONS
    pool = getattr(client, "connection_pool", None)
    return min(getattr(pool, "max_connections", MOST_AT_ONCE), MOST_AT_ONCE)


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
