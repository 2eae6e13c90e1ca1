"""One async connection to Redis. It moves bytes and sets a timer; `exchanges` says whose reply is whose.

redis-py made the connection (TLS, credentials, database, name) and does nothing on it from then on: bytes come
here from the transport, past asyncio's streams, and `resp` reads them. No task reads, so none is left behind.

The connection is closed whenever its state may be unknown: a reply that nobody asked for, one that can't be read,
silence while replies are due, an exchange whose callers have all left. Everybody who waits then gets an error.
"""

import asyncio
from collections.abc import Callable, Iterable, MutableSet, Sequence
from contextvars import Context
from math import inf
from typing import Any, Final

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, ReadOnlyError

from idempotency_mw.persistence.redis.direct.exchanges import Exchanges
from idempotency_mw.persistence.redis.direct.resp import Argument, Push, Reader, Reply, pieces
from idempotency_mw.persistence.redis.redis_py import (
    AsyncRedisPyConnection,
    abort,
    can_not_be_taken_over,
    server_error,
    transport_of,
)

__all__ = ["Connection"]

Answer = asyncio.Future[Reply]

_PLAIN: Final = frozenset((int, bytes, list))
"""The types of replies that are neither errors nor anything else that needs a look."""

_UNFIT: Final = (RedisConnectionError, InvalidResponse)
"""Errors in place of a reply that end the connection: the server refuses everything on it, or can't be read."""


class Connection(asyncio.Protocol):
    """One connection, and the exchanges on it.

    With `patience`, it is closed when replies are due and nothing has come for so many seconds.
    """

    def __init__(
        self, connection: AsyncRedisPyConnection, lent: MutableSet[AsyncRedisPyConnection], patience: float = inf
    ) -> None:
        """Take over redis-py's connection, and add it to those that its pool has lent.

        Raises redis-py's `ConnectionError` if the server has closed it, or has said more than it was asked.
        """
        if transport_of(connection).is_closing() or can_not_be_taken_over(connection):
            raise RedisConnectionError("the server closed the connection at once, or said more than it was asked")
        self.is_open = True
        self._connection = connection
        self._transport = transport_of(connection)
        self._loop = asyncio.get_running_loop()
        self._reader = Reader(server_error)
        self._exchanges: Exchanges[Answer] = Exchanges()
        self._is_demoted = False
        self._patience = patience
        self._heard = 0.0
        self._alarm = _Alarm(self._loop, self._look)
        self._lent = lent  # the pool closes these, or they are dropped with it
        lent.add(connection)
        self._usual_protocol = self._transport.get_protocol()
        self._transport.set_protocol(self)

    def ask(self, command: bytes, ends: float = inf) -> Answer:
        """Send a packed command with those of others. The future's result is the reply, also if that is an error.

        It has a result by the loop's time `ends`: a `TimeoutError` if nothing else.
        """
        answer: Answer = self._loop.create_future()
        exchanges = self._exchanges
        if exchanges.ask(answer, command, ends):
            if exchanges.were_many:  # callers that got their replies together ask again together
                self._loop.call_soon(self._begin)
            else:
                self._begin()
        if ends < self._alarm.when and self.is_open:
            self._alarm.set(ends)
        return answer

    async def ask_alone(self, commands: Sequence[Sequence[Argument]]) -> list[Reply]:
        """Return the replies to several commands, on a connection that nobody else asks."""
        answers: list[Answer] = [self._loop.create_future() for _ in commands]
        self._exchanges.begin_alone(answers)
        self._send(pieces(commands))
        try:
            return [await each for each in answers]
        finally:
            if self._exchanges.missing:
                self.end("nobody waits for the replies any more")

    def _begin(self) -> None:
        if self.is_open:
            self._send((b"".join(self._exchanges.begin()),))

    def _send(self, message: Iterable[bytes]) -> None:
        self._heard = self._loop.time()
        if self._transport.is_closing():  # asyncio calls connection_lost in a moment
            self.end("closed by the server")
            return
        for piece in message:
            self._transport.write(piece)
        if self._heard + self._patience < self._alarm.when:
            self._alarm.set(self._heard + self._patience)

    def _look(self) -> None:
        """Tell the callers whose deadline is over, and close a connection that is silent.

        This happens at the earliest moment at which there may be something to do. It finds nothing if the replies
        have come meanwhile: setting it anew for each exchange takes a fifth of the exchange's instructions.
        """
        now = self._loop.time()
        for answer in self._exchanges.overdue(now):
            if not answer.done():
                answer.set_result(TimeoutError("no reply within the time that there was"))
        self.end_if_deserted()
        silent = self._heard + self._patience if self._exchanges.missing else inf
        if now >= silent:
            self.end(f"the server has been silent for {self._patience} s")
        elif self.is_open and (when := min(silent, self._exchanges.next_deadline)) < inf:
            self._alarm.set(when)

    def data_received(self, data: bytes) -> None:
        """As `asyncio.Protocol.data_received`."""
        self._heard = self._loop.time()
        events: list[Any] = self._reader.read(data)  # `Any`, because only a loop knows that no `Push` goes on
        for event in events:
            if type(event) not in _PLAIN:
                self._receive_each(events)
                return
        whole = self._exchanges.receive(events)
        if whole is not None:
            self._hand_out(*whole)

    def _receive_each(self, events: list[Reply | Push]) -> None:
        """Take events of which some are errors, or nobody's."""
        for event in events:
            if not self.is_open:
                return
            if isinstance(event, _UNFIT):
                self._fail(event)
                return
            if isinstance(event, Push):
                self.end("the server said what nobody had asked for")
                return
            self._is_demoted = self._is_demoted or isinstance(event, ReadOnlyError)
            whole = self._exchanges.receive([event])
            if whole is not None:
                self._hand_out(*whole)

    def _hand_out(self, answers: list[Answer], replies: list[Reply]) -> None:
        for answer, reply in zip(answers, replies):  # noqa: B905 - being strict takes 2,000 instructions
            if not answer.done():
                answer.set_result(reply)
        if self._exchanges.is_busy:
            self._loop.call_soon(self._begin)
        if len(replies) > len(answers):
            self.end("the server said what nobody had asked for")
        if self._is_demoted:
            self.end("the server is a replica now; under its name there may be another")

    def _fail(self, error: Exception) -> None:
        """Close the connection for an error in place of a reply, which is the answer to that reply's caller."""
        answer = self._exchanges.next_in_line
        if answer is not None and not answer.done():
            answer.set_result(error)
        self.end(str(error))

    def rest(self) -> None:
        """Leave no timer on the loop, unless somebody waits: the process may be frozen."""
        if not self._exchanges.is_busy:
            self._alarm.cancel()

    def end_if_deserted(self) -> None:
        """Close the connection if all callers of the exchange have left. Those of the next one get an error."""
        if self._exchanges.is_deserted(_is_done):
            self.end("nobody waits for the replies any more")

    def end_if_idle(self, seconds: float) -> None:
        """Close the connection if nothing has come on it for so long."""
        if self._loop.time() - self._heard > seconds:
            self.end("idle for too long")

    def end(self, reason: str) -> None:
        """Close the connection at once. Everybody who waits gets redis-py's `ConnectionError` for a reply."""
        if self.is_open:
            self.is_open = False
            self._alarm.cancel()
            self._lent.discard(self._connection)
            for answer in self._exchanges.abandon():
                if not answer.done():
                    answer.set_result(RedisConnectionError(f"Connection lost: {reason}"))
            abort(self._connection)

    def connection_lost(self, exc: Exception | None) -> None:
        """As `asyncio.Protocol.connection_lost`."""
        self.end(str(exc or "closed by the server"))
        self._usual_protocol.connection_lost(exc)  # redis-py may be waiting for it


def _is_done(answer: Answer) -> bool:
    return answer.done()


class _Alarm:
    """One timer, set to the earliest of the moments that matter."""

    __slots__ = ("_call", "_context", "_loop", "_timer", "when")

    def __init__(self, loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
        self.when = inf
        self._loop = loop
        self._call = call
        self._timer: asyncio.TimerHandle | None = None
        self._context = Context()  # else the timer would keep a copy of the context of whoever asked

    def set(self, when: float) -> None:
        """Call then, and not at the moment that was set before."""
        self.cancel()
        self.when = when
        self._timer = self._loop.call_at(when, self._ring, context=self._context)

    def cancel(self) -> None:
        """Call no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self.when = inf

    def _ring(self) -> None:
        self.cancel()
        self._call()
