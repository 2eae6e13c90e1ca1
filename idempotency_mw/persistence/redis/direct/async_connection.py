"""One connection to Redis, on which commands of many callers go in one write.

redis-py made it (TLS, authentication, database, name). Left out are asyncio's streams and what redis-py does
around an exchange. Plain replies are read here, the others by redis-py's parser, and all by hiredis, which keeps
bytes of its own. No task reads: the parser goes on when bytes come in.

There is one exchange at a time: commands in one write (what is large in pieces), and as many replies. Nobody gets
a reply before all of them are there, and a connection whose exchange does not end is closed. So a reply that is
lost on the way, or that nobody waits for any more, never makes the next one pass for it. One timer sees to
silence, and to all deadlines. It stays for a moment when the connection rests; `rest` takes it from the loop of a
process that may be frozen.

This reaches for names that redis-py has had from 5.0 to 8.1; `redis/direct.py` sees whether they are there.
"""

# ruff: noqa: SLF001

import asyncio
from collections.abc import Coroutine, Iterable, Sequence
from contextvars import Context
from math import inf
from typing import Any

import redis._parsers
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, ReadOnlyError, RedisError

from idempotency_mw.persistence.redis.direct.resp import pieces, plain
from idempotency_mw.persistence.redis.direct.stream import Stream
from idempotency_mw.persistence.redis.redis_py import drop_connection

__all__ = ["Wire"]

_MANY = 128
"""So many commands are one exchange at most: replies are held until the last, and may be large."""


_parsers: Any = redis._parsers
_KEEP_NOTHING = tuple(
    getattr(_parsers, name) for name in ("_AsyncRESP2Parser", "_AsyncRESP3Parser") if hasattr(_parsers, name)
)
"""The parsers that hold no bytes between two replies."""


class Wire(asyncio.Protocol):
    """One connection and the exchange that is under way on it. Bytes come to it past asyncio's streams."""

    def __init__(self, connection: Any, lent: set[Any], patience: float = inf) -> None:
        self.is_open = True
        self._connection = connection
        self._transport = connection._writer.transport
        self._loop = asyncio.get_running_loop()
        self._stream = connection._parser._stream = Stream()
        self._keeps_bytes = not isinstance(connection._parser, _KEEP_NOTHING)
        self._parsing: Coroutine[Any, Any, Any] | None = None
        self._due: list[asyncio.Future[Any]] = []
        self._replies: list[Any] = []
        self._waiting: list[asyncio.Future[Any]] = []  # for the next exchange
        self._unsent: list[bytes] = []
        self._ends: dict[asyncio.Future[Any], float] = {}  # when those who wait must have been told something
        self._is_busy = False
        self._is_demoted = False
        self._were_many = False
        self._patience = patience
        self._heard = 0.0
        self._watch: asyncio.TimerHandle | None = None
        self._looks = inf  # when it will
        self._context = Context()  # a timer would copy that of whoever asks
        if connection._reader.at_eof() or self._transport.is_closing():
            raise RedisConnectionError("the server closed the connection at once")
        self._lent = lent  # which the pool closes, or are dropped
        lent.add(connection)
        self._usual = self._transport.get_protocol()
        self._transport.set_protocol(self)
        self._parse()

    def ask(self, command: bytes, ends: float = inf) -> asyncio.Future[Any]:
        """Send a command with those of others; the reply comes as the future's result, also if it is an error.

        By the time given there is a result, a `TimeoutError` if nothing else.
        """
        answer = self._loop.create_future()
        self._unsent.append(command)
        self._waiting.append(answer)
        self._ends[answer] = ends
        if not self._is_busy:
            self._is_busy = True
            if self._were_many:
                self._loop.call_soon(self._begin)  # who got their replies together ask again together
            else:
                self._begin()
        if ends < self._looks and self.is_open:
            self._look_at(ends)
        return answer

    async def ask_alone(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        """Return the replies to several commands, on a connection that nobody else asks."""
        answers = [self._loop.create_future() for _ in commands]
        self._exchange(pieces(commands), answers)
        try:
            return [await each for each in answers]
        finally:
            if self._due:
                self.end("nobody waits for the replies any more")

    def _begin(self) -> None:
        if self.is_open:
            commands, due = self._unsent, self._waiting
            self._unsent, self._waiting = commands[_MANY:], due[_MANY:]
            del commands[_MANY:], due[_MANY:]
            self._exchange((b"".join(commands),), due)

    def _exchange(self, message: Iterable[bytes], due: list[asyncio.Future[Any]]) -> None:
        self._due = due
        self._heard = self._loop.time()
        if self._transport.is_closing():  # which is told in a moment
            self.end("closed by the server")
            return
        for piece in message:
            self._transport.write(piece)
        if self._heard + self._patience < self._looks:
            self._look_at(self._heard + self._patience)

    def _look_at(self, when: float) -> None:
        self._end_watch()
        self._looks = when
        self._watch = self._loop.call_at(when, self._look, context=self._context)

    def _look(self) -> None:
        """See who has waited long enough, and whether anything comes at all. It is never later than it must be."""
        self._end_watch()
        now = self._loop.time()
        for answer in [answer for answer, ends in self._ends.items() if ends <= now]:
            del self._ends[answer]
            if not answer.done():
                answer.set_result(TimeoutError("no reply within the time that there was"))
        self.end_if_deserted()
        silent = self._heard + self._patience if self._due else inf
        if now >= silent:
            self.end(f"the server has been silent for {self._patience} s")
        elif self.is_open and (when := min([silent, *self._ends.values()])) < inf:
            self._look_at(when)

    def data_received(self, data: bytes) -> None:
        """As `asyncio.Protocol.data_received`."""
        self._heard = self._loop.time()
        left = data if self._parsing or self._keeps_bytes else self._read_plain(data)
        if left:
            self._stream.arrived += left
            self._parse()

    def _read_plain(self, data: bytes) -> bytes:
        """Read replies for as long as they are plain, and return what is left."""
        end = 0
        while end < len(data) and (found := plain(data, end)):
            reply, end = found
            self._take(reply)
        return data[end:]

    def _parse(self) -> None:
        """Let the parser go on until it needs more bytes. It also hears what nobody has asked for."""
        while self.is_open and (self._parsing or self._stream.arrived or self._keeps_bytes):
            parsing = self._parsing = self._parsing or self._connection._parser.read_response(
                disable_decoding=True
            )
            try:
                parsing.send(None)
            except StopIteration as parsed:
                self._parsing = None
                self._is_demoted = self._is_demoted or isinstance(parsed.value, ReadOnlyError)
                self._take(parsed.value)
            except Exception as error:  # noqa: BLE001 - whatever it is, the parser can't go on
                self._fail(error)
            else:
                return

    def _take(self, reply: Any) -> None:
        if not self._due:
            self.end("the server said what nobody had asked for")
            return
        self._replies.append(reply)
        if len(self._replies) == len(self._due):
            self._hand_out()

    def _hand_out(self) -> None:
        due, replies, ends = self._due, self._replies, self._ends
        self._due, self._replies = [], []
        self._were_many = len(due) > 1
        for answer, reply in zip(due, replies, strict=True):
            ends.pop(answer, None)
            if not answer.done():
                answer.set_result(reply)
        self._is_busy = bool(self._waiting)
        if self._is_busy:
            self._loop.call_soon(self._begin)
        if self._is_demoted:
            self.end("the server is a replica now; under its name there may be another")

    def rest(self) -> None:
        """Leave nothing on the loop, unless somebody waits."""
        if not self._is_busy:
            self._end_watch()

    def _end_watch(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
            self._looks = inf

    def _fail(self, error: Exception) -> None:
        """End it for an error that the parser raises: that of the server about one command, or its own."""
        if not isinstance(error, RedisError) or isinstance(error, InvalidResponse):
            error = InvalidResponse("the reply can't be read")  # redis-py quotes it: it may be a result
        if self._due and not self._due[len(self._replies)].done():
            self._due[len(self._replies)].set_result(error)
        self.end(str(error))

    def end_if_deserted(self) -> None:
        """Close the connection if nobody waits for what is due; those who wait for their turn ask again."""
        if self._due and all(each.done() for each in self._due):
            self.end("nobody waits for the replies any more")

    def end_if_idle(self, seconds: float) -> None:
        """Close the connection if nothing has come on it for so long."""
        if self._loop.time() - self._heard > seconds:
            self.end("idle for too long")

    def end(self, reason: str) -> None:
        """Close the connection at once. Whoever waits gets an error for a reply."""
        if self.is_open:
            self.is_open = False
            self._end_watch()
            self._lent.discard(self._connection)
            for answer in self._due + self._waiting:
                if not answer.done():
                    answer.set_result(RedisConnectionError(f"Connection lost: {reason}"))
            drop_connection(self._connection)

    def connection_lost(self, exc: Exception | None) -> None:
        """As `asyncio.Protocol.connection_lost`."""
        self.end(str(exc or "closed by the server"))
        self._usual.connection_lost(exc)  # redis-py may be waiting for it
