"""A client for one standalone server and one event loop, past redis-py's pool, locks and retries.

Callers share a connection: what they ask at a time goes out in one write. docs/decisions/012 has the reasons,
and what was measured. redis-py makes the connections. If it lacks a name that is needed, or an option is given
that this path does not heed, the usual client is used: `can_be_direct`.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

import asyncio
from collections.abc import Sequence
from math import inf
from typing import Final, Protocol

from redis.exceptions import ConnectionError as RedisConnectionError

from idempotency_mw.persistence.redis.direct.async_connection import Connection
from idempotency_mw.persistence.redis.direct.deadline import IDLE_SECONDS
from idempotency_mw.persistence.redis.direct.options import are_heeded
from idempotency_mw.persistence.redis.direct.resp import Argument, Reply, packed
from idempotency_mw.persistence.redis.redis_py import (
    AsyncRedisPyConnection,
    AsyncRedisPyPool,
    Options,
    abort,
    has_what_direct_needs,
    lent_by,
    untyped_redis,
)

__all__ = ["OWN_CONNECTIONS", "DirectRedis", "can_be_direct"]

OWN_CONNECTIONS: Final = 16
"""How many connections carry commands that would keep other callers waiting. Callers wait in line for them, so
that a crowd with large results does not open a connection for each. The number is a choice and no
measurement."""

_LARGE: Final = 64 << 10
"""A larger command does not go on the shared connection. So one exchange sends 128 times this at most, 8 MiB."""


class _HasPool(Protocol):
    connection_pool: AsyncRedisPyPool


def can_be_direct(client: _HasPool, options: Options) -> bool:
    """Tell whether all options of this client are heeded here, and redis-py has the names that are needed."""
    pool = client.connection_pool
    return has_what_direct_needs(pool.make_connection(), pool) and are_heeded(options)


class DirectRedis(untyped_redis.asyncio.Redis):  # type: ignore[misc]
    """redis-py's client for one event loop, whose raw commands (`NEVER_DECODE`) go the shorter way.

    What would keep other callers waiting goes on a connection of its own: a large command, and several together,
    because a WAIT may be among them. The shared connection is closed if replies are due on it and nothing comes
    for `patience` seconds, so that its callers can ask again on another one while they have time left.
    """

    takes_parts = True
    """An argument of commands that are sent together may be a tuple of its parts."""

    def __init__(self, connection_pool: AsyncRedisPyPool, patience: float) -> None:
        super().__init__(connection_pool=connection_pool)
        self._patience = patience
        self._shared: Connection | None = None
        self._connecting: asyncio.Task[Exception | None] | None = None
        self._connecting_for = 0  # so many callers
        self._idle: list[Connection] = []
        self._own = asyncio.Semaphore(OWN_CONNECTIONS)
        self._is_closed = False

    async def execute_command(self, *args: Argument, **options: object) -> object:
        """Send one command, and return its reply, undecoded; an error is raised."""
        if "NEVER_DECODE" not in options:
            return await super().execute_command(*args, **options)
        command = packed(args)
        if len(command) > _LARGE:
            (reply,) = await self.send_pipeline([args])
        else:
            connection = await self._connected()
            try:
                reply = await connection.ask(command)
            except asyncio.CancelledError:
                connection.end_if_deserted()
                raise
        if isinstance(reply, Exception):
            raise reply
        return reply

    def connection_for(self, command: bytes) -> Connection | None:
        """Return the shared connection if it is open and the command is not too large for it, else `None`.

        A caller that asks on it and is cancelled calls `Connection.end_if_deserted`.
        """
        shared = self._shared
        return None if shared is None or not shared.is_open or len(command) > _LARGE else shared

    async def send_pipeline(self, commands: Sequence[Sequence[Argument]]) -> list[Reply]:
        """Send several commands in one trip, nothing of other callers between. An error reply is a value."""
        async with self._own:
            connection = self._rested() or await self._new_connection()
            try:
                replies = await connection.ask_alone(commands)
            finally:
                if connection.is_open:
                    self._idle.append(connection)
        for reply in replies:
            if isinstance(reply, RedisConnectionError):
                raise reply
        return replies

    def _rested(self) -> Connection | None:
        """Return an idle connection, if there is one that was not idle for too long."""
        while self._idle:
            connection = self._idle.pop()
            connection.end_if_idle(IDLE_SECONDS)
            if connection.is_open:
                return connection
        return None

    def rest(self) -> None:
        """Leave no timer on the loop, unless somebody waits: the process may be frozen."""
        if self._shared is not None:
            self._shared.rest()

    async def stop_connecting(self) -> None:
        """Give up the shared connection that is being made, if one is. From now on no connection stays open."""
        self._is_closed = True
        if self._connecting is not None and self._connecting.cancel():
            await asyncio.wait([self._connecting])

    async def _connected(self) -> Connection:
        """Return the shared connection. A task makes it, and has the whole time-out for it.

        If callers made it in turn, it might never be done. With a time-out of 2 s and a server that hangs: time
        0: A connects, B waits. Time 2: A gives up, B connects with no time left, and so does every caller after
        it.
        """
        while self._shared is None or not self._shared.is_open:
            if self._connecting is None or self._connecting.done():
                self._connecting = asyncio.create_task(self._connect())
            connecting = self._connecting
            self._connecting_for += 1
            try:
                await asyncio.wait([connecting])
            finally:
                self._connecting_for -= 1
                self._stop_if_nobody_waits()
            if connecting.cancelled():
                raise RedisConnectionError("Connection lost: closed while it was made")
            error = connecting.result()
            if error is not None:
                raise error.with_traceback(
                    None
                )  # many callers raise it, and each raise would add to its traceback
        return self._shared

    def _stop_if_nobody_waits(self) -> None:
        """Leave no task on the loop when nobody asks any more."""
        if not self._connecting_for and self._connecting is not None:
            self._connecting.cancel()
            self._connecting = None

    async def _connect(self) -> Exception | None:
        try:
            async with asyncio.timeout(2 * self._patience):
                self._shared = await self._new_connection(self._patience)
        except Exception as error:  # noqa: BLE001 - each caller raises it
            return error
        return None

    async def _new_connection(self, patience: float = inf) -> Connection:
        made: AsyncRedisPyConnection = self.connection_pool.make_connection()
        made.maint_notifications_config = None  # redis-py 7.1 on: pushes for connections that its pool watches
        try:
            await made.connect()
            connection = Connection(made, lent_by(self.connection_pool), patience)
        except BaseException:
            abort(made)
            raise
        if self._is_closed:  # nobody else would close it
            connection.end("closed while it was made")
            raise RedisConnectionError("Connection lost: closed while it was made")
        return connection
