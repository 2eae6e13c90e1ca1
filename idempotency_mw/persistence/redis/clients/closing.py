"""What closes a client, and what lets go of an async one whose event loop is over, where nothing can be awaited.

Left to themselves, sockets on a loop that is over would stay open for as long as the client lives, and redis-py
and asyncio would complain when they are collected.
"""

import asyncio
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from idempotency_mw.persistence.redis.clients.foreign_loop import callbacks_run_at_once, sockets_stay_registered
from idempotency_mw.persistence.redis.direct.asynchronous import DirectRedis
from idempotency_mw.persistence.redis.redis_py import Untyped, abort, connections_of, mark_closed

__all__ = ["closers", "drop"]

Closer = Callable[[], Untyped]


def closers(client: Untyped) -> Sequence[Closer]:
    """Return what closes the client, and the clients with which it asks Sentinels. An async one's are awaited."""
    clients = _with_sentinels(client)
    # aclose() came with redis-py 5.0.1, and not every version closes a pool that it was given.
    pools = [each.connection_pool.disconnect for each in clients if hasattr(each, "connection_pool")]
    nodes = (
        [client.disconnect_connection_pools] if hasattr(client, "disconnect_connection_pools") else _nodes(client)
    )
    under_way = [client.stop_connecting] if isinstance(client, DirectRedis) else []
    return [*under_way, *nodes, *pools, *(getattr(each, "aclose", each.close) for each in clients)]


def _nodes(client: Untyped) -> Sequence[Closer]:
    """Return what closes the connections to an async cluster's nodes.

    redis-py's own `aclose` does nothing for a client that is about to learn the topology anew: one that has just
    lost a node.
    """
    manager = getattr(client, "nodes_manager", None)
    known = (getattr(manager, "nodes_cache", {}), getattr(manager, "startup_nodes", {}))
    return [node.disconnect for nodes in known for node in nodes.values()]


def drop(client: Untyped, loop: asyncio.AbstractEventLoop, process: int) -> None:
    """Close the sockets that an async client opened on this loop, in that process, at once and in silence."""
    with ExitStack() as stack:
        stack.enter_context(callbacks_run_at_once(loop))
        if process != os.getpid():
            stack.enter_context(sockets_stay_registered(loop))
        for each in _with_sentinels(client):
            mark_closed(each)
            for connection in tuple(connections_of(each)):
                abort(connection)


def _with_sentinels(client: Untyped) -> Sequence[Untyped]:
    """Return the client, and those with which it asks Sentinels."""
    sentinel = getattr(getattr(client, "connection_pool", None), "sentinel_manager", None)
    return [client, *getattr(sentinel, "sentinels", ())]
