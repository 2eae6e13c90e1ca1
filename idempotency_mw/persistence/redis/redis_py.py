"""Everything private of redis-py that this package reaches for, each name once.

redis-py has no public way to these. Each docstring gives the releases in which the name was found: "5.0 to 8.1"
are 5.0.0, 5.0.8, 5.2.1, 5.3.1, 6.0.0, 6.4.0, 7.1.0, 8.0.0 and 8.1.0. If a release lacks what the direct path
needs, `has_what_direct_needs` says so, and redis-py's usual client is used. Outside of this module no private
name of redis-py stands in the package; tests/persistence/redis/test_private_names.py sees to that.
"""

# ruff: noqa: SLF001
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportPrivateUsage=false
# pyright: reportUnusedImport=false

import asyncio
from collections.abc import Callable, Iterator, MutableSet
from contextlib import suppress
from socket import socket
from typing import Any, Protocol, TypeAlias, cast

import redis.asyncio
import redis.connection
import redis.credentials
import redis.sentinel
from redis._parsers import BaseParser
from redis.exceptions import InvalidResponse

__all__ = [
    "AsyncRedisPyConnection",
    "AsyncRedisPyPool",
    "Options",
    "RedisPyConnection",
    "TimedRedisPyConnection",
    "Untyped",
    "abort",
    "can_not_be_taken_over",
    "connections_of",
    "has_what_direct_needs",
    "lent_by",
    "mark_closed",
    "server_error",
    "socket_of",
    "transport_of",
    "tries_of",
    "untyped_redis",
    "with_time_outs",
]

Untyped: TypeAlias = Any
"""What redis-py's modules and cluster clients are to the type checkers: releases annotate them differently. All
else that is used of redis-py has a Protocol."""

untyped_redis: Untyped = redis
"""redis-py and its modules, from which clients are built and subclassed."""

Options: TypeAlias = dict[str, object]
"""Options for redis-py, in its words."""

_parser: Untyped = BaseParser


class RedisPyConnection(Protocol):
    """A blocking connection of redis-py."""

    _sock: socket | None

    def __init__(self, *args: object, **options: object) -> None:
        """Make a connection that is not open yet."""

    def _connect(self) -> object:
        """Open the socket."""

    def connect(self) -> object:
        """Open the socket, and log in."""

    def disconnect(self) -> object:
        """Close the socket, if it is open."""

    def can_read(self, *, timeout: float) -> bool:
        """Tell whether more has come, or comes within so many seconds."""
        ...

    def send_packed_command(self, *args: object, **options: object) -> object:
        """Send a command, after opening the socket if need be."""

    def read_response(self, *args: object, **options: object) -> object:
        """Return the next reply, or raise it if it is an error."""


class TimedRedisPyConnection(RedisPyConnection, Protocol):
    """What `with_time_outs` makes of it."""

    def cut_waits(self) -> None:
        """Let no wait of the open socket take longer than the seconds that are left."""


class AsyncRedisPyConnection(Protocol):
    """An async connection of redis-py."""

    maint_notifications_config: object
    _reader: asyncio.StreamReader | None
    _writer: asyncio.StreamWriter | None
    _parser: object

    def __init__(self, *args: object, **options: object) -> None:
        """Make a connection that is not open yet."""

    async def connect(self) -> object:
        """Open the socket, and log in."""

    async def disconnect(self, *, nowait: bool = False) -> object:
        """Close the socket, and wait until it is closed unless `nowait`."""

    async def send_packed_command(self, *args: object, **options: object) -> object:
        """Send a command, after opening the socket if need be."""

    async def read_response(self, *args: object, **options: object) -> object:
        """Return the next reply, or raise it if it is an error."""


class AsyncRedisPyPool(Protocol):
    """A pool of async connections of redis-py."""

    _in_use_connections: MutableSet[AsyncRedisPyConnection]

    def make_connection(self) -> AsyncRedisPyConnection:
        """Make a connection that is not open yet."""
        ...


def has_what_direct_needs(connection: object, pool: object = None) -> bool:
    """Tell whether this redis-py has the names that the direct path reaches for.

    The connection is one that is not connected yet. A pool is given with an async connection.
    """
    names = ("_sock", "can_read") if pool is None else ("_reader", "_writer", "_parser")
    needed = [(connection, name) for name in (*names, "connect", "disconnect")]
    if pool is not None:
        needed.append((pool, "_in_use_connections"))
    return all(hasattr(owner, name) for owner, name in needed)


def server_error(text: str) -> Exception:
    """Return the text of an error reply as an exception of the class that redis-py has for it.

    Raises `InvalidResponse` for a MOVED or ASK without an address, which redis-py, from 6.0 on, quotes in a
    `ValueError`. Before, it has no class for these.

    `redis._parsers.BaseParser`, 5.0 to 8.1.
    """
    try:
        return cast("Exception", _parser.parse_error(text))
    except ValueError:
        raise InvalidResponse("an error reply can't be read") from None


# Blocking connections.


def socket_of(connection: RedisPyConnection) -> socket:
    """Return a blocking connection's socket: `_sock`, 5.0 to 8.1."""
    return cast("socket", connection._sock)


def with_time_outs(base: type[RedisPyConnection], left: Callable[[], float]) -> type[TimedRedisPyConnection]:
    """Return redis-py's blocking connection, which never waits longer than the seconds that are left.

    Its time-outs are fixed beforehand. Over the steps of a handshake, and over tries, they add up to many times
    the deadline. The class cuts those of connecting by itself; `cut_waits` cuts those of an open socket.

    `_connect`, which opens the socket, and `_sock`, 5.0 to 8.1.
    """

    class TimedConnection(base):  # type: ignore[misc, valid-type]
        def _connect(self) -> socket:
            self.socket_connect_timeout = self.socket_timeout = left()
            return cast("socket", super()._connect())

        def cut_waits(self) -> None:
            if self._sock is not None:
                self._sock.settimeout(left())

    return TimedConnection


# Async connections.


def transport_of(connection: AsyncRedisPyConnection) -> asyncio.WriteTransport:
    """Return an async connection's transport: `_writer`, 5.0 to 8.1."""
    return cast("asyncio.StreamWriter", connection._writer).transport


def can_not_be_taken_over(connection: AsyncRedisPyConnection) -> bool:
    """Tell whether an async connection that was just made has ended already, or has more to read.

    redis-py has read one reply for each command of the handshake, so nothing can be left unless the server said
    more than it was asked. It would pass for the reply to our first command. asyncio's reader has it, or hiredis
    where that is installed. `_reader`, `_parser` and, with hiredis, `_parser._reader`, 5.0 to 8.1.
    """
    hiredis = getattr(connection._parser, "_reader", None)
    if hiredis is not None and hiredis.has_data():
        return True
    reading = cast("asyncio.StreamReader", connection._reader).read(1)
    try:
        reading.send(None)
    except StopIteration:
        return True
    reading.close()  # it waits: there is nothing to read
    return False


def lent_by(pool: AsyncRedisPyPool) -> MutableSet[AsyncRedisPyConnection]:
    """Return the async connections that a pool has lent, and closes: `_in_use_connections`, 5.0 to 8.1."""
    return pool._in_use_connections


def abort(connection: AsyncRedisPyConnection) -> None:
    """Close an async connection's socket at once, whatever is under way: `_writer`, `_reader`, 5.0 to 8.1."""
    writer, connection._writer, connection._reader = getattr(connection, "_writer", None), None, None
    if writer is not None:
        with suppress(RuntimeError):  # a loop other than asyncio's own may insist that it is closed
            writer.transport.abort()


# Async clients.


def connections_of(client: object) -> Iterator[AsyncRedisPyConnection]:
    """Yield all connections of an async client that may be open.

    A pool's `_available_connections` and `_in_use_connections`, the `_connections` of a cluster's nodes, 5.0 to
    8.1.
    """
    pool = getattr(client, "connection_pool", None)
    yield from getattr(pool, "_available_connections", ())
    yield from getattr(pool, "_in_use_connections", ())
    nodes = getattr(client, "nodes_manager", None)
    for node in (*getattr(nodes, "nodes_cache", {}).values(), *getattr(nodes, "startup_nodes", {}).values()):
        yield from getattr(node, "_connections", ())


class _AsyncCluster(Protocol):
    _initialize: bool


def mark_closed(client: object) -> None:
    """Keep an async cluster client from complaining, when it is collected, that it was not closed.

    `_initialize`, which its `aclose` sets, 5.0 to 8.1.
    """
    cast("_AsyncCluster", client)._initialize = True


# Clients that are brought along.


def tries_of(retry: object) -> int:
    """Return how often one command is sent at most, by the client's `retry`: `_retries`, 5.0 to 5.3.

    6.0 to 8.1 have `get_retries()`. `None` is one try.
    """
    get_retries = getattr(retry, "get_retries", None)
    return 1 + int(getattr(retry, "_retries", 0) if get_retries is None else get_retries())
