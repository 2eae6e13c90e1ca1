"""Any order of events by an app inside the ASGI middleware: legal and illegal, well formed and not.

A program is drawn from a seed: what the app does, from one task or several, when the client goes, when the task
is cancelled, which verbs of the store fail. It runs on a loop whose time is nobody's: it leaps to the next timer,
and a loop in which nobody will ever wake is found at once.

What must hold: only declared outcomes (see `programs`); only whole answers are stored; nobody sees a whole answer
before its record is settled; no task of ours is left; a duplicate gets the stored bytes; and the key is free, or
answered, one lease after the call is over.
"""

import asyncio
import random
import selectors
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from idempotency_mw import HTTPConfig, IdempotencyConfig, current_execution
from idempotency_mw.asgi import IdempotencyMiddleware
from idempotency_mw.core.record import Status
from idempotency_mw.http.message import Response
from proof.fuzz.programs import (
    BODILESS,
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

__all__ = ["LeapingLoop", "Program", "run_program"]

Message = dict[str, Any]


class _Leaping(selectors.SelectSelector):
    """Waits for nothing: the time to wait for is over at once."""

    now = 1000.0

    def select(self, timeout: float | None = None) -> list[Any]:
        """Let the time pass; without any timer, and nothing ready, nobody will ever wake."""
        if timeout is None:
            raise Surprise("everybody waits, and nobody will ever wake them")
        self.now += max(timeout, 0)
        return []


class LeapingLoop(asyncio.SelectorEventLoop):
    """A loop whose time leaps."""

    def __init__(self) -> None:
        self._leaping = _Leaping()
        super().__init__(self._leaping)

    def time(self) -> float:
        """Return the seconds that have passed."""
        return self._leaping.now


@dataclass
class Program:
    """What happens around one request, drawn from a seed."""

    seed: int
    steps: list[Any] = field(default_factory=list)
    method: str = "POST"
    is_tolerant: bool = False
    """The app catches what `send` raises, and goes on."""
    is_malformed: bool = False
    """Some message lacks something, or holds another type."""
    gone_after: int | None = None
    on_gone: str = "silent"
    cancel_after: float | None = None
    taken_over_at: int | None = None
    """Another owner holds the key from this step on."""
    fails: frozenset[str] = frozenset()
    on_error: str = "release"

    @classmethod
    def drawn(cls, seed: int) -> "Program":
        """Draw a program; the same from the same seed."""
        chance = random.Random(seed)
        self = cls(seed)
        count = chance.randint(0, 7)
        self.steps = _answer(chance) if chance.random() < 0.6 else []
        for _ in range(count):
            self.steps.insert(chance.randint(0, len(self.steps)), _step(chance, self))
        self.method = chance.choice(["POST"] * 5 + ["HEAD"])
        self.is_tolerant = chance.random() < 0.3
        if chance.random() < 0.2:
            self.gone_after = chance.randint(0, 4)
            self.on_gone = chance.choice(["silent", "raise"])
        if chance.random() < 0.15:
            self.cancel_after = chance.choice([0.0, 0.01, 0.04, 0.06, 0.5])
        if chance.random() < 0.1:
            self.taken_over_at = chance.randint(0, len(self.steps))
        if chance.random() < 0.2:
            self.fails = frozenset(chance.sample(["complete", "release", "extend"], chance.randint(1, 2)))
        self.on_error = chance.choice(["release", "store"])
        return self


def _start(chance: random.Random, body: int = 4) -> Message:
    headers = [(b"content-length", value) for value in lengths(chance, body)]
    if chance.random() < 0.3:
        headers.append(chance.choice([(b"X-A", b"\xe9"), (b"set-cookie", b"a=b"), (b"idempotent-replayed", b"t")]))
    if chance.random() < 0.05:
        headers.append((b"bad\r\n", b"x"))
    status = chance.choice([200, 200, 200, 201, 204, 304, 404, 500, 302])
    message: Message = {"type": "http.response.start", "status": status, "headers": headers}
    if chance.random() < 0.1:
        del message["headers"]
    if chance.random() < 0.1:
        message["trailers"] = True
    return message


def _body(chance: random.Random, *, more: bool) -> Message:
    chunk = chance.choice([b"", b"ab", b"abcd", b"x" * 15, bytearray(b"ab"), memoryview(b"cd")])
    message: Message = {"type": "http.response.body", "body": chunk, "more_body": more}
    if not chunk and chance.random() < 0.5:
        del message["body"]
    if not more and chance.random() < 0.5:
        del message["more_body"]
    return message


def _answer(chance: random.Random) -> list[Any]:
    """Return a legal answer, with a length that is right, wrong or not there."""
    bodies = [_body(chance, more=True) for _ in range(chance.randint(0, 3))]
    bodies.append(_body(chance, more=False))
    size = sum(len(message.get("body", b"")) for message in bodies)
    return [("send", message) for message in (_start(chance, size), *bodies)]


_OTHER = (
    {"type": "http.response.trailers", "headers": [], "more_trailers": False},
    {"type": "http.response.push", "path": "/", "headers": []},
    {"type": "http.response.early_hint", "links": []},
    {"type": "http.response.pathsend", "path": "/etc/hostname"},
    {"type": "http.response.debug", "info": {}},
    {"type": "websocket.send", "bytes": b"x"},
    {"type": ""},
)
_MALFORMED: tuple[Any, ...] = (
    {},
    {"type": None},
    {"type": "http.response.start"},
    {"type": "http.response.start", "status": "200", "headers": []},
    {"type": "http.response.start", "status": None, "headers": []},
    {"type": "http.response.start", "status": 200, "headers": [("a", "b")]},
    {"type": "http.response.start", "status": 200, "headers": [(b"a",)]},
    {"type": "http.response.start", "status": 200, "headers": None},
    {"type": "http.response.start", "status": 0, "headers": []},
    {"type": "http.response.start", "status": 10**6, "headers": []},
    {"type": "http.response.body", "body": 5},
    {"type": "http.response.body", "body": None},
    {"type": "http.response.body", "body": "text"},
    {"type": "http.response.body", "body": [1, 2]},
)


def _step(chance: random.Random, program: Program) -> Any:
    steps: list[Callable[[], Any]] = [
        lambda: ("send", _start(chance)),
        lambda: ("send", _body(chance, more=chance.random() < 0.6)),
        lambda: ("send", _body(chance, more=chance.random() < 0.6)),
        lambda: ("send", chance.choice(_OTHER)),
        lambda: ("send", _malformed(chance, program)),
        lambda: ("sleep", chance.choice([0, 0, 0.01, 0.04, 0.06, 1.0, LEASE_SECONDS + 1])),
        lambda: ("receive",),
        lambda: ("raise", chance.choice([AppError, AppError, AppStop, asyncio.CancelledError])),
        lambda: ("discard",),
        lambda: ("task", [_step(chance, program) for _ in range(chance.randint(1, 3))]),
        lambda: ("join",),
        lambda: ("return",),
    ]
    return chance.choice(steps)()


def _malformed(chance: random.Random, program: Program) -> Any:
    program.is_malformed = True
    return chance.choice(_MALFORMED)


class _Return(BaseException):
    """Ends the app."""


class _App:
    """Does what a program says, and notes what it has sent."""

    def __init__(self, program: Program, store: Watched) -> None:
        self.program = program
        self.store = store
        self.whole = Whole(program.method == "HEAD")
        self.runs = 0
        self.tasks: list[asyncio.Task[None]] = []

    async def __call__(self, _scope: Message, receive: Any, send: Any) -> None:
        self.runs += 1
        with suppress(_Return):
            await self._do(self.program.steps, receive, send, is_main=True)

    async def _do(self, steps: list[Any], receive: Any, send: Any, *, is_main: bool = False) -> None:
        for number, step in enumerate(steps):
            if is_main and number == self.program.taken_over_at:
                self.store.lapse()
            try:
                await self._one(step, receive, send)
            except (AppError, TimeoutError):
                raise
            except Exception as error:
                if not self.program.is_tolerant or isinstance(error, Surprise):
                    raise

    async def _one(self, step: Any, receive: Any, send: Any) -> None:  # noqa: C901 - one case a step
        match step:
            case ("send", message):
                await send(dict(message))
            case ("sleep", seconds):
                await asyncio.sleep(seconds)
            case ("receive",):
                with suppress(TimeoutError):
                    async with asyncio.timeout(0.5):
                        await receive()
            case ("raise", kind):
                raise kind
            case ("discard",):
                execution = current_execution()
                assert execution is not None
                execution.discard()
            case ("task", steps):
                self.tasks.append(asyncio.get_running_loop().create_task(self._background(steps, receive, send)))
            case ("join",) if self.tasks:
                await asyncio.wait(self.tasks, timeout=1.0)  # a task may be waiting for itself
            case ("return",):
                raise _Return

    async def _background(self, steps: list[Any], receive: Any, send: Any) -> None:
        with suppress(_Return, AppError, AppStop, ServerError, RuntimeError):
            await self._do(steps, receive, send)


class _Order:
    """Between the app and the middleware: takes down, in their order, the messages that were taken."""

    def __init__(self, app: _App) -> None:
        self._app = app

    async def __call__(self, scope: Message, receive: Any, send: Any) -> None:
        whole = self._app.whole

        async def noting(message: Message) -> None:
            # Before it is sent, because it is settled while it is sent.
            _note(whole, message)
            try:
                await send(message)
            except asyncio.CancelledError:
                whole.is_unsure = True  # whether it was taken
                raise

        await self._app(scope, receive, noting)


def _note(whole: Whole, message: Message) -> None:
    try:
        if message["type"] == "http.response.start" and not whole.is_started:
            lines = [(bytes(name), bytes(value)) for name, value in message.get("headers", ())]
            values = [value for name, value in lines if name.lower() == b"content-length"]
            whole.start(message["status"], declared(values))
        elif message["type"] == "http.response.body" and whole.is_started and not whole.is_ended:
            whole.add(memoryview(message.get("body", b"")).tobytes())
            whole.is_ended = not message.get("more_body", False)
    except (TypeError, KeyError, ValueError, AttributeError):
        return  # malformed: nothing of it is taken


class _Server:
    """One request's server, and its client: takes what is legal, and raises `ServerError` at all else."""

    def __init__(self, program: Program, store: Watched, body: bytes = b"{}") -> None:
        self.program = program
        self.store = store
        self.incoming = [{"type": "http.request", "body": body, "more_body": False}]
        self.over = asyncio.Event()
        self.messages = 0
        self.status: int | None = None
        self.headers: list[tuple[bytes, bytes]] = []
        self.body = b""
        self.is_broken = False
        self.is_over = False
        """The app has sent what it calls its last message."""
        self.is_ended = False
        """And that was legal."""
        self.is_gone = False

    async def receive(self) -> Message:
        """Give the body, then wait for the end."""
        if self.incoming:
            return self.incoming.pop()
        await self.over.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Take one message."""
        await asyncio.sleep(0)
        if self.program.gone_after is not None and self.messages >= self.program.gone_after:
            self.is_gone = True
            self.over.set()
        if self.is_gone:
            if self.program.on_gone == "raise":
                raise GoneError("the client has gone")
            return
        if self.is_broken:
            raise ServerError("the app broke the protocol before")
        try:
            self._take(message)
        except ServerError:
            self.is_broken = True
            raise
        self.messages += 1

    def _take(self, message: Message) -> None:
        match message.get("type"):
            case "http.response.start" if self.status is None:
                if not isinstance(message["status"], int) or not 100 <= message["status"] <= 999:
                    raise ServerError("no status")
                for name, value in message["headers"]:
                    if type(name) is not bytes or type(value) is not bytes or set(name + value) & set(b"\r\n\0"):
                        raise ServerError("no header")
                self.status, self.headers = message["status"], message["headers"]
            case "http.response.body" if self.status is not None and not self.is_over:
                self._take_body(message)
            case (
                "http.response.trailers"
                | "http.response.push"
                | "http.response.early_hint"
                | "http.response.debug"
            ):
                return
            case _:
                raise ServerError(f"not now: {message.get('type')}")

    def _take_body(self, message: Message) -> None:
        chunk = message.get("body", b"")
        if not isinstance(chunk, bytes | bytearray | memoryview):
            raise ServerError("no bytes")
        length = declared([value for name, value in self.headers if name.lower() == b"content-length"])
        is_bodiless = self.program.method == "HEAD" or self.status in BODILESS
        body = self.body + (b"" if is_bodiless else bytes(chunk))
        is_last = self.is_over = not message.get("more_body", False)
        if length is not None and not is_bodiless and (len(body) > length or (is_last and len(body) < length)):
            raise ServerError("not the declared length")
        self.body, self.is_ended = body, is_last
        if is_last or (length is not None and not is_bodiless and len(body) == length):
            self._check_settled()
        if is_last:
            self.over.set()

    def _check_settled(self) -> None:
        """The client sees a whole answer now: its record is settled, or the store refused to."""
        frame = self.store.frame()
        if frame is None or frame.status is not Status.IN_PROGRESS or self.store.fails:
            return
        if frame.token in {claim.token for claim in self.store.claims}:
            raise Surprise("a whole answer is out, and its record is not settled")


def run_program(loop: LeapingLoop, program: Program) -> None:
    """Run one program; raises `Surprise`, or whatever was not declared."""
    loop.run_until_complete(_run(loop, program))


async def _run(loop: LeapingLoop, program: Program) -> None:
    store = Watched(loop.time, program.fails)
    app = _App(program, store)
    server = _Server(program, store)
    config = IdempotencyConfig(lease_seconds=LEASE_SECONDS, on_error=program.on_error)  # type: ignore[arg-type]
    http = HTTPConfig(methods=("POST", "HEAD"), max_response_body=MAX_BODY)
    middleware = IdempotencyMiddleware(_Order(app), persistence_store=store, config=config, http=http)
    call = loop.create_task(middleware(_scope(program), server.receive, server.send))
    if program.cancel_after is not None:
        loop.call_later(program.cancel_after, call.cancel)
    others = asyncio.all_tasks()
    await asyncio.wait([call])
    async with _ended(app.tasks):
        _check_outcome(program, call)
        left = asyncio.all_tasks() - others - set(app.tasks)
        if left:
            raise Surprise(f"left behind: {left}")
    # A task that the app left behind may end the answer after the call: it is looked at one lease later.
    await asyncio.sleep(LEASE_SECONDS + SLACK_SECONDS)
    stored = check_record(store, app.whole, stores_errors=program.on_error == "store")
    await _check_duplicate(loop, program, store, app, middleware, stored, server)


def _scope(program: Program) -> Message:
    headers = [(b"idempotency-key", b"k"), (b"content-type", b"application/json"), (b"content-length", b"2")]
    return {
        "type": "http",
        "method": program.method,
        "path": "/pay",
        "query_string": b"",
        "headers": headers,
        "extensions": {"http.response.pathsend": {}, "http.response.trailers": {}},
    }


@asynccontextmanager
async def _ended(tasks: list[asyncio.Task[None]]) -> AsyncIterator[None]:
    """Stop the app's own tasks at the end; what they raised must be declared too."""
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled() and task.exception() is not None:
            _check_error(task.exception(), is_malformed=True)


def _check_outcome(program: Program, call: "asyncio.Task[None]") -> None:
    if not call.cancelled():
        error = call.exception()
        if error is not None:
            _check_error(error, is_malformed=program.is_malformed)


def _check_error(error: BaseException | None, *, is_malformed: bool) -> None:
    if isinstance(error, AppError | AppStop | ServerError | GoneError):
        return
    if type(error) is RuntimeError and str(error).startswith("the app has sent http.response."):
        return
    if is_malformed and type(error) in (TypeError, KeyError, ValueError):
        return
    raise Surprise(f"{type(error).__name__}: {error}") from error


async def _check_duplicate(  # noqa: PLR0917
    loop: LeapingLoop,
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
    if frame is not None and frame.status is Status.IN_PROGRESS and frame.until_ms > loop.time() * 1000:
        raise Surprise("the key is stuck beyond its lease")
    quiet = Program(-1, steps=[("send", message) for message in _PLAIN], method=program.method)
    runs, app.program, app.whole = app.runs, quiet, Whole(is_head=program.method == "HEAD")
    second = _Server(quiet, store)
    await middleware(_scope(program), second.receive, second.send)
    if not second.is_ended:
        raise Surprise("the duplicate got no answer")
    if stored is not None:
        _check_replay(app.runs - runs, second, stored, first, is_own=not was_taken_over)
    elif frame is not None and frame.status is Status.NOT_KEPT:
        if second.status != 409 or app.runs != runs:
            raise Surprise("a tombstone was no tombstone")
    elif app.runs != runs + 1:
        raise Surprise("the free key did not run")


def _check_replay(runs: int, second: _Server, stored: Response, first: _Server, *, is_own: bool) -> None:
    is_bodiless = second.program.method == "HEAD" or stored.status in BODILESS
    if runs or second.status != stored.status or second.body != (b"" if is_bodiless else stored.body):
        raise Surprise("the duplicate did not get what is stored")
    is_whole = first.is_ended and not first.is_gone and is_own
    if is_whole and first.status == stored.status and first.body != second.body:
        raise Surprise(f"the first client got {first.body!r}, the second {second.body!r}")


_PLAIN: tuple[Message, ...] = (
    {"type": "http.response.start", "status": 200, "headers": []},
    {"type": "http.response.body", "body": b"again"},
)
