"""One blocking connection to Redis, and an exchange on it: a few commands in one message, and as many replies.

redis-py made the connection (TLS, credentials, database, name) and is not asked again: its parser would take
bytes from the socket by itself, and cut no wait to a deadline. `resp` reads the replies. An exchange returns all
of them or raises.
"""

import select
from collections.abc import Sequence
from math import inf
from time import monotonic
from typing import Final

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, ReadOnlyError

from idempotency_mw.persistence.redis.direct.deadline import IDLE_SECONDS, bounded
from idempotency_mw.persistence.redis.direct.resp import Push, Reader, Reply, plain
from idempotency_mw.persistence.redis.redis_py import RedisPyConnection, server_error, socket_of

__all__ = ["BlockingConnection"]

_SIZE: Final = 64 << 10
"""How much one `recv` takes: redis-py's `socket_read_size`."""

_EXACT: Final = 0.001
"""A socket's time-out is left as it is while it is right to the millisecond: setting it is a system call."""

_UNFIT: Final = (RedisConnectionError, ReadOnlyError, InvalidResponse)
"""Errors after which the connection can't be used: the server refuses everything, or is a replica now, and under
its name there may be another one; or what it said can't be read."""


class BlockingConnection:
    """One connection. After an exchange that raised it must be closed: what comes next on it is unknown."""

    __slots__ = ("_asked", "_longest", "_poll", "_sock", "_was_idle", "close")

    def __init__(self, connection: RedisPyConnection) -> None:
        self._sock = socket_of(connection)
        self._asked = monotonic()
        self._was_idle = False
        self._longest = inf
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        self._poll = poll.poll
        self.close = connection.disconnect

    def is_fit(self, now: float) -> bool:
        """Tell whether nothing has come meanwhile, nor an end, and no firewall may have forgotten it.

        TLS keeps no bytes back that poll would not tell of: a record is read whole, and no further.
        """
        return now - self._asked < IDLE_SECONDS and not self._poll(0)

    def exchange(self, message: Sequence[bytes], count: int, now: float, ends: float) -> list[Reply]:
        """Send the pieces of a message, and return `count` replies. An error reply is a value.

        Raises `TimeoutError` when `ends` has come, and redis-py's error if the connection or the server can't be
        used any more.

        A connection that was idle may be dead without a sign. Silence on it leaves half of the time, to ask
        again on another one. Not so with several commands, because a WAIT may be among them, nor with one in
        pieces, which takes its time.
        """
        sock = self._sock
        self._asked = now
        if self._was_idle and count == len(message) == 1:
            self._wait_for((ends - now) / 2)
            sock.sendall(message[0])
        else:
            for piece in message:
                self._wait_for(ends - monotonic())  # connecting, or the piece before, may have taken a while
                sock.sendall(piece)
            self._wait_for(ends - monotonic())
        data = sock.recv(_SIZE)
        first = plain(data, 0)
        if count == 1 and first is not None and first[1] == len(data):
            replies = [first[0]]
        else:
            replies = self._replies(data, count, ends)
        self._was_idle = True
        return replies

    def _wait_for(self, seconds: float) -> None:
        """Let no wait of the socket take longer."""
        if not -_EXACT < seconds - self._longest < _EXACT:
            self._longest = bounded(seconds)
            self._sock.settimeout(self._longest)

    def _replies(self, data: bytes, count: int, ends: float) -> list[Reply]:
        """Read the replies that begin so, to the end of the last one."""
        reader = Reader(server_error)  # one for each exchange: nothing may be left over from the one before
        events = reader.read(data)
        while len(replies := _usable(events[:count])) < count:
            events += reader.read(self._more(ends))
        if len(events) > count or not reader.is_between_replies:
            raise RedisConnectionError("the server said more than it was asked")
        return replies

    def _more(self, ends: float) -> bytes:
        left = ends - monotonic()
        if left <= 0:  # else a server that always has more to say would make a wait without end
            raise TimeoutError("the reply was not whole within the time that there was")
        self._wait_for(left)
        more = self._sock.recv(_SIZE)
        if not more:
            raise RedisConnectionError("Connection lost: closed by the server")
        return more


def _usable(events: Sequence[Reply | Push]) -> list[Reply]:
    """Return replies, or raise what makes the connection unusable."""
    replies: list[Reply] = []
    for event in events:
        if isinstance(event, _UNFIT):
            raise event
        if isinstance(event, Push):
            raise InvalidResponse("the server said what nobody had asked for")
        replies.append(event)
    return replies
