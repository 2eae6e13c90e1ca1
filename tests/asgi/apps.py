"""Apps for real servers: the same few endpoints in raw ASGI, Starlette, FastAPI and Litestar.

One process serves them all: `/fastapi-1/whole` is the FastAPI app, with one `BaseHTTPMiddleware` inside the
idempotency middleware. The query says what a run does. Each run writes files into a folder when it begins and
ends, and can wait there for a file, its gate. So a test counts runs across processes, also of killed ones, and
never waits by the clock.
"""

import asyncio
import json
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from idempotency_mw import HTTPConfig, IdempotencyConfig
from idempotency_mw.asgi import IdempotencyMiddleware
from idempotency_mw.persistence.redis import AsyncRedisPersistenceLayer
from idempotency_mw.persistence.sqlite import SQLitePersistenceLayer
from tests.marking import LONGEST_WAIT, MARKS, MarkedRun

logging.basicConfig(format="%(levelname)s %(name)s %(message)s")


class Work(MarkedRun):
    """One run of an ASGI app."""

    def __init__(self, scope: Any) -> None:
        super().__init__(scope["query_string"].decode("ascii"))

    @property
    def is_over(self) -> bool:
        return (MARKS / f"{self.run}.ended").exists()

    async def gate(self, step: int) -> None:
        """Wait for the gate's file, if this is the step to wait at."""
        await asyncio.sleep(self.seconds)
        waited = 0.0
        while self.has_to_wait(step):
            assert waited < LONGEST_WAIT, f"{self.run}: nobody opened the gate"
            await asyncio.sleep(0.01)
            waited += 0.01

    async def answer(self) -> dict[str, str]:
        """Return the whole answer, once the gate is open."""
        await self.gate(0)
        self.note("ended")
        return {"run": self.run, "nonce": self.nonce}

    async def stream(self) -> AsyncIterator[bytes]:
        """Yield the answer in chunks."""
        for step in range(self.chunks):
            await self.gate(step)
            yield self.chunk(step)
        self.note("ended")

    async def afterwards(self) -> None:
        """The work of the background task."""
        await self.gate(1)
        self.note("afterwards")

    def file(self) -> Path:
        """Return a file that only this run has."""
        path = MARKS / f"{self.run}.{self.nonce}.bin"
        path.write_bytes(self.nonce.encode() * 20_000)
        self.note("ended")
        return path


# Starlette, and FastAPI, which shares its requests and responses.


async def _whole(request: Request) -> Response:
    work = Work(request.scope)
    return JSONResponse(await work.answer(), status_code=work.status, headers={"x-a": "1"})


async def _stream(request: Request) -> Response:
    return StreamingResponse(Work(request.scope).stream(), media_type="application/octet-stream")


async def _events(request: Request) -> Response:
    """Server-sent events; between two of them it asks whether the client is still connected."""
    work = Work(request.scope)

    async def events() -> AsyncIterator[bytes]:
        async for chunk in work.stream():
            if await request.is_disconnected():
                work.note("disconnected")
                return
            yield chunk

    return StreamingResponse(events(), media_type="text/event-stream")


async def _file(request: Request) -> Response:
    return FileResponse(Work(request.scope).file())


async def _background(request: Request) -> Response:
    work = Work(request.scope)
    return JSONResponse(await work.answer(), background=BackgroundTask(work.afterwards))


async def _background_after_stream(request: Request) -> Response:
    """A background task after an answer of no declared length."""
    work = Work({"query_string": request.scope["query_string"] + b"&chunks=1"})
    return StreamingResponse(work.stream(), background=BackgroundTask(work.afterwards))


async def _failing(request: Request) -> Response:
    """Raise in the middle of the stream, in the first run only."""
    work = Work(request.scope)

    async def chunks() -> AsyncIterator[bytes]:
        async for chunk in work.stream():
            yield chunk
            if work.number == 1:
                raise RuntimeError("this app fails in mid-stream")

    return StreamingResponse(chunks())


ENDPOINTS: dict[str, Callable[[Request], Awaitable[Response]]] = {
    "/whole": _whole,
    "/stream": _stream,
    "/events": _events,
    "/file": _file,
    "/background": _background,
    "/background-after-stream": _background_after_stream,
    "/failing": _failing,
}


@asynccontextmanager
async def _lifespan(app: Starlette) -> AsyncIterator[None]:
    (MARKS / f"lifespan-{os.getpid()}.begun").touch()
    yield
    (MARKS / f"lifespan-{os.getpid()}.ended").touch()


def starlette_app() -> Any:
    routes = [Route(path, each, methods=["POST"]) for path, each in ENDPOINTS.items()]
    return Starlette(routes=routes, lifespan=_lifespan)


def fastapi_app() -> Any:
    from fastapi import FastAPI  # imported here so that a server that needs no FastAPI starts faster

    app = FastAPI()

    @app.post("/whole", status_code=201)
    async def whole(request: Request, response: Response) -> dict[str, str]:
        work = Work(request.scope)
        response.status_code = work.status
        response.headers["x-a"] = "1"
        return await work.answer()

    for path, endpoint in list(ENDPOINTS.items())[1:]:
        app.add_route(path, endpoint, methods=["POST"])
    return app


def litestar_app() -> Any:
    from litestar import Litestar, post
    from litestar import Request as LitestarRequest
    from litestar.response import File, ServerSentEvent, Stream

    @post("/whole", response_headers={"x-a": "1"})
    async def whole(request: LitestarRequest[Any, Any, Any]) -> dict[str, str]:
        return await Work(request.scope).answer()

    @post("/stream", status_code=200)
    async def stream(request: LitestarRequest[Any, Any, Any]) -> Stream:
        return Stream(Work(request.scope).stream())

    @post("/events", status_code=200)
    async def events(request: LitestarRequest[Any, Any, Any]) -> ServerSentEvent:
        chunks = Work(request.scope).stream()
        return ServerSentEvent(chunk[len("data: ") :].decode().strip() async for chunk in chunks)

    @post("/file", status_code=200)
    async def file(request: LitestarRequest[Any, Any, Any]) -> File:
        return File(path=Work(request.scope).file())

    return Litestar([whole, stream, events, file], openapi_config=None)


# Raw ASGI.


async def raw_app(scope: Any, receive: Any, send: Any) -> None:
    await RAW_ENDPOINTS[scope["path"]](scope, receive, send)


async def _start(send: Any, status: int, *headers: tuple[bytes, bytes]) -> None:
    await send({"type": "http.response.start", "status": status, "headers": list(headers)})


async def _raw_whole(scope: Any, receive: Any, send: Any) -> None:
    work = Work(scope)
    await _answer(send, work.status, await work.answer())


async def _raw_extensions(scope: Any, receive: Any, send: Any) -> None:
    """Answer with the names of the extensions that the server offers."""
    await _answer(send, 200, sorted(scope.get("extensions") or ()))


async def _answer(send: Any, status: int, document: Any) -> None:
    body = json.dumps(document).encode()
    await _start(send, status, (b"content-length", b"%d" % len(body)), (b"x-a", b"1"))
    await send({"type": "http.response.body", "body": body})


async def _raw_stream(scope: Any, receive: Any, send: Any) -> None:
    work = Work(scope)
    await _start(send, 200, (b"x-a", b"1"))
    async for chunk in work.stream():
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _raw_listening(scope: Any, receive: Any, send: Any) -> None:
    """Stream, and stop when the server says that the client has gone."""
    while (await receive()).get("more_body"):
        pass
    work = Work(scope)

    async def listen() -> None:
        message = await receive()
        assert message["type"] == "http.disconnect", message
        if not work.is_over:
            work.note("disconnected")
            streaming.cancel()

    async def stream() -> None:
        await _start(send, 200)
        async for chunk in work.stream():
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    streaming = asyncio.ensure_future(stream())
    listening = asyncio.ensure_future(listen())
    try:
        await asyncio.wait([streaming])
    finally:
        listening.cancel()
        streaming.cancel()
    if not streaming.cancelled():
        streaming.result()


RAW_ENDPOINTS = {
    "/whole": _raw_whole,
    "/stream": _raw_stream,
    "/events": _raw_listening,
    "/extensions": _raw_extensions,
}


# The process.


def _store(url: str) -> Any:
    if url.startswith("redis:"):
        return AsyncRedisPersistenceLayer.from_url(url, timeout_seconds=1.0)
    return SQLitePersistenceLayer(url, durability="normal")


STORE = _store(os.environ["TEST_STORE"])
# Given by hand: with the defaults a middleware warns when it is built, and these logs have to be empty.
BY_HAND = {"bound_headers": ("authorization", "cookie", "x-api-key", "host")}
CONFIG = {"key_prefix": "served"} | json.loads(os.environ["TEST_CONFIG"])
HTTP = BY_HAND | json.loads(os.environ["TEST_HTTP"])
FRAMEWORKS = {"raw": lambda: raw_app, "starlette": starlette_app, "fastapi": fastapi_app, "litestar": litestar_app}
OPTIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "required": ({}, {"required": True}),
    "small": ({}, {"max_request_body": 1000}),
    "waiting": ({"wait_seconds": 10}, {}),
    "passing": ({"on_store_failure": "pass"}, {}),
    "refusing": ({"after_crash": "refuse"}, {}),
}


async def _passing(request: Request, call_next: Any) -> Response:
    return await call_next(request)


@cache
def variant(name: str) -> Any:
    """Return the app of a name like `fastapi-1` or `raw-0-required`."""
    framework, middlewares, *option = name.split("-")
    inner = FRAMEWORKS[framework]()
    for _ in range(int(middlewares)):
        inner = BaseHTTPMiddleware(inner, dispatch=_passing)
    config, http = OPTIONS[option[0]] if option else ({}, {})
    return IdempotencyMiddleware(
        inner,
        persistence_store=STORE,
        config=IdempotencyConfig(**CONFIG | config),
        http=HTTPConfig(**HTTP | http),
    )


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Choose the app by the first segment of the path."""
    if scope["type"] == "lifespan":
        await variant("starlette-1")(scope, receive, send)
    elif scope["path"] == "/ready":
        await _start(send, 204)
        await send({"type": "http.response.body", "body": b""})
    else:
        _, name, path = scope["path"].split("/", 2)
        inner = {**scope, "path": f"/{path}", "raw_path": f"/{path}".encode()}
        await variant(name)(inner, receive, send)
