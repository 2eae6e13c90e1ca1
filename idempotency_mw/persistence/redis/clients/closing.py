"""Lets go of async clients whose event loop is over: closed, or replaced by another. Nothing can be awaited then.

Left to themselves their sockets would stay open for as long as the client lives, and redis-py and asyncio would
complain when it no longer does. Nobody offers a way, so this reaches for names that redis-py has had from 5.0 to
8.1; where one is missing, the garbage collector does the rest, and complains.
"""

# ruff: noqa: SLF001

import asyncio
import os
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any

from idempotency_mw.persistence.redis.direct.asynchronous import DirectRedis
from idempotency_mw.persistence.redis.redis_py import abort

__all__ = ["closers", "drop"]


def drop(client: Any, loop: asyncio.AbstractEventLoop, process: int) -> None:
    """Close the sockets that the client opened on this loop, in that process, in silence."""
    with _called_in_its_stead(loop), _left_alone(loop, is_its_own=process == os.getpid()):
        for each in _with_sentinels(client):
            each._initialize = True  # what a cluster's client looks like once it is closed
            for connection in tuple(_connections(each)):
                abort(connection)


def _with_sentinels(client: Any) -> list[Any]:
    """Return the client, and those with which it asks Sentinels."""
    sentinel = getattr(getattr(client, "connection_pool", None), "sentinel_manager", None)
    return [client, *getattr(sentinel, "sentinels", ())]


def _connections(client: Any) -> Iterator[Any]:
    pool = getattr(client, "connection_pool", None)
    yield from getattr(pool, "_available_connections", ())
    yield from getattr(pool, "_in_use_connections", ())
    nodes = getattr(client, "nodes_manager", None)
    for node in (*getattr(nodes, "nodes_cache", {}).values(), *getattr(nodes, "startup_nodes", {}).values()):
        yield from getattr(node, "_connections", ())


@contextmanager
def _called_in_its_stead(loop: asyncio.AbstractEventLoop) -> Generator[None]:
    """Call at once what a loop that does not run is asked to call, where it concerns a connection.

    Whoever waited for that connection is woken when the loop runs again, or never.
    """
    usual = loop.call_soon

    def call_soon(callback: Callable[..., object], *arguments: Any, context: Any = None) -> object:
        if isinstance(getattr(callback, "__self__", None), asyncio.BaseTransport | asyncio.BaseProtocol):
            return callback(*arguments)
        return None if loop.is_closed() else usual(callback, *arguments, context=context)

    loop.call_soon = call_soon  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        del loop.call_soon


@contextmanager
def _left_alone(loop: asyncio.AbstractEventLoop, *, is_its_own: bool) -> Generator[None]:
    """Keep a loop that a fork copied from taking the sockets away from its original.

    Both have one epoll between them. What the copy strikes off there, the parent hears no more of.
    """
    names = [] if is_its_own else [name for name in ("_remove_reader", "_remove_writer") if hasattr(loop, name)]
    for name in names:
        setattr(loop, name, _nothing)
    try:
        yield
    finally:
        for name in names:
            delattr(loop, name)


def _nothing(_socket: object) -> bool:
    return False


def closers(client: Any) -> list[Callable[[], Any]]:
    """Return what closes the client, and the clients with which it asks Sentinels."""
    clients = _with_sentinels(client)
    # aclose() came with redis-py 5.0.1, and not every version closes a pool that it was given.
    pools = [each.connection_pool.disconnect for each in clients if hasattr(each, "connection_pool")]
    nodes = (
        [client.disconnect_connection_pools] if hasattr(client, "disconnect_connection_pools") else _nodes(client)
    )
    under_way = [client.stop_connecting] if isinstance(client, DirectRedis) else []
    return [*under_way, *nodes, *pools, *(getattr(each, "aclose", each.close) for each in clients)]


def _nodes(client: Any) -> list[Callable[[], Any]]:
    """Return what closes the connections to an async cluster's nodes.

    redis-py's own `aclose` does nothing for a client that is about to learn the topology anew: one that has just
    lost a node.
    """
    manager = getattr(client, "nodes_manager", None)
    known = (getattr(manager, "nodes_cache", {}), getattr(manager, "startup_nodes", {}))
    return [node.disconnect for nodes in known for node in nodes.values()]
