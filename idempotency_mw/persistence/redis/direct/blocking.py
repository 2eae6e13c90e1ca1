"""A standalone server by a shorter way, for blocking code: a thread takes a connection, asks, and gives it back.

redis-py makes each connection (TLS, authentication, database, name). Left out are its pool, locks, retries and
metrics; an exchange is that of `redis/connection_blocking.py`. Where redis-py lacks a name that is needed, or
has an option that is not heeded here, its usual client is used. Knows nothing of scripts or verbs.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

import select
from collections.abc import Callable, Sequence
from contextlib import suppress
from os import getpid
from time import monotonic
from typing import Any

import redis
from redis.exceptions import ConnectionError as RedisConnectionError

from idempotency_mw.persistence.redis.direct.blocking_connection import BlockingConnection
from idempotency_mw.persistence.redis.direct.deadline import Deadline
from idempotency_mw.persistence.redis.direct.options import are_heeded
from idempotency_mw.persistence.redis.direct.resp import packed, pieces
from idempotency_mw.persistence.redis.redis_py import has_what_direct_needs

__all__ = ["DirectBlockingRedis", "can_be_direct_blocking"]

_Redis: Any = redis.Redis

_MOST_IDLE = 50


def can_be_direct_blocking(make_connection: Callable[[], Any], options: dict[str, Any]) -> bool:
    """Tell whether all options are heeded here, and redis-py and the platform have the names that are needed."""
    return are_heeded(options) and hasattr(select, "poll") and has_what_direct_needs(make_connection())


class DirectBlockingRedis(_Redis):  # type: ignore[misc]
    """redis-py's client, whose raw commands (`NEVER_DECODE`) go the shorter way. For any number of threads.

    Each process has idle connections of its own, by its number: a fork copies them, and must not use them. The
    last that was given back is the first that is taken. There is no lock that a fork, or a thread that is killed,
    could leave held: what threads share is changed in single steps.
    """

    takes_parts = True
    """An argument of commands that are sent together may be a tuple of its parts."""

    def __init__(self, connection_pool: Any, make_connection: Callable[[], Any], deadline: Deadline) -> None:
        self._make_connection = make_connection
        self._deadline = deadline
        self._most_idle = _MOST_IDLE
        self._idle: dict[int, list[BlockingConnection]] = {}
        super().__init__(connection_pool=connection_pool)

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Send one command, and return its reply, undecoded; an error is raised."""
        if "NEVER_DECODE" not in options:
            return super().execute_command(*args, **options)
        return self.ask(packed(args), monotonic(), self._deadline.ends)

    def ask(self, command: bytes, now: float, ends: float) -> Any:
        """Send one packed command, and return its reply, undecoded; an error is raised. It is over in time."""
        (reply,) = self._exchange((command,), 1, now, ends)
        if isinstance(reply, Exception):
            raise reply
        return reply

    def together(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        """Send several commands in one trip. An error reply is a value."""
        return self._exchange(pieces(commands), len(commands), monotonic(), self._deadline.ends)

    def _exchange(self, message: Sequence[bytes], count: int, now: float, ends: float) -> list[Any]:
        idle = self._idle.get(getpid())
        if idle is None:
            idle = self._begun()
        connection = _rested(idle, now) or self._connected(ends)
        try:
            replies = connection.exchange(message, count, now, ends)
        except BaseException as error:
            connection.close()
            if isinstance(error, Exception):  # not where the thread was told to stop
                _close_beyond(0, idle)  # what befell this one, befell those that were idle for longer
            raise
        idle.append(connection)
        if len(idle) > self._most_idle:
            _close_beyond(self._most_idle, idle)
        return replies

    def _begun(self) -> list["BlockingConnection"]:
        """Begin in this process, and close what it has of its parents' sockets: theirs stay open."""
        process = getpid()
        for other in tuple(self._idle):
            if other != process:
                _close_beyond(0, self._idle.pop(other, []))
        return self._idle.setdefault(process, [])

    def _connected(self, ends: float) -> "BlockingConnection":
        self._deadline.ends = ends
        connection = self._make_connection()
        try:
            connection.connect()
            _check_all_is_read(connection)
            return BlockingConnection(connection)
        except BaseException:
            connection.disconnect()
            raise

    def close(self) -> None:
        """Close what is idle, and from now on what is given back."""
        self._most_idle = 0
        for idle in tuple(self._idle.values()):
            _close_beyond(0, idle)
        super().close()


def _check_all_is_read(connection: Any) -> None:
    """Raise if more has come than the handshake's replies: what follows would pass for the reply to a command."""
    if connection.can_read(timeout=0):
        raise RedisConnectionError("the server said more than it was asked")


def _rested(idle: list[BlockingConnection], now: float) -> BlockingConnection | None:
    """Return a connection that nobody uses, if there is one that can be used."""
    while idle:
        try:
            connection = idle.pop()
        except IndexError:  # another thread was faster
            return None
        if connection.is_fit(now):
            return connection
        connection.close()
    return None


def _close_beyond(most: int, idle: list[BlockingConnection]) -> None:
    """Close the connections that were idle for longest, but for so many."""
    with suppress(IndexError):  # another thread was faster
        while len(idle) > most:
            idle.pop(0).close()
