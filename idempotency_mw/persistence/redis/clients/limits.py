"""How many commands may be under way on an async client, for each event loop. The others wait in line."""

import asyncio
from typing import Final
from weakref import WeakKeyDictionary

from idempotency_mw.persistence.redis.address import RedisClientProtocol
from idempotency_mw.persistence.redis.direct.asynchronous import OWN_CONNECTIONS, DirectRedis

__all__ = ["MOST_AT_ONCE", "Limits", "most_at_once"]

MOST_AT_ONCE: Final = 50
"""redis-py opens a connection for each command that is under way. When its pool's limit is reached (100 since
8.0), it raises instead of waiting, and then the owner of a claim competes for its completion with the crowd that
asks whether the claim is there. 50 is the size of redis-py's `BlockingConnectionPool`, whose callers wait in
line as well."""


def most_at_once(client: RedisClientProtocol) -> int:
    """Return how many commands may be under way on an async client at once.

    On the direct path that is as many as it has connections for pipelines; single commands share another one.
    """
    if isinstance(client, DirectRedis):
        return OWN_CONNECTIONS
    pool = getattr(client, "connection_pool", None)
    return min(getattr(pool, "max_connections", MOST_AT_ONCE), MOST_AT_ONCE)


class Limits:
    """Two semaphores on each loop: for claims that wait for replicas, and for everything else.

    So results do not queue behind claims whose replicas are slow.
    """

    def __init__(self, *, for_replicas: bool) -> None:
        self._for_replicas = for_replicas
        self._semaphores: WeakKeyDictionary[
            asyncio.AbstractEventLoop, tuple[asyncio.Semaphore, asyncio.Semaphore]
        ] = WeakKeyDictionary()

    def semaphore_for(self, client: RedisClientProtocol, *, waits: bool = False) -> asyncio.Semaphore:
        """Return the semaphore of the running loop, for commands that wait for replicas or for others."""
        loop = asyncio.get_running_loop()
        semaphores = self._semaphores.get(loop)
        if semaphores is None:
            self._forget_closed_loops()
            most = most_at_once(client)
            waiting = most // 2 if self._for_replicas else 0
            semaphores = asyncio.Semaphore(most - waiting), asyncio.Semaphore(max(waiting, 1))
            self._semaphores[loop] = semaphores
        return semaphores[waits]

    def _forget_closed_loops(self) -> None:
        """A semaphore on which a task has waited refers to its loop, and so keeps its own entry alive."""
        for known in self._semaphores.keyrefs():
            if (loop := known()) is not None and loop.is_closed():
                self._semaphores.pop(loop, None)
