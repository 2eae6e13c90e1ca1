"""One request and its answer: over HTTP on a new connection, or by a direct call of an ASGI app."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

__all__ = ["Answer", "Ask", "NoAnswerError", "asking", "asking_over_http"]

TARGET = "/orders"
HOST = "stage.test"
_CHANGING = (b"date", b"server", b"connection", b"idempotent-replayed")


class NoAnswerError(Exception):
    """The connection failed or timed out, so the client can't know whether the request was carried out."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a client got.

    `digest` covers status, headers and body, without the headers in `_CHANGING`: those differ between a first
    answer and its replay.
    """

    status: int
    digest: str
    body: bytes
    is_replay: bool
    problem: str | None
    sent: float
    received: float

    @property
    def execution(self) -> str:
        """The name of the execution that gave this answer."""
        return str(json.loads(self.body)["execution"])


Ask = Callable[[str, bytes, float], Awaitable[Answer]]
"""`(key, body, seconds)`: ask once and wait that long at most. Raises `NoAnswerError`."""


def _answer(status: int, headers: list[tuple[bytes, bytes]], body: bytes, sent: float) -> Answer:
    kept = sorted((name, value) for name, value in headers if name not in _CHANGING)
    digest = sha256(repr((status, kept)).encode() + body).hexdigest()
    found = dict(headers)
    is_problem = found.get(b"content-type") == b"application/problem+json"
    return Answer(
        status,
        digest,
        body,
        is_replay=found.get(b"idempotent-replayed") == b"true",
        problem=json.loads(body)["type"].rsplit(":", 1)[-1] if is_problem else None,
        sent=sent,
        received=time.time(),
    )


def asking_over_http(port: int) -> Ask:
    """Return a function that asks a server. Each request opens a connection, so that any worker may get it."""

    async def ask(key: str, body: bytes, seconds: float) -> Answer:
        sent = time.time()
        try:
            async with asyncio.timeout(seconds):
                return _read(await _exchanged(port, key, body), sent)
        except (OSError, TimeoutError, ValueError) as error:
            raise NoAnswerError(type(error).__name__) from error

    return ask


async def _exchanged(port: int, key: str, body: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        head = (
            f"POST {TARGET} HTTP/1.1\r\nHost: {HOST}\r\nIdempotency-Key: {key}\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode("ascii") + body)
        return await reader.read(-1)
    finally:
        writer.close()


def _read(data: bytes, sent: float) -> Answer:
    head, _, body = data.partition(b"\r\n\r\n")
    first, *rest = head.split(b"\r\n")
    headers = [(name.lower(), value) for name, value in (line.split(b": ", 1) for line in rest)]
    if len(body) != int(dict(headers).get(b"content-length", b"-1")):
        raise ValueError("the answer was cut off")
    return _answer(int(first.split(b" ")[1]), headers, body, sent)


def asking(app: Any) -> Ask:
    """Return a function that asks an ASGI app in this process."""

    async def ask(key: str, body: bytes, seconds: float) -> Answer:
        sent = time.time()
        try:
            async with asyncio.timeout(seconds):
                status, headers, answer = await _called(app, key, body)
        except TimeoutError as error:
            raise NoAnswerError("TimeoutError") from error
        return _answer(status, headers, answer, sent)

    return ask


async def _called(app: Any, key: str, body: bytes) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    request = [{"type": "http.request", "body": body, "more_body": False}]
    messages: list[Any] = []

    async def receive() -> Any:
        return request.pop() if request else await asyncio.Event().wait()

    async def send(message: Any) -> None:
        messages.append(message)

    await app(_scope(key), receive, send)
    start, *parts = messages
    return start["status"], start["headers"], b"".join(part["body"] for part in parts)


def _scope(key: str) -> dict[str, Any]:
    headers = {"host": HOST, "content-type": "application/json", "idempotency-key": key}
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": TARGET,
        "raw_path": TARGET.encode("ascii"),
        "query_string": b"",
        "root_path": "",
        "headers": [(name.encode("ascii"), value.encode("ascii")) for name, value in headers.items()],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
        "extensions": {},
    }
