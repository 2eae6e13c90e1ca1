"""The parties of a WSGI program: the app with its iterable, and the server."""

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from idempotency_mw import current_execution
from proof.fuzz.programs import (
    BODILESS,
    AppError,
    GoneError,
    ServerError,
    Surprise,
    Watched,
    Whole,
    declared,
)
from proof.fuzz.wsgi_drawn import Headers, Program, Step

__all__ = ["App", "Server"]


class App:
    """The app of a program. It notes what it has given."""

    def __init__(self, program: Program) -> None:
        self.use(program)
        self.runs = 0
        self.closed = 0

    def use(self, program: Program) -> None:
        """Behave as another program from now on."""
        self.program = program
        self.whole = Whole(program.method == "HEAD")
        self._write: Any = None

    def __call__(self, _environ: dict[str, Any], start_response: Any) -> Any:
        """Carry out the steps of the call; return the program's kind of iterable."""
        self.runs += 1
        self._start_response = start_response
        for step in self.program.called:
            if step[0] == "return":
                break
            if step[0] != "chunk":
                self._do(step)
        return self._result()

    def _result(self) -> Any:
        chunks = [step[1] for step in self.program.iterated if step[0] == "chunk"]
        match self.program.returns:
            case "none":
                return None
            case "text":
                return "text"
            case "list" | "tuple":
                return _Noted(self, iter(chunks))
            case "generator":
                return _Noted(self, self._generated())
            case _:
                return _Closing(self, self._generated())

    def _generated(self) -> Iterator[Any]:
        for step in self.program.iterated:
            if step[0] == "return":
                return
            if step[0] == "chunk":
                yield step[1]
            else:
                self._do(step)

    def _do(self, step: Step) -> None:
        try:
            self._one(step)
        except Exception:
            if not self.program.is_tolerant or step[0] == "raise":
                raise

    def _one(self, step: Step) -> None:
        match step:
            case ("start", status, headers, exc_info):
                self._start(status, headers, _exc_info(exc_info))
            case ("write", chunk):
                if self._write is not None:
                    self.note(chunk)
                    self._write(chunk)
            case ("raise", kind):
                raise kind
            case ("discard",):
                execution = current_execution()
                assert execution is not None
                execution.discard()

    def _start(self, status: Any, headers: Any, exc_info: Any) -> None:
        self._write = self._start_response(status, headers, exc_info)
        values = [value.encode("latin-1") for name, value in headers if name.lower() == "content-length"]
        self.whole.start(int(status[:3]), declared(values))

    def note(self, chunk: Any) -> None:
        """Note a chunk before the middleware gets it."""
        if isinstance(chunk, bytes) and self.whole.is_started:
            self.whole.add(chunk)


def _exc_info(kind: str) -> Any:
    if kind == "error":
        try:
            raise AppError  # noqa: TRY301 - sys.exc_info needs an exception that is being handled
        except AppError:
            return sys.exc_info()
    return {"none": None, "empty": (), "hollow": (None, None, None)}[kind]


class _Noted:
    """An iterable without `close`."""

    def __init__(self, app: App, chunks: Iterator[Any]) -> None:
        self._app = app
        self._chunks = chunks

    def __iter__(self) -> Iterator[Any]:
        for chunk in self._chunks:
            self._app.note(chunk)
            yield chunk
        self._app.whole.is_ended = True


class _Closing(_Noted):
    """An iterable with a `close` that may raise."""

    def close(self) -> None:
        """Count the call, and raise what the program says."""
        self._app.closed += 1
        if self._app.program.on_close is not None:
            raise self._app.program.on_close


class Server:
    """The server of one request; strict about PEP 3333."""

    def __init__(self, program: Program, store: Watched) -> None:
        self.program = program
        self.store = store
        self.line: tuple[str, Headers] | None = None
        self.status: int | None = None
        self.headers: Headers = []
        self.body = b""
        self.written = 0
        self.is_ended = False
        self.is_broken = False
        self.is_gone = False

    def run(self, app: Callable[..., Iterable[bytes]], environ: dict[str, Any]) -> None:
        """Make the request as the program says."""
        result = app(environ, self.start_response)
        close: Callable[[], None] = getattr(result, "close", lambda: None)
        how = self.program.server
        try:
            if how != "unread":
                self._iterate(iter(result), self.program.stops_after if how == "stop" else None)
        finally:
            if how != "never":
                close()
            if how == "twice":
                close()
        if how == "again" and next(iter(result), b"") != b"":
            raise Surprise("a chunk came after the end")

    def _iterate(self, chunks: Iterator[bytes], most: int | None) -> None:
        for count, chunk in enumerate(chunks):
            if most is not None and count >= most:
                return
            self.write(chunk)
        if self.line is not None:
            self.write(b"")
            self.is_ended = True
            self.store.check_settled()

    def start_response(self, status: str, headers: Headers, exc_info: Any = None) -> Any:
        """Accept the start of an answer, or raise."""
        if exc_info:
            if self.status is not None:
                raise exc_info[1]
        elif self.line is not None:
            raise ServerError("start_response was called twice")
        if any(set(name + value) & set("\r\n\0") for name, value in headers):
            raise ServerError("no header")
        self.line = status, headers
        return self.write

    def write(self, chunk: bytes) -> None:
        """Accept a chunk, or raise."""
        if self.is_broken or self.line is None or type(chunk) is not bytes:
            raise ServerError("not now")
        if self.program.breaks_after is not None and self.written >= self.program.breaks_after:
            self.is_gone = True
            raise GoneError("the client has gone")
        self.status, self.headers = int(self.line[0][:3]), self.line[1]
        self.written += 1
        is_bodiless = self.program.method == "HEAD" or self.status in BODILESS
        length = declared([value.encode() for name, value in self.headers if name.lower() == "content-length"])
        self.body += b"" if is_bodiless else chunk
        if length is not None and not is_bodiless and len(self.body) > length:
            self.is_broken = True
            raise ServerError("not the declared length")
        if length is not None and not is_bodiless and len(self.body) == length:
            self.store.check_settled()
