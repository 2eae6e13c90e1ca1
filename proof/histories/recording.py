"""Redis clients that note each message of a verb, from when to when, and what was answered.

One verb of a layer can send several messages: it asks again, and it releases what it left in doubt. So it is
not the verbs that are noted but the messages, each of which the server carries out at one moment, at most once.
"""

from collections.abc import Callable
from typing import Any, Self

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError
from redis.retry import Retry

from idempotency_mw.core.record import Acquired, Claim, Existing, Operation, Settled
from idempotency_mw.persistence.frame import Frame
from idempotency_mw.persistence.redis import commands
from idempotency_mw.persistence.redis.direct.async_connection import Connection
from idempotency_mw.persistence.redis.direct.asynchronous import DirectRedis
from idempotency_mw.persistence.redis.direct.blocking import DirectBlockingRedis
from proof.histories.checker import seen
from proof.histories.operations import History

__all__ = [
    "AsyncRecordingClient",
    "DirectBlockingRecordingClient",
    "DirectRecordingClient",
    "RecordingClient",
]

CLAIM = Claim(Operation("", ""), "", 1, 1)
CALLS = {
    "acquire": commands.acquire("", CLAIM),
    "extend": commands.extend("", CLAIM),
    "complete": commands.complete("", CLAIM, None),
    "release": commands.release("", CLAIM),
}
VERB_OF = {name: verb for verb, call in CALLS.items() for name in (call.script.sha, call.script.text)}


class RecordingClient(redis.Redis):
    """A blocking one. It sends nothing twice."""

    def __init__(self, port: int, seconds: float, history: History, claims: dict[str, Claim]) -> None:
        super().__init__(
            port=port, socket_timeout=seconds, socket_connect_timeout=seconds, retry=Retry(NoBackoff(), 0)
        )
        self._begin = _beginner(history, claims)

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Note the message, if it is one of a verb, and send it."""
        send = super().execute_command
        return _noted(self._begin, args, lambda: send(*args, **options))


class DirectBlockingRecordingClient(DirectBlockingRedis):
    """The one that the layer builds for a standalone server: a connection for each thread that asks."""

    @classmethod
    def of(cls, client: DirectBlockingRedis, history: History, claims: dict[str, Claim]) -> Self:
        """Return the client as one that notes; it has no other state than the client."""
        noting = cls.__new__(cls)
        noting.__dict__ = {**client.__dict__, "_begin": _beginner(history, claims)}
        return noting

    def ask(self, command: bytes, now: float, ends: float) -> Any:
        """Note the message, if it is one of a verb, and send it."""
        send = super().ask
        return _noted(self._begin, _unpacked(command), lambda: send(command, now, ends))


def _noted(begin: Callable[..., Any], args: tuple[Any, ...], send: Callable[[], Any]) -> Any:
    end, read = begin(args)
    try:
        reply = send()
    except NoScriptError:
        raise  # nothing was done
    except BaseException:
        end(is_open=True)
        raise
    end(read(reply))
    return reply


class _Recording:
    """Notes what an async client sends."""

    _begin: Callable[..., Any]

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Note the message, if it is one of a verb, and send it."""
        end, read = self._begin(args)
        try:
            reply = await super().execute_command(*args, **options)  # type: ignore[misc]
        except NoScriptError:
            raise  # nothing was done
        except BaseException:
            end(is_open=True)
            raise
        end(read(reply))
        return reply


class AsyncRecordingClient(_Recording, redis.asyncio.Redis):
    """redis-py's own."""

    def __init__(self, port: int, seconds: float, history: History, claims: dict[str, Claim]) -> None:
        super().__init__(
            port=port, socket_timeout=seconds, socket_connect_timeout=seconds, retry=AsyncRetry(NoBackoff(), 0)
        )
        self._begin = _beginner(history, claims)


class DirectRecordingClient(_Recording, DirectRedis):
    """The one that the layer builds for a standalone server: all callers share a connection."""

    def __init__(self, port: int, seconds: float, history: History, claims: dict[str, Claim]) -> None:
        usual = redis.asyncio.Redis(port=port, socket_timeout=None, retry=AsyncRetry(NoBackoff(), 0))
        super().__init__(usual.connection_pool, patience=seconds)
        self._begin = _beginner(history, claims)

    def connection_for(self, command: bytes) -> Any:
        """Return the connection, on which each message is noted."""
        connection = super().connection_for(command)
        return None if connection is None else _NotingConnection(connection, self._begin)


class _NotingConnection:
    """The shared connection, as the layer uses it."""

    def __init__(self, connection: Connection, begin: Callable[..., Any]) -> None:
        self._connection = connection
        self._begin = begin
        self.end_if_deserted = connection.end_if_deserted

    async def ask(self, command: bytes, ends: float) -> Any:
        """Note the message, and send it."""
        end, read = self._begin(_unpacked(command))
        try:
            reply = await self._connection.ask(command, ends)
        except BaseException:
            end(is_open=True)
            raise
        if isinstance(reply, Exception) and not isinstance(reply, NoScriptError):
            end(is_open=True)
        elif not isinstance(reply, NoScriptError):
            end(read(reply))
        return reply


def _unpacked(command: bytes) -> tuple[Any, ...]:
    """Return what a packed command says, as it is given to `execute_command`."""
    parts, begin = [], command.index(b"$")
    while begin < len(command):
        head = command.index(b"\r\n", begin)
        end = head + 2 + int(command[begin + 1 : head])
        parts.append(command[head + 2 : end])
        begin = end + 2
    return (parts[0], parts[1].decode(), *parts[2:])


def _beginner(
    history: History, claims: dict[str, Claim]
) -> Callable[[tuple[Any, ...]], tuple[Callable[..., None], Callable[[Any], Any]]]:
    def begin(args: tuple[Any, ...]) -> tuple[Callable[..., None], Callable[[Any], Any]]:
        verb = VERB_OF.get(args[1]) if len(args) > 4 else None
        if verb is None:
            return _ignore, _ignore
        letter, result = args[6:8] if verb == "complete" else (b"N", b"")
        return history.begin(verb, claims[args[4].decode()], result if letter == b"C" else None), _READ[verb]

    return begin


def _ignore(*_: Any, **__: Any) -> None:
    """Note nothing."""


def _read_acquire(reply: list[Any]) -> Any:
    match commands.read_acquire(reply):
        case Acquired(attempt):
            return ("acquired", attempt)
        case Existing(record):
            return ("existing", seen(record, Frame.decode(reply[2]).token))


def _read_complete(reply: list[Any]) -> Any:
    outcome = commands.read_complete(reply)
    if isinstance(outcome, Settled):
        return ("settled",)
    return ("lost", outcome.record and seen(outcome.record, Frame.decode(reply[2]).token))


_READ: dict[str, Callable[[Any], Any]] = {
    "acquire": _read_acquire,
    "extend": commands.read_flag,
    "complete": _read_complete,
    "release": commands.read_flag,
}
