"""What closes a client, and what lets go of an async one whose event loop is over, where nothing can be awaited.

Left to themselves, sockets on a loop that is over would stay open for as long as the client lives, and redis-py
and asyncio would complain when they are collected.
"""

import asyncio
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TypeVar

from idempotency_mw.persistence.redis.address import AsyncOwnClient, OwnClient
from idempotency_mw.persistence.redis.clients.foreign_loop import callbacks_run_at_once, sockets_stay_registered
from idempotency_mw.persistence.redis.redis_py import abort, connections_of, mark_closed

__all__ = ["closers", "drop"]

Ended = TypeVar("Ended")


def closers(client: OwnClient[Ended]) -> Sequence[Callable[[], Ended]]:
    """Return what closes the client, and the clients with which it asks Sentinels. An async one's are awaited."""
    clients = _with_sentinels(client)
    # aclose() came with redis-py 5.0.1, and not every version closes a pool that it was given.
    pools = [pool.disconnect for each in clients if (pool := getattr(each, "connection_pool", None)) is not None]
    of_nodes = getattr(client, "disconnect_connection_pools", None)
    nodes = _nodes(client) if of_nodes is None else [of_nodes]
    stop_connecting = getattr(client, "stop_connecting", None)  # that of `DirectRedis`
    under_way = [] if stop_connecting is None else [stop_connecting]
    return [*under_way, *nodes, *pools, *(getattr(each, "aclose", each.close) for each in clients)]


def _nodes(client: OwnClient[Ended]) -> Sequence[Callable[[], Ended]]:
    """Return what closes the connections to an async cluster's nodes.

    redis-py's own `aclose` does nothing for a client that is about to learn the topology anew: one that has just
    lost a node.
    """
    manager = getattr(client, "nodes_manager", None)
    known = (getattr(manager, "nodes_cache", {}), getattr(manager, "startup_nodes", {}))
    return [node.disconnect for nodes in known for node in nodes.values()]


def drop(client: AsyncOwnClient, loop: asyncio.AbstractEventLoop, process: int) -> None:
    """Close the sockets that an async client opened on this loop, in that process, at once and in silence."""
    with ExitStack() as stack:
        stack.enter_context(callbacks_run_at_once(loop))
        if process != os.getpid():
            stack.enter_context(sockets_stay_registered(loop))
        for each in _with_sentinels(client):
            mark_closed(each)
            for connection in tuple(connections_of(each)):
                abort(connection)


def _with_sentinels(client: OwnClient[Ended]) -> Sequence[OwnClient[Ended]]:
    """Return the client, and those with which it asks Sentinels."""
    sentinel = getattr(getattr(client, "connection_pool", None), "sentinel_manager", None)
    return [client, *getattr(sentinel, "sentinels", ())]
