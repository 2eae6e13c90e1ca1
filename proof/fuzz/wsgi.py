"""Any order of calls by an app inside the WSGI middleware, and by the server around it: legal and illegal.

A program is drawn from a seed: what the app does while it is called, what its iterable does at each step, how the
server iterates and closes, which verbs of the store fail. What must hold is what holds for ASGI.
"""

import io
import random
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from idempotency_mw import HTTPConfig, IdempotencyConfig, current_execution
from idempotency_mw.core.record import Status
from idempotency_mw.http.message import Response
from idempotency_mw.testing import ManualClock
from idempotency_mw.wsgi import IdempotencyMiddleware
from proof.fuzz.programs import (
    BODILESS,
    FAILED,
    LEASE_SECONDS,
    MAX_BODY,
    SLACK_SECONDS,
    AppError,
    AppStop,
    GoneError,
    ServerError,
    Surprise,
    Watched,
    Whole,
    check_record,
    declared,
    lengths,
)

__all__ = ["Program", "run_program"]

Headers = list[tuple[str, str]]
Step = tuple[Any, ...]

ENDS = ("list", "tuple", "generator", "generator", "generator", "iterator", "iterator", "none", "text")
SERVERS = ("plain", "plain", "plain", "stop", "stop", "unread", "twice", "never", "again")


@dataclass
class Program:
    """What happens around one request, drawn from a seed."""

    seed: int
    called: list[Step] = field(default_factory=list)
    """What the app does before it returns."""
    iterated: list[Step] = field(default_factory=list)
    """What its iterable does. A list has the chunks only."""
    returns: str = "list"
    on_close: type[BaseException] | None = None
    is_tolerant: bool = False
    """The app catches what `start_response` and `write` raise, and goes on."""
    is_malformed: bool = False
    server: str = "plain"
    stops_after: int = 0
    breaks_after: int | None = None
    """The client is gone once so many chunks were written."""
    method: str = "POST"
    fails: frozenset[str] = frozenset()
    is_taken_over: bool = False
    on_error: str = "release"

    @classmethod
    def drawn(cls, seed: int) -> "Program":
        """Draw a program; the same from the same seed."""
        chance = random.Random(seed)
        self = cls(seed)
        chunks = [chance.choice(_CHUNKS) for _ in range(chance.randint(0, 4))]
        if chance.random() < 0.9:
            self.called.append(_start(chance, sum(map(len, chunks))))
        self.iterated = [("chunk", chunk) for chunk in chunks]
        for steps in (self.called, self.iterated):
            for _ in range(chance.choice([0, 0, 1, 2])):
                steps.insert(chance.randint(0, len(steps)), _step(chance, self))
        self.returns = chance.choice(ENDS)
        self.is_malformed |= self.returns in ("none", "text")
        self.on_close = chance.choice([None, None, None, AppError, AppStop])
        self.is_tolerant = chance.random() < 0.3
        self.server = chance.choice(SERVERS)
        self.stops_after = chance.randint(0, 3)
        self.breaks_after = chance.choice([None, None, None, 0, 1, 2])
        self.method = chance.choice(["POST"] * 5 + ["HEAD"])
        if chance.random() < 0.2:
            self.fails = frozenset(chance.sample(["complete", "release"], chance.randint(1, 2)))
        self.is_taken_over = chance.random() < 0.1
        self.on_error = chance.choice(["release", "store"])
        return self


_CHUNKS = (b"", b"ab", b"abcd", b"x" * 15)
_EXC_INFO = ("none", "none", "none", "error", "error", "empty", "hollow")
_MALFORMED: tuple[Step, ...] = (
    ("start", "abc", [], "none"),
    ("start", "", [], "none"),
    ("start", None, [], "none"),
    ("start", "200 OK", None, "none"),
    ("start", "200 OK", [("x", 5)], "none"),
    ("start", "200 OK", [("x", "\u20ac")], "none"),
    ("start", "200 OK", [("x",)], "none"),
    ("chunk", "text"),
    ("chunk", None),
    ("chunk", 5),
    ("write", "text"),
    ("raise", StopIteration),
)


def _start(chance: random.Random, size: int) -> Step:
    headers = [("Content-Length", value.decode()) for value in lengths(chance, size)]
    if chance.random() < 0.3:
        headers.append(chance.choice([("X-A", "\xe9"), ("Set-Cookie", "a=b"), ("Idempotent-Replayed", "t")]))
    if chance.random() < 0.05:
        headers.append(("Bad\r\n", "x"))
    status = chance.choice(
        ["200 OK", "200 OK", "201 Created", "204 No Content", "404 Not Found", "500 Oh", "302 X"]
    )
    return "start", status, headers, chance.choice(_EXC_INFO)


def _step(chance: random.Random, program: Program) -> Step:
    steps: list[Callable[[], Step]] = [
        lambda: _start(chance, 4),
        lambda: ("write", chance.choice(_CHUNKS)),
        lambda: ("write", chance.choice(_CHUNKS)),
        lambda: ("chunk", chance.choice(_CHUNKS)),
        lambda: ("raise", chance.choice([AppError, AppError, AppStop, GeneratorExit])),
        lambda: ("discard",),
        lambda: ("return",),
        lambda: _malformed(chance, program),
    ]
    return chance.choice(steps)()


def _malformed(chance: random.Random, program: Program) -> Step:
    program.is_malformed = True
    return chance.choice(_MALFORMED)


class _App:
    """Does what a program says, and notes what it has given."""

    def __init__(self, program: Program) -> None:
        self.use(program)
        self.runs = 0
        self.closed = 0

    def use(self, program: Program) -> None:
        """Be another app from here on."""
        self.program = program
        self.whole = Whole(program.method == "HEAD")
        self._write: Any = None

    def __call__(self, _environ: dict[str, Any], start_response: Any) -> Any:
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
        """Note a chunk, before the middleware has it."""
        if isinstance(chunk, bytes) and self.whole.is_started:
            self.whole.add(chunk)


def _exc_info(kind: str) -> Any:
    if kind == "error":
        try:
            raise AppError  # noqa: TRY301 - there has to be one that is being handled
        except AppError:
            return sys.exc_info()
    return {"none": None, "empty": (), "hollow": (None, None, None)}[kind]


class _Noted:
    """An iterable without `close`."""

    def __init__(self, app: _App, chunks: Iterator[Any]) -> None:
        self._app = app
        self._chunks = chunks

    def __iter__(self) -> Iterator[Any]:
        for chunk in self._chunks:
            self._app.note(chunk)
            yield chunk
        self._app.whole.is_ended = True


class _Closing(_Noted):
    """An iterable with `close`, which may raise."""

    def close(self) -> None:
        """Count, and raise what the program says."""
        self._app.closed += 1
        if self._app.program.on_close is not None:
            raise self._app.program.on_close


class _Server:
    """One request's server, strict about PEP 3333."""

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

    def run(self, app: Callable[..., Iterable[bytes]], environ: dict[str, Any]) -> None:
        """Make the request, as the program says."""
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
            self._check_settled()

    def start_response(self, status: str, headers: Headers, exc_info: Any = None) -> Any:
        """Take the start."""
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
        """Take some of the body."""
        if self.is_broken or self.line is None or type(chunk) is not bytes:
            raise ServerError("not now")
        if self.program.breaks_after is not None and self.written >= self.program.breaks_after:
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
            self._check_settled()

    def _check_settled(self) -> None:
        frame = self.store.frame()
        if frame is None or frame.status is not Status.IN_PROGRESS or self.store.fails:
            return
        if frame.token in {claim.token for claim in self.store.claims}:
            raise Surprise("a whole answer is out, and its record is not settled")


def run_program(program: Program) -> None:
    """Run one program; raises `Surprise`, or whatever was not declared."""
    clock = ManualClock()
    store = Watched(clock, program.fails)
    app = _App(program)
    server = _Server(program, store)
    middleware = IdempotencyMiddleware(
        _Taken(app, store),
        persistence_store=store,
        # Without heartbeat: its thread has a time of its own.
        config=IdempotencyConfig(lease_seconds=LEASE_SECONDS, on_error=program.on_error, heartbeat=False),  # type: ignore[arg-type]
        http=HTTPConfig(methods=("POST", "HEAD"), max_response_body=MAX_BODY),
    )
    _check_outcome(program, lambda: server.run(middleware, _environ(program)))
    if app.closed > 1:
        raise Surprise("the app's iterable was closed twice")
    stored = check_record(store, app.whole, stores_errors=program.on_error == "store")
    clock.advance(LEASE_SECONDS + SLACK_SECONDS)
    _check_duplicate(program, store, app, middleware, stored, server)


class _Taken:
    """Lets another owner take the key over, while the app is called."""

    def __init__(self, app: _App, store: Watched) -> None:
        self._app = app
        self._store = store

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        if self._app.program.is_taken_over:
            self._store.lapse()
        return self._app(environ, start_response)


def _environ(program: Program) -> dict[str, Any]:
    return {
        "REQUEST_METHOD": program.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": "/pay",
        "QUERY_STRING": "",
        "CONTENT_TYPE": "application/json",
        "CONTENT_LENGTH": "2",
        "HTTP_IDEMPOTENCY_KEY": "k",
        "wsgi.input": io.BytesIO(b"{}"),
    }


_OURS = ("start_response was called again without exc_info", "a chunk came before start_response was called")


def _check_outcome(program: Program, call: Callable[[], None]) -> None:
    try:
        call()
    except (AppError, AppStop, ServerError, GoneError, GeneratorExit):
        return
    except AssertionError as error:
        if str(error) not in _OURS:
            raise Surprise(f"AssertionError: {error}") from error
    except (TypeError, ValueError, RuntimeError) as error:
        if not program.is_malformed:
            raise Surprise(f"{type(error).__name__}: {error}") from error


def _check_duplicate(  # noqa: PLR0917
    program: Program,
    store: Watched,
    app: _App,
    middleware: IdempotencyMiddleware,
    stored: Response | None,
    first: _Server,
) -> None:
    """Ask again after one lease: the stored bytes, or a second run; never word that somebody still runs."""
    store.fails = frozenset()
    frame = store.frame()
    was_taken_over = frame is not None and frame.token == "f" * 32
    runs = app.runs
    quiet = Program(-1, called=[("start", "200 OK", [], "none")], iterated=[("chunk", b"again")])
    quiet.method = program.method
    app.use(quiet)
    second = _Server(quiet, store)
    second.run(middleware, _environ(quiet))
    if not second.is_ended:
        raise Surprise("the duplicate got no answer")
    if stored is not None:
        is_bodiless = program.method == "HEAD" or stored.status in BODILESS
        expected = b"" if is_bodiless else stored.body
        if app.runs != runs or (second.status, second.body) != (stored.status, expected):
            raise Surprise("the duplicate did not get what is stored")
        is_own = FAILED not in stored.body
        if (
            is_own
            and first.is_ended
            and not was_taken_over
            and first.status == stored.status
            and first.body != expected
        ):
            raise Surprise(f"the first client got {first.body!r}, the second {second.body!r}")
    elif frame is not None and frame.status is Status.NOT_KEPT:
        if second.status != 409 or app.runs != runs:
            raise Surprise("a tombstone was no tombstone")
    elif app.runs != runs + 1:
        raise Surprise("the free key did not run")
