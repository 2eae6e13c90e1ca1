"""Lets go of async clients whose event loop is closed, where nothing can be awaited any more.

Left to themselves their sockets would stay open for as long as the client lives, and redis-py and asyncio would
complain when it no longer does. Nobody offers a way, so this reaches for names that redis-py has had from 5.0 to
8.1; where one is missing, the garbage collector does the rest, and complains.
"""

# ruff: noqa: SLF001

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

__all__ = ["drop", "with_sentinels"]


def drop(client: Any) -> None:
    """Close the client's sockets, in silence."""
    for each in with_sentinels(client):
        each._initialize = True  # what a cluster's client looks like once it is closed
        for connection in _connections(each):
            _drop_connection(connection)


def with_sentinels(client: Any) -> list[Any]:
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


def _drop_connection(connection: Any) -> None:
    writer, connection._writer, connection._reader = getattr(connection, "_writer", None), None, None
    if writer is None:
        return
    with suppress(RuntimeError):  # "Event loop is closed", raised after the transport was marked as closing
        writer.close()
    sock = getattr(writer.transport, "_sock", None)
    if sock is not None:
        writer.transport._sock = None
        sock.close()
