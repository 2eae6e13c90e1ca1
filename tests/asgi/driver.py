"""A client and a server for one request, in this process and strict about ASGI.

`Conversation` is the server's side: it gives the app its messages and records the messages that the app sends,
with their times. It refuses what a real server refuses. The test chooses when the client disconnects and when the
task is cancelled.

`ASGISurface` runs a `Play` behind the middleware; the scenarios use it. A scenario that uses only `request` and
`runs` of a surface is not about ASGI and runs over WSGI too.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from idempotency_mw import IdempotencyConfig
from idempotency_mw.asgi import IdempotencyMiddleware
from tests import canaries
from tests.answers import HTTPAnswer

Headers = Iterable[tuple[str | bytes, str | bytes]]
Body = bytes | list[dict[str, Any]]
JSON = ("content-type", "application/json")


class ProtocolError(RuntimeError):
    """The app broke ASGI; a server raises such an error."""


@dataclass
class Answer(HTTPAnswer):
    """The answer that the client got, and how the app's call ended."""

    status: int | None = None
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""
    ended: bool = False
    """Whether the last message of the body came."""
    messages: list[dict[str, Any]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    raised: BaseException | None = None

    def all(self, name: str) -> list[str]:
        wanted = name.encode()
        return [value.decode("latin-1") for each, value in self.headers if each.lower() == wanted]

    @property
    def types(self) -> list[str]:
        return [message["type"] for message in self.messages]

    def ok(self) -> "Answer":
        """Return this answer; fail if the app's call raised or the body has no end."""
        if self.raised is not None:
            raise AssertionError("the app's call raised") from self.raised
        assert self.ended, self.messages
        return self


def raw(headers: Headers) -> list[tuple[bytes, bytes]]:
    return [(_bytes(name).lower(), _bytes(value)) for name, value in headers]


def _secret(headers: Headers, body: Body) -> list[tuple[bytes, bytes]]:
    lines = raw(headers)
    canaries.secret_headers(lines)
    canaries.secret_body(body)
    return lines


def _bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("latin-1")


class Conversation:
    """One request. `body` is bytes, or the list of `http.request` messages that the server gives.

    `gone_after`: the client disconnects after this many messages of the answer. `on_gone`: whether `send` then
    ignores messages (`"silent"`) or raises `OSError` (`"raise"`). `before_send` is awaited with each message
    before it is sent.
    """

    def __init__(
        self,
        app: Callable[..., Awaitable[None]],
        *,
        method: str = "POST",
        path: str = "/pay",
        root_path: str = "",
        query: bytes = b"",
        headers: Headers = (),
        body: Body = b"{}",
        spec_version: str = "2.4",
        extensions: dict[str, Any] | None = None,
        gone_after: int | None = None,
        on_gone: str = "silent",
        before_send: Callable[[dict[str, Any]], Awaitable[object]] | None = None,
        **scope: Any,
    ) -> None:
        self.app = app
        self.scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": spec_version},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "root_path": root_path,
            "query_string": query,
            "headers": _secret(headers, body),
            "client": ("127.0.0.1", 50000),
            "server": ("127.0.0.1", 80),
            **scope,
        }
        if extensions is not None:
            self.scope["extensions"] = extensions
        self._incoming = [{"type": "http.request", "body": body}] if isinstance(body, bytes) else list(body)
        self._is_gone = False
        self._over = asyncio.Event()  # set when the client is gone or has its answer
        self._gone_after = gone_after
        self._on_gone = on_gone
        self._before_send = before_send
        self.answer = Answer()
        self.received = 0
        self.task: asyncio.Task[Answer] | None = None

    # For the test.

    def start(self) -> "Conversation":
        self.task = asyncio.ensure_future(self.run())
        return self

    def disconnect(self) -> None:
        self._is_gone = True
        self._over.set()

    async def run(self) -> Answer:
        """Run the app's call to its end. An exception goes into the answer; a cancellation is raised."""
        try:
            await self.app(self.scope, self.receive, self.send)
        except asyncio.CancelledError as error:
            self.answer.raised = error
            raise
        except Exception as error:
            self.answer.raised = error
        return self.answer

    async def end(self) -> Answer:
        assert self.task is not None
        return await asyncio.wait_for(self.task, 10)

    # For the app: the server's callables.

    async def receive(self) -> dict[str, Any]:
        self.received += 1
        if self._incoming:
            return self._incoming.pop(0)
        await self._over.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        if self._before_send is not None:
            await self._before_send(message)
        if self._is_gone:
            if self._on_gone == "raise":
                raise OSError("the client has gone")
            return
        self._take(dict(message))
        self.answer.messages.append(dict(message))
        self.answer.times.append(asyncio.get_running_loop().time())
        if self._gone_after is not None and len(self.answer.messages) >= self._gone_after:
            self.disconnect()
        if self.answer.ended:
            self._over.set()

    def _take(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            if self.answer.status is not None:
                raise ProtocolError("a second start")
            self._check_start(message)
            self.answer.status = message["status"]
            self.answer.headers = [(bytes(name), bytes(value)) for name, value in message["headers"]]
        elif message["type"] == "http.response.body":
            if self.answer.status is None or self.answer.ended:
                raise ProtocolError("a body before the start, or after the end")
            self.answer.body += message.get("body", b"")
            self.answer.ended = not message.get("more_body", False)
            self._check_length()

    def _check_start(self, message: dict[str, Any]) -> None:
        assert isinstance(message["status"], int)
        for name, value in message["headers"]:
            assert isinstance(name, bytes)
            assert isinstance(value, bytes)
            assert not set(b"\r\n\x00") & set(name + value)

    def _check_length(self) -> None:
        declared = self.answer.one("content-length")
        is_bodiless = self.scope["method"] == "HEAD" or self.answer.status in (204, 205, 304)
        if is_bodiless or declared is None:
            assert not (is_bodiless and self.answer.body)
            return
        if len(self.answer.body) > int(declared):
            raise ProtocolError("more body than declared")
        if self.answer.ended and len(self.answer.body) < int(declared):
            raise ProtocolError("less body than declared")


async def ask(app: Callable[..., Awaitable[None]], **options: Any) -> Answer:
    """Make one request and return its answer."""
    return await asyncio.wait_for(Conversation(app, **options).run(), 10)


@dataclass(frozen=True)
class Play:
    """What the app does with one request."""

    status: int = 200
    headers: tuple[tuple[bytes, bytes], ...] = ((b"content-type", b"text/plain"),)
    chunks: tuple[bytes, ...] = (b"done",)
    """Each is one message of the body; the last one ends the body."""
    raises: BaseException | None = None
    raises_after: int | None = None
    """`raises` is raised after this many chunks; with `None`, before the start of the response."""
    waits_for: asyncio.Event | None = None
    """An event to wait for before the response starts."""
    seen: Callable[[bytes], object] | None = None
    """Called with the request's body first of all; may be a coroutine function."""


class ASGISurface:
    """A play behind the middleware; `runs` counts how often the app started."""

    def __init__(
        self,
        store: Any,
        play: "Play | Callable[[bytes], Play]" = Play(),
        *,
        config: IdempotencyConfig | None = None,
        http: Any = None,
    ) -> None:
        self.play = play
        self.runs = 0
        self.store = store
        self.app = IdempotencyMiddleware(self._app, persistence_store=store, config=config, http=http)

    async def request(
        self,
        body: Body = b"{}",
        *,
        key: str | None = canaries.KEY,
        headers: Headers = (),
        **options: Any,
    ) -> Answer:
        return await asyncio.wait_for(self.conversation(body, key=key, headers=headers, **options).run(), 10)

    def conversation(
        self,
        body: Body = b"{}",
        *,
        key: str | None = canaries.KEY,
        headers: Headers = (),
        **options: Any,
    ) -> Conversation:
        keyed = [] if key is None else [("Idempotency-Key", key)]
        return Conversation(self.app, body=body, headers=[*keyed, *headers], **options)

    @staticmethod
    def broken_off_after_one(play: Play) -> tuple[int | None, bytes]:
        """Return the status and body that the client gets if the app fails instead of sending its second chunk."""
        return play.status, play.chunks[0]

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        self.runs += 1
        body = await whole_body(receive)
        play = self.play(body) if callable(self.play) else self.play
        if play.seen is not None:
            seen = play.seen(body)
            if asyncio.iscoroutine(seen):
                await seen
        if play.waits_for is not None:
            await play.waits_for.wait()
        if play.raises is not None and play.raises_after is None:
            raise play.raises
        await perform(send, play)


async def perform(send: Any, play: Play) -> None:
    """Send the play's response."""
    await send({"type": "http.response.start", "status": play.status, "headers": list(play.headers)})
    for number, chunk in enumerate(play.chunks):
        if play.raises is not None and play.raises_after == number:
            raise play.raises
        await send({"type": "http.response.body", "body": chunk, "more_body": number + 1 < len(play.chunks)})
    if play.raises is not None:
        raise play.raises


async def whole_body(receive: Any) -> bytes:
    body = b""
    while True:
        message = await receive()
        assert message["type"] == "http.request", message
        body += message.get("body", b"")
        if not message.get("more_body", False):
            return body


async def turns(count: int) -> None:
    """Let the event loop run this many iterations."""
    for _ in range(count):
        await asyncio.sleep(0)


async def until(condition: Callable[[], object], within: float = 5.0) -> None:
    """Wait until the condition holds: checked in each of 100 loop iterations, then once a millisecond."""
    for _ in range(100):
        if condition():
            return
        await asyncio.sleep(0)
    async with asyncio.timeout(within):
        while not condition():
            await asyncio.sleep(0.001)
