"""The surface of the scenarios over WSGI: each request runs in a thread, the play is a WSGI app."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from idempotency_mw import IdempotencyConfig
from idempotency_mw.persistence.base import is_async
from idempotency_mw.wsgi import IdempotencyMiddleware
from tests import canaries
from tests.asgi.driver import Answer, Headers, Play, raw
from tests.wsgi import driver

_PLAIN = Play()
_threads = ThreadPoolExecutor(64, thread_name_prefix="scenario")


class WSGISurface:
    """A play behind the middleware; `runs` counts how often the app started."""

    def __init__(
        self,
        store: Any,
        play: Play | Callable[[bytes], Play] = _PLAIN,
        *,
        config: IdempotencyConfig | None = None,
        http: Any = None,
    ) -> None:
        self.play = play
        self.runs = 0
        self.store = store
        self._loop = asyncio.get_running_loop()
        layer = _Blocking(store, self._awaited) if is_async(store) else store
        self.app = IdempotencyMiddleware(self._app, persistence_store=layer, config=config, http=http)

    async def request(self, body: bytes = b"{}", **options: Any) -> Answer:
        return await self.conversation(body, **options).run()

    def conversation(
        self, body: bytes = b"{}", *, key: str | None = canaries.KEY, headers: Headers = (), **options: Any
    ) -> "Conversation":
        keyed = [] if key is None else [("Idempotency-Key", key)]
        return Conversation(self.app, body=body, headers=[*keyed, *headers], **options)

    @staticmethod
    def broken_off_after_one(play: Play) -> tuple[int | None, bytes]:
        """Return the status and body that the client gets if the app fails instead of sending its second chunk.

        Nothing is sent before the first chunk that is not empty, and that one is held unless a length is declared.
        """
        is_out = play.chunks[0] and dict(play.headers).get(b"content-length")
        return (play.status, play.chunks[0]) if is_out else (None, b"")

    def _app(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        self.runs += 1
        body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"] or 0))
        play = self.play(body) if callable(self.play) else self.play
        if play.seen is not None:
            seen = play.seen(body)
            if asyncio.iscoroutine(seen):
                self._awaited(seen)
        if play.waits_for is not None:
            self._awaited(play.waits_for.wait())
        if play.raises is not None and play.raises_after is None:
            raise play.raises
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in play.headers]
        start_response(f"{play.status} Played", headers)
        is_one = len(play.chunks) == 1 and play.raises_after != 0
        return One(play) if is_one else _chunks(play)

    def _awaited(self, what: Any) -> Any:
        async def awaiting() -> Any:
            return await what

        return asyncio.run_coroutine_threadsafe(awaiting(), self._loop).result(10)


class One(list[bytes]):
    """A body of one chunk; a failure after the chunk is raised by `close`."""

    def __init__(self, play: Play) -> None:
        super().__init__(play.chunks)
        self._raises = play.raises

    def close(self) -> None:
        if self._raises is not None:
            raise self._raises


def _chunks(play: Play) -> Iterator[bytes]:
    for number, chunk in enumerate(play.chunks):
        if play.raises is not None and play.raises_after == number:
            raise play.raises
        yield chunk
    if play.raises is not None:
        raise play.raises


class Conversation:
    """One request, with the methods that the scenarios use."""

    def __init__(
        self,
        app: Any,
        *,
        headers: Headers,
        path: str = "/pay",
        query: bytes = b"",
        body: bytes = b"{}",
        **options: Any,
    ) -> None:
        self._app = app
        self._options = {
            "CONTENT_TYPE": "",
            "headers": [(name.decode("latin-1"), value.decode("latin-1")) for name, value in raw(headers)],
            "path": path.encode().decode("latin-1"),
            "query": query.decode("latin-1"),
            "body": body,
            "key": None,
            **options,
        }
        self.answer = Answer()

    def start(self) -> "Conversation":
        self.task = asyncio.get_running_loop().run_in_executor(_threads, self._run)
        return self

    async def run(self) -> Answer:
        return await self.start().end()

    async def end(self) -> Answer:
        return await asyncio.wait_for(self.task, 10)

    def _run(self) -> Answer:
        served = driver.serve(self._app, **self._options)
        answer = self.answer
        answer.status, answer.body, answer.raised = served.status, served.body, served.raised
        answer.headers = raw(served.headers)
        answer.messages = served.events
        answer.ended = served.raised is None or answer.one("content-length") == str(len(answer.body))
        return answer


class _Blocking:
    """Gives blocking code an async layer of the test."""

    def __init__(self, layer: Any, awaited: Callable[[Awaitable[Any]], Any]) -> None:
        self._layer = layer
        self._awaited = awaited

    def acquire(self, claim: Any) -> Any:
        return self._awaited(self._layer.acquire(claim))

    def extend(self, claim: Any) -> Any:
        return self._awaited(self._layer.extend(claim))

    def complete(self, claim: Any, result: Any) -> Any:
        return self._awaited(self._layer.complete(claim, result))

    def release(self, claim: Any) -> Any:
        return self._awaited(self._layer.release(claim))
