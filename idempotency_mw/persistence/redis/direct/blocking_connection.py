"""One connection to Redis for blocking code, and an exchange on it.

redis-py made it. Its parser is left out, which would take the bytes from the socket itself: what the scripts reply
is read here, and its errors are made by redis-py. Nobody gets a reply before all of an exchange are there.
"""

# ruff: noqa: SLF001

import re
import select
from collections.abc import Sequence
from math import inf
from time import monotonic
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, ReadOnlyError

from idempotency_mw.persistence.redis.direct.deadline import bounded
from idempotency_mw.persistence.redis.direct.resp import plain

__all__ = ["BlockingWire"]

_IDLE_SECONDS = 30.0
_SIZE = 64 << 10
_EXACT = 0.001

_ARRAY = re.compile(rb"\*([0-9]{1,9})\r\n")
_UNFIT = (RedisConnectionError, ReadOnlyError)
"""What says that the server can't be used, or is a replica now: under its name there may be another."""


class BlockingWire:
    """One connection. An exchange that does not end as it should leaves it in a state that nobody can tell."""

    __slots__ = ("_asked", "_connection", "_longest", "_poll", "_sock", "_was_idle", "close")

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._sock = connection._sock
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
        return now - self._asked < _IDLE_SECONDS and not self._poll(0)

    def exchange(self, message: Sequence[bytes], count: int, now: float, ends: float) -> list[Any]:
        """Send the pieces of a message, and return so many replies; raise what says that the server can't be used.

        A connection that was idle may be dead and not say so: silence on it leaves half of the time to ask on
        another. Not with several commands, a WAIT may be among them, nor with one in pieces, which takes its time.
        """
        sock = self._sock
        self._asked = now
        if self._was_idle and count == len(message) == 1:
            self._wait_for((ends - now) / 2)
            sock.sendall(message[0])
        else:
            for piece in message:
                self._wait_for(ends - monotonic())  # it may just have taken a while to connect, or to send
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
        """Let no wait take longer, to the millisecond: to tell the socket is a system call."""
        if not -_EXACT < seconds - self._longest < _EXACT:
            self._longest = bounded(seconds)
            self._sock.settimeout(self._longest)

    def _replies(self, data: bytes | bytearray, count: int, ends: float) -> list[Any]:
        """Read what began so, to its end."""
        replies: list[Any] = []
        at = 0
        while len(replies) < count:
            found = plain(data, at) or self._other(data, at)
            if found is None:
                data = self._more(data, ends)
            else:
                reply, at = found
                replies.append(reply)
        if at != len(data):
            raise RedisConnectionError("the server said more than it was asked")
        return replies

    def _other(self, data: bytes | bytearray, at: int) -> tuple[Any, int] | None:
        """Return the reply at this place that is not plain, and where it ends; None if it is not whole."""
        head = _ARRAY.match(data, at)
        if head is None:
            return self._line(data, at)
        items: list[Any] = []
        end = head.end()
        for _ in range(int(head[1])):
            found = plain(data, end) or self._line(data, end)
            if found is None:
                return None
            item, end = found
            items.append(item)
        return items, end

    def _line(self, data: bytes | bytearray, at: int) -> tuple[Any, int] | None:
        """Return the status or the error that stands at this place; None if more may make it a reply."""
        end = data.find(b"\r\n", at)
        if end < 0:
            return None
        kind, text = data[at : at + 1], bytes(data[at + 1 : end])
        if kind == b"-":
            return self._error(text), end + 2
        if kind == b"+":
            return text, end + 2
        if kind != b"$" or not text.isdigit():
            raise InvalidResponse(f"no reply begins with {kind!r} here")
        return None

    def _error(self, text: bytes) -> Exception:
        try:
            error: Exception = self._connection._parser.parse_error(text.decode(errors="replace"))
        except ValueError:  # a MOVED without an address; redis-py quotes it
            raise InvalidResponse("the error can't be read") from None
        if isinstance(error, _UNFIT):
            raise error
        return error

    def _more(self, data: bytes | bytearray, ends: float) -> bytearray:
        left = ends - monotonic()
        if left <= 0:  # a server that always has more to say makes no wait too long
            raise TimeoutError("the reply was not whole within the time that there was")
        self._wait_for(left)
        more = self._sock.recv(_SIZE)
        if not more:
            raise RedisConnectionError("Connection lost: closed by the server")
        whole = data if isinstance(data, bytearray) else bytearray(data)
        whole += more
        return whole
