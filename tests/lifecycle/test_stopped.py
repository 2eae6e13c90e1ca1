"""Every surface tells the machine about a run that was stopped, and the machine alone decides about its claim.

The machine abandons the claim of a stopped run: its lease lapses. Each test also runs with a machine that releases
the claim, and then expects the release. So a surface that does not settle a stopped run at all fails.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from idempotency_mw import IdempotencyConfig, current_execution, idempotent_function
from idempotency_mw.asgi import IdempotencyMiddleware as ASGIMiddleware
from idempotency_mw.core.machine import Abandon, Release, Stopped, on_ended
from idempotency_mw.lifecycle import claims
from idempotency_mw.persistence.memory import MemoryPersistenceLayer
from idempotency_mw.persistence.threaded import as_async
from idempotency_mw.testing import AsyncFailingPersistenceLayer, FailingPersistenceLayer
from idempotency_mw.wsgi import IdempotencyMiddleware as WSGIMiddleware
from idempotency_mw.wsgi import run as wsgi_run

pytestmark = pytest.mark.row(77)

SCOPE = {
    "type": "http",
    "method": "POST",
    "path": "/charge",
    "query_string": b"",
    "headers": [(b"idempotency-key", b"a")],
}
ENVIRON = {
    "REQUEST_METHOD": "POST",
    "PATH_INFO": "/charge",
    "HTTP_IDEMPOTENCY_KEY": "a",
    "wsgi.input": None,
}
START = {"type": "http.response.start", "status": 200, "headers": []}
PART = {"type": "http.response.body", "body": b"part", "more_body": True}
LAST = {"type": "http.response.body", "body": b"", "more_body": False}


@pytest.fixture(params=[Abandon, Release], ids=["abandons", "releases"])
def expected(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Make the machine decide this for every stopped run; return the verbs that the layer then has to see."""
    decision: Abandon | Release = request.param()

    def decided(ending: Any, on_error: Any) -> Any:
        return decision if isinstance(ending, Stopped) else on_ended(ending, on_error)

    monkeypatch.setattr(claims, "on_ended", decided)
    return ["acquire"] if decision == Abandon() else ["acquire", "release"]


@pytest.fixture
def layer() -> FailingPersistenceLayer:
    return FailingPersistenceLayer(MemoryPersistenceLayer())


@pytest.fixture
def async_layer() -> AsyncFailingPersistenceLayer:
    return AsyncFailingPersistenceLayer(as_async(MemoryPersistenceLayer()))


async def receive() -> dict[str, Any]:
    return {"type": "http.request", "body": b"", "more_body": False}


async def send(message: Any) -> None:
    """Take the message, as a server does, and drop it."""


async def cancel(task: asyncio.Future[Any]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


# ASGI.


async def test_a_cancelled_asgi_run_is_told_to_the_machine(
    async_layer: AsyncFailingPersistenceLayer, expected: list[str]
) -> None:
    running = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        current_execution().discard()  # type: ignore[union-attr]
        running.set()
        await asyncio.Event().wait()

    middleware = ASGIMiddleware(app, persistence_store=async_layer)
    task = asyncio.ensure_future(middleware(SCOPE, receive, send))
    await running.wait()
    await cancel(task)
    assert async_layer.calls == expected


async def test_an_asgi_run_that_is_cancelled_after_its_last_message_is_told_to_the_machine(
    async_layer: AsyncFailingPersistenceLayer, expected: list[str]
) -> None:
    """The middleware holds the last message back until the claim is settled."""
    held = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in (START, PART, LAST):
            await send(message)
        held.set()
        await asyncio.Event().wait()

    middleware = ASGIMiddleware(app, persistence_store=async_layer)
    task = asyncio.ensure_future(middleware(SCOPE, receive, send))
    await held.wait()
    await cancel(task)
    assert async_layer.calls == expected


async def test_an_asgi_run_that_is_cancelled_while_it_waits_to_settle_is_told_to_the_machine(
    async_layer: AsyncFailingPersistenceLayer, expected: list[str]
) -> None:
    """The app returns while another of its tasks still sends, to a client that does not read."""
    sending = asyncio.Event()
    tasks: list[asyncio.Future[None]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        tasks.append(asyncio.ensure_future(send(PART)))
        await sending.wait()

    async def slow_send(message: Any) -> None:
        sending.set()
        await asyncio.Event().wait()

    middleware = ASGIMiddleware(app, persistence_store=async_layer)
    task = asyncio.ensure_future(middleware(SCOPE, receive, slow_send))
    await sending.wait()
    for _ in range(5):
        await asyncio.sleep(0)
    await cancel(task)
    assert async_layer.calls == expected
    await cancel(tasks[0])


async def test_an_answer_that_another_task_sends_after_the_cancellation_is_kept(
    async_layer: AsyncFailingPersistenceLayer,
) -> None:
    running, tasks = asyncio.Event(), []

    async def answer(send: Any) -> None:
        await running.wait()
        await asyncio.sleep(0)
        await send({**START, "headers": [(b"content-length", b"4")]})
        await send(PART)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        tasks.append(asyncio.ensure_future(answer(send)))
        running.set()
        await asyncio.Event().wait()

    middleware = ASGIMiddleware(app, persistence_store=async_layer)
    task = asyncio.ensure_future(middleware(SCOPE, receive, send))
    await running.wait()
    await cancel(task)
    await tasks[0]
    assert async_layer.calls == ["acquire", "complete"]


async def test_the_coroutine_of_an_asgi_run_can_be_closed(async_layer: AsyncFailingPersistenceLayer) -> None:
    """A stopped run settles without suspending: if it awaited anything, `close` would raise RuntimeError."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.Event().wait()

    run = ASGIMiddleware(app, persistence_store=async_layer)(SCOPE, receive, send)
    run.send(None)
    run.close()
    assert async_layer.calls == ["acquire"]


# WSGI.


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_an_interrupted_wsgi_run_is_told_to_the_machine(
    layer: FailingPersistenceLayer, expected: list[str], stop: type
) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        environ["idempotency_mw.execution"].discard()
        raise stop

    with pytest.raises(stop):
        WSGIMiddleware(app, persistence_store=layer)(dict(ENVIRON), lambda *_: print)
    assert layer.calls == expected


def streamed(environ: Any, start_response: Any) -> Any:
    start_response("200 OK", [])
    yield from (b"part",) * 3


def test_a_wsgi_run_that_is_closed_and_does_not_end_in_time_is_told_to_the_machine(
    layer: FailingPersistenceLayer, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wsgi_run, "DRAIN_SECONDS", 0)
    run: Any = WSGIMiddleware(streamed, persistence_store=layer)(dict(ENVIRON), lambda *_: print)
    assert next(run) == b"part"
    run.close()
    assert layer.calls == expected


# Functions.


def stops(error: type[BaseException]) -> Callable[[Any], None]:
    """Return a function that discards its result, and then is stopped by this error."""

    def function(payload: Any) -> None:
        current_execution().discard()  # type: ignore[union-attr]
        raise error

    return function


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_an_interrupted_function_is_told_to_the_machine(
    layer: FailingPersistenceLayer, expected: list[str], stop: Any
) -> None:
    function = idempotent_function(stops(stop), persistence_store=layer)
    with pytest.raises(stop):
        function("a")
    assert layer.calls == expected


async def test_a_cancelled_async_function_is_told_to_the_machine(
    async_layer: AsyncFailingPersistenceLayer, expected: list[str]
) -> None:
    running = asyncio.Event()

    @idempotent_function(persistence_store=async_layer, config=IdempotencyConfig(on_error="store"))
    async def function(payload: Any) -> None:
        current_execution().discard()  # type: ignore[union-attr]
        running.set()
        await asyncio.Event().wait()

    task = asyncio.ensure_future(function("a"))
    await running.wait()
    await cancel(task)
    assert async_layer.calls == expected


async def test_the_coroutine_of_an_async_function_can_be_closed(async_layer: AsyncFailingPersistenceLayer) -> None:
    @idempotent_function(persistence_store=async_layer)
    async def function(payload: Any) -> None:
        await asyncio.Event().wait()

    run = function("a")
    run.send(None)
    run.close()
    assert async_layer.calls == ["acquire"]
