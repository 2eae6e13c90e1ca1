"""Apps that send any ASGI events in any order behind the middleware: legal and illegal, well formed and malformed.

A program is drawn from a seed: the app's steps, in one task or several; when the client goes; when the task is
cancelled; which verbs of the store fail. It runs on a loop with virtual time, which jumps to the next timer, so
that a program that would wait for ever is found at once.

What must hold: every outcome is declared (see `programs`); only whole answers are stored; a client sees a whole
answer only after its record was settled; the middleware leaves no task behind; a duplicate gets the stored bytes;
and one lease after the call the key is answered or free.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from idempotency_mw import HTTPConfig, IdempotencyConfig
from idempotency_mw.asgi import IdempotencyMiddleware
from idempotency_mw.core.record import Status
from idempotency_mw.http.message import Response
from proof.fuzz.asgi_drawn import Message, Program
from proof.fuzz.asgi_parties import App, LeapingLoop, Order, Server
from proof.fuzz.programs import (
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
    check_duplicate,
    check_record,
)

__all__ = ["LeapingLoop", "Program", "run_program"]


def run_program(loop: LeapingLoop, program: Program) -> None:
    """Run one program; raise `Surprise` if a rule is broken."""
    loop.run_until_complete(_run(loop, program))


async def _run(loop: LeapingLoop, program: Program) -> None:
    store = Watched(loop.time, program.fails)
    app = App(program, store)
    server = Server(program, store)
    config = IdempotencyConfig(lease_seconds=LEASE_SECONDS, on_error=program.on_error)  # type: ignore[arg-type]
    http = HTTPConfig(methods=("POST", "HEAD"), max_response_body=MAX_BODY)
    middleware = IdempotencyMiddleware(Order(app), persistence_store=store, config=config, http=http)
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
    # A task that outlives the call may still end the answer, so the record is checked one lease later.
    await asyncio.sleep(LEASE_SECONDS + SLACK_SECONDS)
    stored = check_record(store, app.whole, stores_errors=program.on_error == "store")
    await _check_duplicate(middleware, app, server, stored)


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
    """Cancel the app's own tasks at the end; they may only raise declared errors, too."""
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


async def _check_duplicate(
    middleware: IdempotencyMiddleware, app: App, first: Server, stored: Response | None
) -> None:
    """Ask again, one lease later."""
    store, is_head = first.store, first.program.method == "HEAD"
    store.fails = frozenset()
    frame, now_ms = store.frame(), asyncio.get_running_loop().time() * 1000
    if frame is not None and frame.status is Status.IN_PROGRESS and frame.lease_until_ms > now_ms:
        raise Surprise("the key is in progress for longer than its lease")
    plain = Program(-1, steps=[("send", message) for message in _PLAIN], method=first.program.method)
    runs, app.program, app.whole = app.runs, plain, Whole(is_head)
    second = Server(plain, store)
    await middleware(_scope(plain), second.receive, second.send)
    check_duplicate(first, second, stored, frame, runs=app.runs - runs, is_head=is_head)


_PLAIN: tuple[Message, ...] = (
    {"type": "http.response.start", "status": 200, "headers": []},
    {"type": "http.response.body", "body": b"again"},
)
