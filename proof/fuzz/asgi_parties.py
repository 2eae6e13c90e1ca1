"""The parties of an ASGI program: app, observer of what the app sends, server, and a loop with virtual time."""

import asyncio
import selectors
from contextlib import suppress
from typing import Any

from idempotency_mw import current_execution
from proof.fuzz.asgi_drawn import Message, Program
from proof.fuzz.programs import (
    BODILESS,
    AppError,
    AppStop,
    GoneError,
    ServerError,
    Surprise,
    Watched,
    Whole,
    declared,
)

__all__ = ["App", "LeapingLoop", "Order", "Server"]


class _Leaping(selectors.SelectSelector):
    """A selector that does not wait: a time-out passes at once."""

    now = 1000.0

    def select(self, timeout: float | None = None) -> list[Any]:
        """Move the time forward. Without a timer and without a ready callback the loop would hang for ever."""
        if timeout is None:
            raise Surprise("all tasks wait, and nothing will wake them")
        self.now += max(timeout, 0)
        return []


class LeapingLoop(asyncio.SelectorEventLoop):
    """An event loop with virtual time."""

    def __init__(self) -> None:
        self._leaping = _Leaping()
        super().__init__(self._leaping)

    def time(self) -> float:
        """Return the virtual time in seconds."""
        return self._leaping.now


class _Return(BaseException):
    """Ends the app, as a `return` statement would."""


class App:
    """The app of a program. It notes what it has sent."""

    def __init__(self, program: Program, store: Watched) -> None:
        self.program = program
        self.store = store
        self.whole = Whole(program.method == "HEAD")
        self.runs = 0
        self.tasks: list[asyncio.Task[None]] = []

    async def __call__(self, _scope: Message, receive: Any, send: Any) -> None:
        """Carry out all steps."""
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
                await asyncio.wait(self.tasks, timeout=1.0)  # with a limit: a task may wait for itself
            case ("return",):
                raise _Return

    async def _background(self, steps: list[Any], receive: Any, send: Any) -> None:
        with suppress(_Return, AppError, AppStop, ServerError, RuntimeError):
            await self._do(steps, receive, send)


class Order:
    """Stands between app and middleware, and notes the messages in the order in which they were accepted."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Message, receive: Any, send: Any) -> None:
        """Call the app with a `send` that notes each message."""
        whole = self._app.whole

        async def noting(message: Message) -> None:
            # Noted before it is sent, because the record is settled during `send`.
            _note(whole, message)
            try:
                await send(message)
            except asyncio.CancelledError:
                whole.is_unsure = True  # nobody knows whether it was accepted
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
        return  # a malformed message counts as not sent


class Server:
    """The server of one request, and its client. It raises `ServerError` for every illegal message."""

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
        """The app has sent a message without more_body."""
        self.is_ended = False
        """That message was accepted."""
        self.is_gone = False

    async def receive(self) -> Message:
        """Return the body; after that wait for the end of the answer."""
        if self.incoming:
            return self.incoming.pop()
        await self.over.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Accept one message, or raise."""
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
            self.store.check_settled()
        if is_last:
            self.over.set()
