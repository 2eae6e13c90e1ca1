"""redis-py's connections, which keep to a deadline, and leave a server that was demoted.

Demoted is a master that became a replica: it answers READONLY. Under its name there may be another server by
now, the new master. So its connection is closed before the next command, which then goes to whatever the name
leads to.
"""

import asyncio
from collections.abc import Iterable
from typing import cast

from redis.exceptions import ReadOnlyError, ResponseError

from idempotency_mw.persistence.redis.direct.deadline import Deadline
from idempotency_mw.persistence.redis.redis_py import (
    AsyncRedisPyConnection,
    RedisPyConnection,
    TimedRedisPyConnection,
    with_time_outs,
)

__all__ = ["cancellable", "leaving_demoted", "within"]


class Demotion:
    """Notes, as a context manager around the reading of replies, that the server said it is a replica now."""

    def __init__(self) -> None:
        self._is_noted = False

    def __enter__(self) -> None:
        """Begin to read a reply, which raises if it is an error."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, ReadOnlyError):
            self._is_noted = True

    def is_new(self) -> bool:
        """Tell whether the connection has to be closed before it is used again. True once for each demotion."""
        noted, self._is_noted = self._is_noted, False
        return noted


class DueReplies:
    """Counts the replies that are still to be read; around the reading of one, as a context manager, counts down.

    An exception from a signal handler or another thread may come between any two steps of redis-py:

        time 0    a command is out, and its reply is on the way
        time 1    the exception comes; redis-py puts the connection back into its pool as it is
        time 2    the next command goes out on it, and the reply to the first one passes for its own
    """

    def __init__(self) -> None:
        self.due = 0
        self._packed = 1

    def pack(self, commands: Iterable[object]) -> list[object]:
        """Return the commands, which go out in the next message."""
        listed = list(commands)
        self._packed = len(listed)
        return listed

    def send(self) -> int:
        """Return how many replies the next message brings: one, unless several commands were packed for it."""
        self.due, self._packed = self._packed, 1
        return self.due

    def __enter__(self) -> None:
        """Begin to read a reply, which raises if it is an error."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, ResponseError):  # at any other exception redis-py disconnects
            self.due -= 1


def within(deadline: Deadline, base: type[RedisPyConnection]) -> type[RedisPyConnection]:
    """Return redis-py's blocking connection, which keeps to the deadline and leaves a demoted server."""

    class LeavingConnection(_without_foreign_replies(with_time_outs(base, deadline.left))):  # type: ignore[misc]
        def __init__(self, *args: object, **options: object) -> None:
            self.demotion = Demotion()
            super().__init__(*args, **options)

        def send_packed_command(self, *args: object, **options: object) -> None:
            if self.demotion.is_new():
                self.disconnect()
            self.cut_waits()
            super().send_packed_command(*args, **options)

        def read_response(self, *args: object, **options: object) -> object:
            self.cut_waits()
            with self.demotion:
                return super().read_response(*args, **options)

    return LeavingConnection


def _without_foreign_replies(base: type[TimedRedisPyConnection]) -> type[TimedRedisPyConnection]:
    """Return redis-py's blocking connection, which is closed before it is lent while replies are due on it."""

    class CountingConnection(base):  # type: ignore[misc, valid-type]
        def __init__(self, *args: object, **options: object) -> None:
            self.replies = DueReplies()
            super().__init__(*args, **options)

        def connect(self) -> None:
            if self.replies.due > 0:  # a pool calls this each time that it lends a connection
                self.disconnect()
            super().connect()
            self.replies.due = 0  # those to the handshake are read

        def disconnect(self, *args: object, **options: object) -> None:
            self.replies.due = 0
            super().disconnect(*args, **options)

        def pack_commands(self, commands: Iterable[object]) -> object:
            return super().pack_commands(self.replies.pack(commands))

        def send_packed_command(self, *args: object, **options: object) -> None:
            sent = self.replies.send()
            super().send_packed_command(*args, **options)
            self.replies.due = sent  # again, because it may have connected

        def read_response(self, *args: object, **options: object) -> object:
            with self.replies:
                return super().read_response(*args, **options)

    return CountingConnection


def leaving_demoted(base: type[AsyncRedisPyConnection]) -> type[AsyncRedisPyConnection]:
    """Return redis-py's async connection, which leaves a demoted server. Its waits are the layer's to bound."""

    class AsyncLeavingConnection(base):  # type: ignore[misc, valid-type]
        def __init__(self, *args: object, **options: object) -> None:
            self.demotion = Demotion()
            super().__init__(*args, **options)

        async def send_packed_command(self, *args: object, **options: object) -> None:
            if self.demotion.is_new():
                await self.disconnect()
            await super().send_packed_command(*args, **options)

        async def read_response(self, *args: object, **options: object) -> object:
            with self.demotion:
                return await super().read_response(*args, **options)

    return AsyncLeavingConnection


def cancellable(base: type[AsyncRedisPyConnection]) -> type[AsyncRedisPyConnection]:
    """Return redis-py's async connection, which can be cancelled while it sends.

    With a `socket_timeout`, as connections to Sentinels have it, redis-py sends under `asyncio.wait_for`. In
    Python 3.11 that can lose a cancellation:

        time 0    the bytes are out, and `wait_for` is about to return
        time 1    the deadline cancels the verb
        time 2    `wait_for` returns as if nothing had happened

    The verb would go on to the master, whose connection has no time-out of its own: a frozen master would hold it
    for ever.
    """

    class CancellableConnection(base):  # type: ignore[misc, valid-type]
        async def send_packed_command(self, *args: object, **options: object) -> None:
            task = cast("asyncio.Task[None]", asyncio.current_task())
            requests = task.cancelling()
            await super().send_packed_command(*args, **options)
            if task.cancelling() > requests:
                await self.disconnect(nowait=True)
                raise asyncio.CancelledError

    return CancellableConnection
