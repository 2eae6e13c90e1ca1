"""Everything private of redis-py that this package reaches for, each name once.

redis-py offers no public way to these. Every docstring lists the releases in which the name was looked up and
found: "5.0 to 8.1" means 5.0.0, 5.0.8, 5.2.1, 5.3.1, 6.0.0, 6.4.0, 7.1.0, 8.0.0 and 8.1.0. Where a release lacks
what the direct path needs, `has_what_direct_needs` says so, and redis-py's usual client is used.

Outside of this module no private name of redis-py stands in the package; a test sees to that.
"""

# ruff: noqa: SLF001
# pyright: reportPrivateUsage=false

import asyncio
from collections.abc import MutableSet
from contextlib import suppress
from socket import socket
from typing import Any

from redis._parsers import BaseParser
from redis.exceptions import InvalidResponse

__all__ = [
    "abort",
    "has_what_direct_needs",
    "is_at_its_end",
    "lent_by",
    "server_error",
    "socket_of",
    "transport_of",
]

_parser: Any = BaseParser


def server_error(text: str) -> Exception:
    """Return the text of an error reply as an exception of redis-py's class for it, which callers match.

    Raises `InvalidResponse` for a MOVED or ASK without an address: redis-py quotes the reply then, with
    `ValueError`.

    `redis._parsers.BaseParser`, 5.0 to 8.1.
    """
    try:
        error: Exception = _parser.parse_error(text)
    except ValueError:
        raise InvalidResponse("an error reply can't be read") from None
    return error


def has_what_direct_needs(connection: object, pool: object = None) -> bool:
    """Tell whether this redis-py has the names that the direct path reaches for.

    The connection is one that is not connected yet. A pool is given with an async connection.
    """
    names = ("_sock",) if pool is None else ("_reader", "_writer", "_parser")
    needed = [(connection, name) for name in (*names, "connect", "disconnect")]
    if pool is not None:
        needed.append((pool, "_in_use_connections"))
    return all(hasattr(owner, name) for owner, name in needed)


def socket_of(connection: Any) -> socket:
    """Return a blocking connection's socket: `_sock`, 5.0 to 8.1."""
    found: socket = connection._sock
    return found


def transport_of(connection: Any) -> asyncio.Transport:
    """Return an async connection's transport: `_writer`, 5.0 to 8.1."""
    found: asyncio.Transport = connection._writer.transport
    return found


def is_at_its_end(connection: Any) -> bool:
    """Tell whether a connection that was just made can't be taken over: it has ended, or there is more to read.

    Each reply of the handshake was read, so that what follows is a reply to nothing. asyncio's reader has it, or
    hiredis, if that is installed. `_reader`, `_parser` and, with hiredis, `_parser._reader`, 5.0 to 8.1.
    """
    hiredis = getattr(connection._parser, "_reader", None)
    if hiredis is not None and hiredis.has_data():
        return True
    reading = connection._reader.read(1)
    try:
        reading.send(None)  # waits if there is nothing to read yet, as there should be
    except StopIteration:
        return True
    reading.close()
    return False


def lent_by(pool: Any) -> MutableSet[Any]:
    """Return the async connections that the pool closes though it does not have them: `_in_use_connections`.

    5.0 to 8.1; a weak set from 6.0 on.
    """
    found: MutableSet[Any] = pool._in_use_connections
    return found


def abort(connection: Any) -> None:
    """Close an async connection's socket at once, whatever is under way: `_writer`, `_reader`, 5.0 to 8.1."""
    writer, connection._writer, connection._reader = getattr(connection, "_writer", None), None, None
    if writer is not None:
        with suppress(RuntimeError):  # a loop other than asyncio's own may insist that it is closed
            writer.transport.abort()
