"""A client for one standalone server, for blocking code, past redis-py's pool, locks and retries.

A thread takes a connection, asks, and gives it back. docs/decisions/013 has the reasons, and what was measured.
redis-py makes the connections. If it lacks a name that is needed, or an option is given that this path does not
heed, the usual client is used: `can_be_direct_blocking`.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

import select
from collections.abc import Callable, Sequence
from contextlib import suppress
from os import getpid
from time import monotonic
from typing import Final

from redis.exceptions import ConnectionError as RedisConnectionError

from idempotency_mw.persistence.redis.direct.blocking_connection import BlockingConnection
from idempotency_mw.persistence.redis.direct.deadline import Deadline
from idempotency_mw.persistence.redis.direct.options import are_heeded
from idempotency_mw.persistence.redis.direct.resp import Argument, Reply, packed, pieces
from idempotency_mw.persistence.redis.redis_py import (
    Options,
    RedisPyConnection,
    has_what_direct_needs,
    untyped_redis,
)

__all__ = ["DirectBlockingRedis", "can_be_direct_blocking"]

MOST_IDLE: Final = 50
"""How many idle connections stay open in a process: as many as redis-py's `BlockingConnectionPool` has at most."""


def can_be_direct_blocking(make_connection: Callable[[], RedisPyConnection], options: Options) -> bool:
    """Tell whether all options are heeded here, and redis-py and the platform have the names that are needed."""
    return are_heeded(options) and hasattr(select, "poll") and has_what_direct_needs(make_connection())


class DirectBlockingRedis(untyped_redis.Redis):  # type: ignore[misc]
    """redis-py's client, whose raw commands (`NEVER_DECODE`) go the shorter way. For any number of threads.

    Each process has its own idle connections, listed by its number, because a fork copies those of its parent
    and must not use them. The connection that was given back last is taken first. There is no lock, which a fork
    or a thread that is killed could leave held: what threads share is changed in single steps.
    """

    takes_parts = True
    """An argument of commands that are sent together may be a tuple of its parts."""

    def __init__(
        self, connection_pool: object, make_connection: Callable[[], RedisPyConnection], deadline: Deadline
    ) -> None:
        self._make_connection = make_connection
        self._deadline = deadline
        self._most_idle = MOST_IDLE
        self._idle: dict[int, list[BlockingConnection]] = {}
        super().__init__(connection_pool=connection_pool)

    def execute_command(self, *args: Argument, **options: object) -> object:
        """Send one command, and return its reply, undecoded; an error is raised."""
        if "NEVER_DECODE" not in options:
            return super().execute_command(*args, **options)
        return self.ask(packed(args), monotonic(), self._deadline.ends)

    def ask(self, command: bytes, now: float, ends: float) -> Reply:
        """Send one packed command, and return its reply, undecoded. Raises the reply if it is an error.

        Both times are those of `monotonic()`. Raises `TimeoutError` when `ends` has come.
        """
        (reply,) = self._exchange((command,), 1, now, ends)
        if isinstance(reply, Exception):
            raise reply
        return reply

    def send_pipeline(self, commands: Sequence[Sequence[Argument]]) -> list[Reply]:
        """Send several commands in one trip. An error reply is a value."""
        return self._exchange(pieces(commands), len(commands), monotonic(), self._deadline.ends)

    def _exchange(self, message: Sequence[bytes], count: int, now: float, ends: float) -> list[Reply]:
        idle = self._idle.get(getpid())
        if idle is None:
            idle = self._begin_in_this_process()
        connection = _rested(idle, now) or self._connected(ends)
        try:
            replies = connection.exchange(message, count, now, ends)
        except BaseException as error:
            connection.close()
            if isinstance(error, Exception):  # and not an interrupt of this thread
                _close_beyond(0, idle)  # those that were idle for longer are likely dead too
            raise
        idle.append(connection)
        if len(idle) > self._most_idle:
            _close_beyond(self._most_idle, idle)
        return replies

    def _begin_in_this_process(self) -> list[BlockingConnection]:
        """Begin an empty list, and close this process's copies of its parents' sockets. Theirs stay open."""
        process = getpid()
        for other in tuple(self._idle):
            if other != process:
                _close_beyond(0, self._idle.pop(other, []))
        return self._idle.setdefault(process, [])

    def _connected(self, ends: float) -> BlockingConnection:
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
        """Close the idle connections. From now on a connection is closed when it is given back."""
        self._most_idle = 0
        for idle in tuple(self._idle.values()):
            _close_beyond(0, idle)
        super().close()


def _check_all_is_read(connection: RedisPyConnection) -> None:
    """Raise if more has come than the handshake's replies: what follows would pass for the reply to a command."""
    if connection.can_read(timeout=0):
        raise RedisConnectionError("the server said more than it was asked")


def _rested(idle: list[BlockingConnection], now: float) -> BlockingConnection | None:
    """Return an idle connection that can be used, if there is one."""
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
    """Close those that were idle for longest, until so many are left."""
    with suppress(IndexError):  # another thread was faster
        while len(idle) > most:
            idle.pop(0).close()
