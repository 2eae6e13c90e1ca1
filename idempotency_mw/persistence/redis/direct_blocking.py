"""A standalone server by a shorter way, for blocking code: a thread takes a connection, asks, and gives it back.

redis-py makes each connection (TLS, authentication, database, name). Left out are its pool, locks, retries and
metrics, and its parser, which would take the bytes from the socket itself: what the scripts reply is read here.
Where redis-py lacks a name that is needed, or is given an option that is not heeded here, its usual client is
used. Knows nothing of scripts or verbs.
"""

# ruff: noqa: SLF001
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

import re
import select
from collections.abc import Callable, Sequence
from contextlib import suppress
from math import inf
from operator import attrgetter
from os import getpid
from time import monotonic
from typing import Any

import redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, ReadOnlyError

from idempotency_mw.persistence.redis.deadline import Deadline, bounded
from idempotency_mw.persistence.redis.direct import are_heeded
from idempotency_mw.persistence.redis.resp import packed, pieces, plain

__all__ = ["DirectBlockingRedis", "can_be_direct_blocking"]

_Redis: Any = redis.Redis

_MOST_IDLE = 50
_IDLE_SECONDS = 30.0
_SIZE = 64 << 10
_EXACT = 0.001

_ARRAY = re.compile(rb"\*([0-9]{1,9})\r\n")
_UNFIT = (RedisConnectionError, ReadOnlyError)
"""What says that the server can't be used, or is a replica now: under its name there may be another."""

_names_of = attrgetter("_sock", "_parser.parse_error", "connect", "disconnect")


def can_be_direct_blocking(make_connection: Callable[[], Any], options: dict[str, Any]) -> bool:
    """Tell whether all options are heeded here, and redis-py and the platform have the names that are needed."""
    if not are_heeded(options) or not hasattr(select, "poll"):
        return False
    try:
        _names_of(make_connection())
    except AttributeError:
        return False
    return True


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
        self._idle: dict[int, list[_Wire]] = {}
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
        wire = _rested(idle, now) or self._connected(ends)
        try:
            replies = wire.exchange(message, count, now, ends)
        except BaseException as error:
            wire.close()
            if isinstance(error, Exception):  # not where the thread was told to stop
                _close_beyond(0, idle)  # what befell this one, befell those that were idle for longer
            raise
        idle.append(wire)
        if len(idle) > self._most_idle:
            _close_beyond(self._most_idle, idle)
        return replies

    def _begun(self) -> list["_Wire"]:
        """Begin in this process, and close what it has of its parents' sockets: theirs stay open."""
        process = getpid()
        for other in tuple(self._idle):
            if other != process:
                _close_beyond(0, self._idle.pop(other, []))
        return self._idle.setdefault(process, [])

    def _connected(self, ends: float) -> "_Wire":
        self._deadline.ends = ends
        connection = self._make_connection()
        try:
            connection.connect()
            return _Wire(connection)
        except BaseException:
            connection.disconnect()
            raise

    def close(self) -> None:
        """Close what is idle, and from now on what is given back."""
        self._most_idle = 0
        for idle in tuple(self._idle.values()):
            _close_beyond(0, idle)
        super().close()


class _Wire:
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
        another. Not with several commands, among which a WAIT may be, nor with a large one, which takes its time.
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


def _rested(idle: list[_Wire], now: float) -> _Wire | None:
    """Return a connection that nobody uses, if there is one that can be used."""
    while idle:
        try:
            wire = idle.pop()
        except IndexError:  # another thread was faster
            return None
        if wire.is_fit(now):
            return wire
        wire.close()
    return None


def _close_beyond(most: int, idle: list[_Wire]) -> None:
    """Close the connections that were idle for longest, but for so many."""
    with suppress(IndexError):  # another thread was faster
        while len(idle) > most:
            idle.pop(0).close()
