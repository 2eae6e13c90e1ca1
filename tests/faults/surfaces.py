"""All surfaces under one interface: send a request or call a function, and see what its client gets.

    surface = place.surface(Play(seen=...))
    seen = await surface.send(b"body", key="k-1")
    seen.answer, seen.replayed, seen.refused, seen.raised
    surface.runs

The HTTP surfaces are those of the scenarios. A function gets the same play: it does what an app would do and
returns the body that an app would send. A plain function runs in a thread.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from idempotency_mw import IdempotencyConfig, current_execution, errors, idempotent_function
from tests.asgi.driver import ASGISurface, Play
from tests.wsgi.surface import WSGISurface

__all__ = ["SURFACES", "Interrupt", "Large", "Play", "Seen", "surface_over"]

SURFACES = ("asgi", "wsgi", "function", "async function")
PATIENCE = 30.0


class Interrupt(BaseException):
    """A `BaseException` that stops a run from outside."""


@dataclass(frozen=True)
class Large(Play):
    """An answer that can't be stored: too large, or as a result of a function not JSON."""

    chunks: tuple[bytes, ...] = (b"x" * 40,)


@dataclass(frozen=True)
class Seen:
    """What one client or caller got."""

    answer: bytes | None = None
    """The body of the app's answer, or the function's result."""
    replayed: bool = False
    refused: str | None = None
    """The kind of refusal, as the slug of its problem."""
    raised: BaseException | None = None
    """The app's own exception, as the server or the caller sees it."""
    is_whole: bool = True


@dataclass(frozen=True)
class Replayed:
    """A function's result that was replayed."""

    value: Any


class _ASGI(ASGISurface):
    """Also records the attempt of each run."""

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        self.attempts.append(_attempt())
        await super()._app(scope, receive, send)


class _WSGI(WSGISurface):
    """Also records the attempt of each run."""

    def _app(self, environ: Any, start_response: Any) -> Any:
        self.attempts.append(_attempt())
        return super()._app(environ, start_response)


def _attempt() -> int:
    execution = current_execution()
    return 0 if execution is None else execution.attempt


class HTTPSurface:
    """The ASGI or WSGI surface."""

    def __init__(self, kind: str, layer: Any, play: Any, config: IdempotencyConfig, http: Any) -> None:
        self.inner = {"asgi": _ASGI, "wsgi": _WSGI}[kind](layer, play, config=config, http=http)
        self.attempts: list[int] = []
        self.inner.attempts = self.attempts

    @property
    def runs(self) -> int:
        return self.inner.runs

    @property
    def play(self) -> Any:
        return self.inner.play

    @play.setter
    def play(self, play: Any) -> None:
        self.inner.play = play

    async def send(self, body: bytes = b"{}", *, key: str = "k-1", **options: Any) -> Seen:
        answer = await asyncio.wait_for(self.inner.conversation(body, key=key, **options).run(), PATIENCE)
        if answer.one("content-type") == "application/problem+json":
            return Seen(refused=answer.slug, raised=answer.raised)
        body = answer.body if answer.status is not None else None
        return Seen(body, answer.replayed, None, answer.raised, answer.ended)


class FunctionSurface:
    """A plain function, or an async one."""

    def __init__(self, kind: str, layer: Any, play: Any, config: IdempotencyConfig, threads: Any) -> None:
        self.play = play
        self.runs = 0
        self.attempts: list[int] = []
        self._is_async = kind == "async function"
        self._threads = threads
        self._loop = asyncio.get_running_loop()
        options = replace(
            config,
            event_key_jmespath="key",
            payload_validation_jmespath="body",
            response_hook=lambda value, record: Replayed(value),
        )
        protect = idempotent_function(persistence_store=layer, config=options, key_prefix="the function")
        self.function = protect(self._run_async if self._is_async else self._run)

    async def send(self, body: bytes = b"{}", *, key: str = "k-1") -> Seen:
        payload = {"key": key, "body": body.decode()}
        try:
            result = await asyncio.wait_for(self._call(payload), PATIENCE)
        except errors.IdempotencyError as error:
            return Seen(refused=_slug(error))
        except (Exception, Interrupt) as error:
            return Seen(raised=error)
        replayed = isinstance(result, Replayed)
        value = result.value if replayed else result
        return Seen(value.encode() if isinstance(value, str) else b"x" * 40, replayed)

    async def _call(self, payload: Any) -> Any:
        if self._is_async:
            return await self.function(payload)
        return await self._loop.run_in_executor(self._threads, self.function, payload)

    def _begin(self, payload: Any) -> tuple[Any, Any]:
        self.runs += 1
        self.attempts.append(_attempt())
        body = payload["body"].encode()
        play = self.play(body) if callable(self.play) else self.play
        return play, play.seen(body) if play.seen is not None else None

    async def _run_async(self, payload: Any) -> Any:
        play, seen = self._begin(payload)
        if asyncio.iscoroutine(seen):
            await seen
        if play.waits_for is not None:
            await play.waits_for.wait()
        return _end(play)

    def _run(self, payload: Any) -> Any:
        play, seen = self._begin(payload)
        if asyncio.iscoroutine(seen):
            self._awaited(seen)
        if play.waits_for is not None:
            self._awaited(play.waits_for.wait())
        return _end(play)

    def _awaited(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(PATIENCE)


def _end(play: Play) -> Any:
    if play.raises is not None:
        raise play.raises
    return object() if isinstance(play, Large) else b"".join(play.chunks).decode()


_SLUGS = (
    (errors.IdempotencyAlreadyInProgressError, "in-progress"),
    (errors.IdempotencyValidationError, "key-reused"),
    (errors.IdempotencyOutcomeUnknownError, "outcome-unknown"),
    (errors.IdempotencyResponseNotKeptError, "response-not-kept"),
    (errors.IdempotencyExecutionFailedError, "execution-failed"),
    (errors.IdempotencyRecordError, "record-unreadable"),
    (errors.IdempotencyPersistenceLayerError, "store-unavailable"),
)


def _slug(error: Exception) -> str:
    return next(slug for kind, slug in _SLUGS if isinstance(error, kind))


_threads = ThreadPoolExecutor(64, thread_name_prefix="caller")


def surface_over(kind: str, layer: Any, play: Any, *, config: IdempotencyConfig, http: Any = None) -> Any:
    """Return a surface of this kind over a layer, which must be blocking or async as the surface needs it."""
    if kind in ("asgi", "wsgi"):
        return HTTPSurface(kind, layer, play, config, http)
    return FunctionSurface(kind, layer, play, config, _threads)
