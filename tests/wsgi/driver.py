"""A server and a client for one request, in this process and strict about PEP 3333.

`serve` makes one request and returns its answer. One list of events records what the server and the app do, in
their order; an app under test adds its own events.
"""

import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from idempotency_mw import current_execution
from idempotency_mw.core.record import Claim, Existing, Operation
from idempotency_mw.wsgi import IdempotencyMiddleware
from tests import canaries
from tests.answers import HTTPAnswer

WSGIApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
Headers = Iterable[tuple[str, str]]
TEXT = ("Content-Type", "text/plain")


class ProtocolError(AssertionError):
    """The app broke PEP 3333; a server raises such an error."""


@dataclass
class Answer(HTTPAnswer):
    """The answer that the client got, and how the app's call ended."""

    status: int | None = None
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""
    events: list[Any] = field(default_factory=list)
    raised: BaseException | None = None

    def all(self, name: str) -> list[str]:
        return [value for each, value in self.headers if each.lower() == name.lower()]

    def ok(self) -> "Answer":
        if self.raised is not None:
            raise AssertionError("the app's call raised") from self.raised
        return self


class OneRead(io.BytesIO):
    """An input that never ends: a read beyond the body would block for ever."""

    def __init__(self, body: bytes) -> None:
        super().__init__(body)
        self._left = len(body)

    def read(self, size: int = -1, /) -> bytes:
        if not 0 <= size <= self._left:
            raise ProtocolError("this read would block")
        self._left -= size
        return super().read(size)


def environ_of(
    *,
    method: str = "POST",
    script: str = "",
    path: str = "/pay",
    query: str = "",
    headers: Headers = (),
    body: bytes = b"{}",
    key: str | None = canaries.KEY,
    **more: Any,
) -> dict[str, Any]:
    """Return a server's environ. Headers of the same name are joined, as PEP 3333 has no other form for them."""
    environ: dict[str, Any] = {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": script,
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "CONTENT_TYPE": more.pop("CONTENT_TYPE", "application/json"),
        "CONTENT_LENGTH": str(len(body)),
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": OneRead(body),
        "wsgi.errors": io.StringIO(),
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
    }
    canaries.secret_body(body)
    lines = [*([] if key is None else [("Idempotency-Key", key)]), *headers]
    canaries.secret_headers(lines)
    _add_headers(environ, lines)
    return environ | more


def _add_headers(environ: dict[str, Any], lines: Headers) -> None:
    for name, value in lines:
        variable = name.upper().replace("-", "_")
        if variable not in ("CONTENT_TYPE", "CONTENT_LENGTH"):
            variable = f"HTTP_{variable}"
            value = f"{environ[variable]},{value}" if variable in environ else value
        environ[variable] = value


class _Server:
    def __init__(self, events: list[Any], stop_after: int | None) -> None:
        self.answer = Answer(events=events)
        self._stop_after = stop_after
        self._line: tuple[str, list[tuple[str, str]]] | None = None
        self._is_sent = False

    def run(self, app: WSGIApp, environ: dict[str, Any]) -> None:
        result = app(environ, self.start_response)
        try:
            for chunk in islice(result, self._stop_after):
                self.write(chunk)
            if self._stop_after is None:
                self.write(b"")
        finally:
            if hasattr(result, "close"):
                result.close()

    def start_response(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        if exc_info and self._is_sent:
            raise exc_info[1].with_traceback(exc_info[2])
        if self._line is not None and not exc_info:
            raise ProtocolError("start_response was called twice")
        assert type(status) is str
        assert type(headers) is list
        assert all(type(text) is str for line in headers for text in line)
        self._line = status, headers
        return self.write

    def write(self, chunk: bytes) -> None:
        assert type(chunk) is bytes
        if self._line is None:
            raise ProtocolError("a chunk before start_response")
        if not self._is_sent:
            self._is_sent = True
            status, self.answer.headers = self._line
            self.answer.status = int(status[:3])
            self.answer.events.append("headers")
        if chunk:
            self.answer.body += chunk
            self.answer.events.append(chunk)


def serve(
    app: WSGIApp, *, events: list[Any] | None = None, stop_after: int | None = None, **options: Any
) -> Answer:
    """Make one request. After `stop_after` chunks the server stops and closes the body."""
    server = _Server([] if events is None else events, stop_after)
    try:
        server.run(app, environ_of(**options))
    except BaseException as error:
        server.answer.raised = error
    return server.answer


class Body:
    """The iterable that an app returns; notes each chunk that the server asks for, and its own `close`."""

    def __init__(self, chunks: Iterable[Any], events: list[Any], *, on_close: BaseException | None = None) -> None:
        self._chunks = iter(chunks)
        self._events = events
        self._on_close = on_close

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        chunk = next(self._chunks)
        self._events.append(f"asked {chunk!r}")
        return chunk

    def close(self) -> None:
        self._events.append("closed")
        if self._on_close is not None:
            raise self._on_close


class NotingLayer:
    """Passes the verbs on to `store` and notes them. `claim` is the first claim."""

    def __init__(self, store: Any) -> None:
        self.store = store
        self.calls: list[str] = []
        self.claim: Any = None

    def acquire(self, claim: Any) -> Any:
        self.claim = self.claim or claim
        return self._call("acquire", claim)

    def extend(self, claim: Any) -> Any:
        return self._call("extend", claim)

    def complete(self, claim: Any, result: Any) -> Any:
        return self._call("complete", claim, result)

    def release(self, claim: Any) -> Any:
        return self._call("release", claim)

    def _call(self, verb: str, *arguments: Any) -> Any:
        self.calls.append(verb)
        return getattr(self.store, verb)(*arguments)

    def record(self) -> Any:
        """Return the record under the first claim's key, or `None` if the key is free. The store is unchanged."""
        probe = Claim(Operation(self.claim.storage_key, "0" * 64), "f" * 32, 1000, 1000, may_take_over=False)
        found = self.store.acquire(probe)
        if isinstance(found, Existing):
            return found.record
        self.store.release(probe)
        return None


class Service:
    """An app behind the middleware; counts its starts and keeps their executions."""

    def __init__(self, app: WSGIApp, store: Any, **options: Any) -> None:
        self.app = app
        self.store = store
        self.runs = 0
        self.executions: list[Any] = []
        self.middleware = IdempotencyMiddleware(self._app, persistence_store=store, **options)

    def _app(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        self.runs += 1
        self.executions.append(current_execution())
        return self.app(environ, start_response)

    def request(self, **options: Any) -> Answer:
        return serve(self.middleware, **options)


def slug_of(answer: Answer) -> str | None:
    return None if answer.ok().status == 200 else answer.slug
