"""Redis clients that record each message of a verb: its begin, its end, and its answer.

A layer's verb can send several messages: it retries, and it releases a claim that it left in doubt. Therefore
messages are recorded, not verbs: the server carries out each message at one moment, and at most once.
"""

from collections.abc import Callable
from typing import Any

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError
from redis.retry import Retry

from idempotency_mw.core.record import Claim, Operation
from idempotency_mw.persistence.frame import Frame
from idempotency_mw.persistence.redis import commands
from idempotency_mw.persistence.redis.direct.async_connection import Connection
from idempotency_mw.persistence.redis.direct.asynchronous import DirectRedis
from idempotency_mw.persistence.redis.direct.blocking import DirectBlockingRedis
from idempotency_mw.persistence.redis.direct.deadline import Deadline
from proof.histories.checker import outcome_of
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
    """redis-py's blocking client, without retries."""

    def __init__(self, port: int, seconds: float, history: History, claims: dict[str, Claim]) -> None:
        super().__init__(
            port=port, socket_timeout=seconds, socket_connect_timeout=seconds, retry=Retry(NoBackoff(), 0)
        )
        self._begin = _beginner(history, claims)

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Record the message, if it is one of a verb, and send it."""
        send = super().execute_command
        return _noted(self._begin, args, lambda: send(*args, **options))


class DirectBlockingRecordingClient(DirectBlockingRedis):
    """The client that the layer builds for a standalone server: each thread that asks takes a connection."""

    def __init__(self, port: int, seconds: float, history: History, claims: dict[str, Claim]) -> None:
        options: dict[str, Any] = {
            "port": port, "socket_timeout": seconds, "socket_connect_timeout": seconds,
            "retry": Retry(NoBackoff(), 0),
        }  # fmt: skip
        self._seconds, self._ends = seconds, Deadline()
        super().__init__(redis.ConnectionPool(**options), lambda: redis.Connection(**options), self._ends)
        self._begin = _beginner(history, claims)

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Record the message, if it is one of a verb, and send it."""
        send = super().execute_command
        self._ends.start(self._seconds)
        return _noted(self._begin, args, lambda: send(*args, **options))


def _noted(begin: Callable[..., Any], args: tuple[Any, ...], send: Callable[[], Any]) -> Any:
    end, read = begin(args)
    try:
        reply = send()
    except NoScriptError:
        raise  # the script was not run, so nothing took effect
    except BaseException:
        end(is_open=True)
        raise
    end(read(reply))
    return reply


class _Recording:
    """Records what an async client sends."""

    _begin: Callable[..., Any]

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Record the message, if it is one of a verb, and send it."""
        end, read = self._begin(args)
        try:
            reply = await super().execute_command(*args, **options)  # type: ignore[misc]
        except NoScriptError:
            raise  # the script was not run, so nothing took effect
        except BaseException:
            end(is_open=True)
            raise
        end(read(reply))
        return reply


class AsyncRecordingClient(_Recording, redis.asyncio.Redis):
    """redis-py's async client, without retries."""

    def __init__(self, port: int, seconds: float, history: History, claims: dict[str, Claim]) -> None:
        super().__init__(
            port=port, socket_timeout=seconds, socket_connect_timeout=seconds, retry=AsyncRetry(NoBackoff(), 0)
        )
        self._begin = _beginner(history, claims)


class DirectRecordingClient(_Recording, DirectRedis):
    """The client that the layer builds for a standalone server: all callers share one connection."""

    def __init__(self, port: int, seconds: float, history: History, claims: dict[str, Claim]) -> None:
        usual = redis.asyncio.Redis(port=port, socket_timeout=None, retry=AsyncRetry(NoBackoff(), 0))
        super().__init__(usual.connection_pool, patience=seconds)
        self._begin = _beginner(history, claims)

    def connection_for(self, command: bytes) -> Any:
        """Return the shared connection, wrapped so that each message is recorded."""
        connection = super().connection_for(command)
        return None if connection is None else _NotingConnection(connection, self._begin)


class _NotingConnection:
    """The shared connection, as the layer uses it."""

    def __init__(self, connection: Connection, begin: Callable[..., Any]) -> None:
        self._connection = connection
        self._begin = begin
        self.end_if_deserted = connection.end_if_deserted

    async def ask(self, command: bytes, ends: float) -> Any:
        """Record the message, and send it."""
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
    """Return the arguments of a packed command, as they are given to `execute_command`."""
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
    """Record nothing."""


def _reading(read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a function that reads a reply as an `Operation`'s outcome, with the token of the record in it."""

    def outcome(reply: Any) -> Any:
        answer = read(reply)
        has_record = getattr(answer, "record", None) is not None
        return outcome_of(answer, Frame.decode(reply[2]).token if has_record else None)

    return outcome


_READ: dict[str, Callable[[Any], Any]] = {
    "acquire": _reading(commands.read_acquire),
    "extend": _reading(commands.read_flag),
    "complete": _reading(commands.read_complete),
    "release": _reading(commands.read_flag),
}
