"""Counts the instructions of a request without a key: at most 3 % more than without the middleware.

Instructions are counted, because times are noisy on a shared machine. One process under callgrind imports
everything, and forks a child for each case and each of two lengths; the difference of the two lengths leaves the
start-up out. Exits 0 if all rows are within the budget and no body is buffered, 1 otherwise, 2 without valgrind.

called    the app is called directly
served    uvicorn reads the request's bytes and writes the answer's, over a transport in memory

The budget holds for both ways, with one exception: a POST to a bare Starlette app that does nothing, called. There
an empty middleware takes half of the 3 %, and looking for the header takes more than the other half.
"""
# ruff: noqa: D101, D102 -- a script

import asyncio
import gc
import os
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from benchmarks.callgrind import counted_forks, in_fork, valgrind
from benchmarks.workload import BODY, HEADERS, asgi_scope
from idempotency_mw.asgi import IdempotencyMiddleware
from idempotency_mw.persistence.memory import MemoryPersistenceLayer

BUDGET = 1.03
"""Instructions with the middleware, as a ratio to the bare app."""
LENGTHS = (50, 200)
APPS = ("fastapi", "starlette")
METHODS = ("POST", "GET")
WAYS = ("called", "served")
ROWS = [(way, app, method) for way in WAYS for app in APPS for method in METHODS]
UNBUDGETED = {("called", "starlette", "POST")}

Case = tuple[str, str, str, bool, int]
"""The way, the app, the method, whether the middleware is there, and the number of requests."""


@dataclass(frozen=True, slots=True)
class Measured:
    """The instructions of one row's request, without and with the middleware."""

    way: str
    app: str
    method: str
    bare: int
    protected: int
    passes: bool
    budget: float | None

    @property
    def ratio(self) -> float:
        return self.protected / self.bare

    @property
    def holds(self) -> bool:
        return self.passes and (self.budget is None or self.ratio <= self.budget)


class Payment(BaseModel):
    order: str
    amount: int


def app_of(name: str, *, protected: bool) -> Any:
    app: Any = fastapi_app() if name == "fastapi" else starlette_app()
    if protected:
        app.add_middleware(IdempotencyMiddleware, persistence_store=MemoryPersistenceLayer())
    return app


def fastapi_app() -> FastAPI:
    app = FastAPI()

    @app.post("/payments")
    async def pay(payment: Payment) -> Payment:
        return payment

    @app.get("/payments")
    async def read() -> Payment:
        return Payment(order="order-1", amount=1250)

    return app


def starlette_app() -> Starlette:
    async def answer(request: Request) -> JSONResponse:
        return JSONResponse(await request.json() if request.method == "POST" else {"order": "order-1"})

    return Starlette(routes=[Route("/payments", answer, methods=list(METHODS))])


def scope_of(method: str) -> dict[str, Any]:
    return asgi_scope(HEADERS if method == "POST" else HEADERS[:-2], method)


async def call(app: Any, method: str, requests: int) -> None:
    """Call the app that many times, and check each answer."""
    statuses: list[int] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": BODY if method == "POST" else b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    for _ in range(requests):
        await app(scope_of(method), receive, send)
    assert statuses == [200] * requests


class Transport(asyncio.Transport):
    """A connection that collects what is written to it."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 50000), "sockname": ("127.0.0.1", 8000)})
        self.written: list[bytes] = []

    def write(self, data: Any) -> None:
        self.written.append(bytes(data))

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


async def serve(app: Any, method: str, requests: int) -> None:
    """Let uvicorn serve that many requests on one connection, and check the answers."""
    state = ServerState()
    config = Config(app, http="h11", ws="none", lifespan="off", log_config=None, access_log=False)
    config.load()
    protocol, transport = H11Protocol(config, state, {}), Transport()
    protocol.connection_made(transport)
    headers = scope_of(method)["headers"]
    lines = [f"{method} /payments HTTP/1.1".encode(), *(b"%b: %b" % line for line in headers)]
    request = b"\r\n".join([*lines, b"", BODY if method == "POST" else b""])
    for _ in range(requests):
        protocol.data_received(request)
        await asyncio.gather(*state.tasks)
    answers = b"".join(transport.written)
    assert answers.count(b"HTTP/1.1 200 OK") == requests, answers[:1000]


async def passes_unbuffered(method: str) -> bool:
    """Tell whether the app gets the server's own receive and send: then the middleware can't have read a body."""
    got: list[object] = []

    async def app(_scope: Any, receive: Any, send: Any) -> None:
        got.extend((receive, send))

    async def receive() -> dict[str, Any]:
        raise AssertionError("the middleware read the body")

    async def send(_message: Any) -> None:
        raise AssertionError("the middleware answered")

    middleware = IdempotencyMiddleware(app, persistence_store=MemoryPersistenceLayer())
    await middleware(scope_of(method), receive, send)
    return got == [receive, send]


def cases() -> list[Case]:
    return [(*row, protected, requests) for row in ROWS for protected in (False, True) for requests in LENGTHS]


def run_all() -> None:
    """Run each case in a fork of this process, for `counted_forks`."""
    for row in ROWS:
        run_one((*row, True, 1))  # so that late imports are not counted
    gc.collect()
    gc.freeze()
    for case in cases():
        in_fork(partial(run_one, case))


def run_one(case: Case) -> None:
    way, app, method, protected, requests = case
    send = call if way == "called" else serve
    asyncio.run(send(app_of(app, protected=protected), method, requests))


def instructions() -> dict[Case, int]:
    """Return the instructions of each case, start-up included."""
    path = os.pathsep.join((os.fspath(Path(__file__).parent.parent), *sys.path[1:]))
    command = [sys.executable, "-m", "benchmarks.unkeyed", "--run"]
    counted = counted_forks(command, {**os.environ, "PYTHONHASHSEED": "0", "PYTHONPATH": path})
    return {case: found for case, (_, found) in zip(cases(), counted, strict=True)}


def measured() -> list[Measured]:
    """Count every row."""
    counted = instructions()
    short, long = LENGTHS
    bare, ours = (
        {row: (counted[*row, protected, long] - counted[*row, protected, short]) / (long - short) for row in ROWS}
        for protected in (False, True)
    )
    return [
        Measured(
            *row,
            bare=round(bare[row]),
            protected=round(ours[row]),
            passes=asyncio.run(passes_unbuffered(row[2])),
            budget=None if row in UNBUDGETED else BUDGET,
        )
        for row in ROWS
    ]


def main() -> int:
    if valgrind() is None:
        print("valgrind is not installed, so no instructions were counted.")
        return 2
    print("Counting instructions under callgrind; this takes about a minute.", flush=True)
    rows = measured()
    print(f"\n{'way':<7} {'app':<9}  {'request':<12}  {'bare':>9}  {'with':>9}  {'ratio':>6}  {'budget':>6}  body")
    for row in rows:
        show(row)
    holds = all(row.holds for row in rows)
    print("\nInstructions a request. " + ("Within the budget." if holds else "OVER THE BUDGET."))
    return 0 if holds else 1


def show(row: Measured) -> None:
    request = "POST, no key" if row.method == "POST" else row.method
    body = "unbuffered" if row.passes else "BUFFERED"
    figures = f"{row.bare:>9,}  {row.protected:>9,}  {row.ratio:>6.4f}  {row.budget or 'none':>6}"
    print(f"{row.way:<7} {row.app:<9}  {request:<12}  {figures}  {body}")


if __name__ == "__main__":
    if "--run" in sys.argv:
        run_all()
    else:
        sys.exit(main())
