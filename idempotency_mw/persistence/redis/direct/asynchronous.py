"""A standalone server by a shorter way: callers share a connection, and what they ask at a time goes in one write.

redis-py's pool, locks and retries are left out; `redis/wire.py` is what is left. Where redis-py lacks a name that
is needed, or is given an option that is not heeded here, its usual client is used. Knows nothing of scripts or
verbs.
"""

# ruff: noqa: SLF001
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

import asyncio
from collections.abc import Sequence
from math import inf
from operator import attrgetter
from typing import Any

import redis.asyncio
from redis.exceptions import ConnectionError as RedisConnectionError

from idempotency_mw.persistence.redis.direct.async_connection import Wire
from idempotency_mw.persistence.redis.direct.options import are_heeded
from idempotency_mw.persistence.redis.direct.resp import packed
from idempotency_mw.persistence.redis.redis_py import drop_connection

__all__ = ["OWN_CONNECTIONS", "DirectRedis", "can_be_direct"]

_Redis: Any = redis.asyncio.Redis

OWN_CONNECTIONS = 16
_IDLE_SECONDS = 30.0
_LARGE = 64 << 10

_names_of = attrgetter("_reader", "_writer", "_parser._stream", "encoder.decode_responses")


def can_be_direct(client: Any, options: dict[str, Any]) -> bool:
    """Tell whether all options of this client are heeded here, and redis-py has the names that are needed."""
    try:
        _names_of(client.connection_pool.make_connection())
        client.connection_pool._in_use_connections.discard(None)
    except AttributeError:
        return False
    return are_heeded(options)


class DirectRedis(_Redis):  # type: ignore[misc]
    """redis-py's client for one event loop, whose raw commands (`NEVER_DECODE`) go the shorter way.

    What would keep other callers waiting goes on one of few connections of its own: a large command, and several
    together, because a WAIT may be among them. The shared connection is given up if replies are due on it and
    nothing comes for `patience` seconds, so that its callers can ask again on another while they have time left.
    """

    takes_parts = True
    """An argument of commands that are sent together may be a tuple of its parts."""

    def __init__(self, connection_pool: Any, patience: float) -> None:
        super().__init__(connection_pool=connection_pool)
        self._patience = patience
        self._shared: Wire | None = None
        self._connecting: asyncio.Task[Exception | None] | None = None
        self._hopeful = 0
        self._idle: list[Wire] = []
        self._own = asyncio.Semaphore(OWN_CONNECTIONS)
        self._is_over = False

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Send one command, and return its reply, undecoded; an error is raised."""
        if "NEVER_DECODE" not in options:
            return await super().execute_command(*args, **options)
        command = packed(args)
        if len(command) > _LARGE:
            (reply,) = await self.together([args])
        else:
            wire = await self._connected()
            try:
                reply = await wire.ask(command)
            except asyncio.CancelledError:
                wire.end_if_deserted()
                raise
        if isinstance(reply, Exception):
            raise reply
        return reply

    def wire_for(self, command: bytes) -> Wire | None:
        """Return the shared connection, unless it is yet to be made, or the command is too large for it.

        Who asks on it and is cancelled lets it know: `Wire.end_if_deserted`.
        """
        wire = self._shared
        return None if wire is None or not wire.is_open or len(command) > _LARGE else wire

    async def together(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        """Send several commands in one trip, nothing of other callers between. An error reply is a value."""
        async with self._own:
            wire = self._rested() or await self._new_wire()
            try:
                replies = await wire.ask_alone(commands)
            finally:
                if wire.is_open:
                    self._idle.append(wire)
        for reply in replies:
            if isinstance(reply, RedisConnectionError):
                raise reply
        return replies

    def _rested(self) -> Wire | None:
        """Return a connection that nobody uses, not one that a firewall may have forgotten: it would only hang."""
        while self._idle:
            wire = self._idle.pop()
            wire.end_if_idle(_IDLE_SECONDS)
            if wire.is_open:
                return wire
        return None

    def rest(self) -> None:
        """Leave nothing on the loop of a process that may be frozen, unless somebody waits."""
        if self._shared is not None:
            self._shared.rest()

    async def stop_connecting(self) -> None:
        """Give up the shared connection that is being made, if one is. From now on none comes to stay."""
        self._is_over = True
        if self._connecting is not None and self._connecting.cancel():
            await asyncio.wait([self._connecting])

    async def _connected(self) -> Wire:
        """Return the shared connection. A task makes it, in its own time.

        Callers who made it in turn might never be done: once the first has waited in vain, the next in line has
        hardly any time left, and so has each one after it.
        """
        while self._shared is None or not self._shared.is_open:
            if self._connecting is None or self._connecting.done():
                self._connecting = asyncio.create_task(self._connect())
            connecting = self._connecting
            self._hopeful += 1
            try:
                await asyncio.wait([connecting])
            finally:
                self._hopeful -= 1
                self._end_if_hopeless()
            if connecting.cancelled():
                raise RedisConnectionError("Connection lost: closed while it was made")
            error = connecting.result()
            if error is not None:
                raise error.with_traceback(None)  # to many callers: each raise would add to it
        return self._shared

    def _end_if_hopeless(self) -> None:
        """Leave nothing on the loop when nobody asks any more."""
        if not self._hopeful and self._connecting is not None:
            self._connecting.cancel()
            self._connecting = None

    async def _connect(self) -> Exception | None:
        try:
            async with asyncio.timeout(2 * self._patience):
                self._shared = await self._new_wire(self._patience)
        except Exception as error:  # noqa: BLE001 - each caller raises it
            return error
        return None

    async def _new_wire(self, patience: float = inf) -> Wire:
        connection = self.connection_pool.make_connection()
        connection.encoder.decode_responses = False
        connection.maint_notifications_config = None  # those are for connections that the pool watches
        try:
            await connection.connect()
            wire = Wire(connection, self.connection_pool._in_use_connections, patience)
        except BaseException:
            drop_connection(connection)
            raise
        if self._is_over:  # nobody would close it
            wire.end("closed while it was made")
            raise RedisConnectionError("Connection lost: closed while it was made")
        return wire
