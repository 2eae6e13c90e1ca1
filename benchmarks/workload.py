"""The request and the app that answers it: one payment, as an ASGI app, a WSGI app, and a function.

An answer has 182 bytes unless another size is given. "held" is a request that sends its own duplicate while it
runs: the cost of both, less that of a first request, is the cost of a 409.
"""

import io
import json
from collections.abc import Callable, Iterable
from typing import Any

__all__ = [
    "ANSWER_BYTES",
    "Held",
    "asgi_app",
    "asgi_scope",
    "call_asgi",
    "call_wsgi",
    "function",
    "json_answer",
    "streaming_app",
    "wsgi_app",
]

ANSWER_BYTES = 182
"""Bytes of the usual answer: a small JSON document."""
BODY = b'{"order": "order-1", "amount": 1250}'
OTHER_BODY = b'{"order": "order-1", "amount": 9999}'
HEADERS = [
    (b"host", b"payments.example"),
    (b"user-agent", b"python-httpx/0.28.1"),
    (b"accept", b"*/*"),
    (b"accept-encoding", b"gzip, deflate"),
    (b"connection", b"keep-alive"),
    (b"authorization", b"Bearer 0123456789abcdef0123456789abcdef"),
    (b"content-type", b"application/json"),
    (b"content-length", b"%d" % len(BODY)),
]


class Held:
    """What a running request does besides answering; it is set for one request at a time."""

    def __init__(self) -> None:
        self.do: Callable[[], Any] | None = None

    def take(self) -> Callable[[], Any] | None:
        """Return the action, and reset it."""
        do, self.do = self.do, None
        return do


def json_answer(size: int) -> bytes:
    """Return a JSON document of that many bytes."""
    start = b'{"status": "paid", "payment": "'
    return start + b"0" * (size - len(start) - 2) + b'"}'


def asgi_app(held: Held, size: int = ANSWER_BYTES) -> Any:
    """Return the bare app: it reads the body and answers in two messages."""
    answer = json_answer(size)
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer))]
    start = {"type": "http.response.start", "status": 200, "headers": headers}
    body = {"type": "http.response.body", "body": answer}

    async def app(_scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        if (do := held.take()) is not None:
            await do()
        await send(start)
        await send(body)

    return app


def streaming_app() -> Any:
    """Return an app that streams 50 MiB at /long and four chunks elsewhere, without Content-Length."""
    chunk = b"0" * 65536
    start = {
        "type": "http.response.start",
        "status": 200,
        "headers": [(b"content-type", b"application/octet-stream")],
    }

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        await send(start)
        for _ in range(800 if scope["path"] == "/long" else 4):
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    return app


def wsgi_app(held: Held, size: int = ANSWER_BYTES) -> Any:
    """Return the bare app for WSGI."""
    answer = json_answer(size)
    headers = [("Content-Type", "application/json"), ("Content-Length", str(len(answer)))]

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        environ["wsgi.input"].read()
        if (do := held.take()) is not None:
            do()
        start_response("200 OK", list(headers))
        return [answer]

    return app


def function(held: Held, size: int = ANSWER_BYTES) -> Callable[..., Any]:
    """Return the bare function."""
    answer: dict[str, Any] = json.loads(json_answer(size))

    def pay(payment: dict[str, Any]) -> dict[str, Any]:
        assert payment["amount"]
        if (do := held.take()) is not None:
            do()
        return answer

    return pay


def asgi_scope(headers: list[tuple[bytes, bytes]], method: str = "POST") -> dict[str, Any]:
    """Return the scope of one request, as a server makes it."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": "/payments",
        "raw_path": b"/payments",
        "root_path": "",
        "query_string": b"",
        "headers": headers,
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 8000),
        "state": {},
    }


async def call_asgi(app: Any, key: bytes | None, *, body: bytes = BODY) -> int:
    """Call an ASGI app once, as a server does; return the status."""
    headers = list(HEADERS)
    if key is not None:
        headers.append((b"idempotency-key", key))
    scope = asgi_scope(headers)
    statuses: list[int] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    await app(scope, receive, send)
    return statuses[0]


def _environ(body: bytes) -> dict[str, Any]:
    return {
        "REQUEST_METHOD": "POST",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/payments",
        "QUERY_STRING": "",
        "SERVER_NAME": "payments.example",
        "SERVER_PORT": "8000",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "CONTENT_TYPE": "application/json",
        "CONTENT_LENGTH": str(len(body)),
        "HTTP_HOST": "payments.example",
        "HTTP_USER_AGENT": "python-httpx/0.28.1",
        "HTTP_ACCEPT": "*/*",
        "HTTP_ACCEPT_ENCODING": "gzip, deflate",
        "HTTP_CONNECTION": "keep-alive",
        "HTTP_AUTHORIZATION": "Bearer 0123456789abcdef0123456789abcdef",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(body),
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
    }


def call_wsgi(app: Any, key: bytes | None, *, body: bytes = BODY) -> int:
    """Call a WSGI app once, as a server does; return the status."""
    environ = _environ(body)
    if key is not None:
        environ["HTTP_IDEMPOTENCY_KEY"] = key.decode()
    statuses: list[str] = []

    def start_response(status: str, _headers: Any, _exc_info: Any = None) -> Callable[[bytes], None]:
        statuses.append(status)
        return lambda _: None

    answer = app(environ, start_response)
    try:
        for _ in answer:
            pass
    finally:
        close = getattr(answer, "close", None)
        if close is not None:
            close()
    return int(statuses[0][:3])
