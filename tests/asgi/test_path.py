"""No request costs a task or a copy of a body.

`benchmarks/` measures the instructions of a request, and its round trips are counted in
`tests/persistence/test_round_trips.py`.
"""

import asyncio
from collections.abc import AsyncIterator

import pytest

from idempotency_mw.asgi import IdempotencyMiddleware
from idempotency_mw.persistence.redis import AsyncRedisPersistenceLayer
from tests.asgi.driver import Answer, Conversation

ANSWER = b"paid " * 4000
BODY = b"order " * 4000


class App:
    """An app that keeps the bodies it received; the test sets the headers of its answer."""

    def __init__(self) -> None:
        self.received: list[bytes] = []
        self.headers = [(b"content-length", b"%d" % len(ANSWER))]
        self.while_it_runs: list[Conversation] = []

    async def __call__(self, scope, receive, send) -> None:
        message = await receive()
        self.received.append(message["body"])
        duplicates, self.while_it_runs = self.while_it_runs, []
        for duplicate in duplicates:
            await duplicate.run()
        await send({"type": "http.response.start", "status": 200, "headers": self.headers})
        await send({"type": "http.response.body", "body": ANSWER})


@pytest.fixture
def app() -> App:
    return App()


@pytest.fixture
async def middleware(app, any_server) -> AsyncIterator[IdempotencyMiddleware]:
    async with AsyncRedisPersistenceLayer.from_url(any_server.url, direct=True) as store:
        middleware = IdempotencyMiddleware(app, persistence_store=store)
        await asked(middleware, "warm").run()  # connects, and loads the scripts
        app.received.clear()
        yield middleware


def asked(middleware: IdempotencyMiddleware, key: str | None, body: bytes = BODY) -> Conversation:
    headers = [] if key is None else [("Idempotency-Key", f'"path-{key}"')]
    return Conversation(middleware, headers=headers, body=body)


class CreatedTasks:
    """Lists the coroutines of the tasks that are created meanwhile."""

    def __enter__(self) -> list[str]:
        self._loop = asyncio.get_running_loop()
        self.begun: list[str] = []
        self._loop.set_task_factory(self._made)
        return self.begun

    def __exit__(self, *_: object) -> None:
        self._loop.set_task_factory(None)

    def _made(self, loop, coroutine, **options) -> asyncio.Task:
        self.begun.append(coroutine.__qualname__)
        return asyncio.Task(coroutine, loop=loop, **options)


async def test_no_request_creates_a_task_whatever_its_answer(app, middleware):
    running, other = asked(middleware, "one"), asked(middleware, "one", b"another body")
    app.while_it_runs = [running, other]
    with CreatedTasks() as begun:
        first = await asked(middleware, "one").run()
        replay = await asked(middleware, "one").run()
        reused = await asked(middleware, "one", b"another body").run()
        unkeyed = await asked(middleware, None).run()
    assert [each.status for each in (first, replay, reused, unkeyed)] == [200, 200, 422, 200]
    assert [running.answer.status, other.answer.status] == [409, 422]
    assert replay.replayed
    assert begun == []


async def test_the_bodies_of_a_first_request_are_not_copied(app, middleware):
    for headers in (app.headers, []):  # with a declared length; without, the end is held until the app returns
        app.headers = headers
        answer = await asked(middleware, f"handed-on-{len(headers)}").run()
        assert app.received.pop() is BODY
        assert last_body(answer) is ANSWER


def last_body(answer: Answer) -> bytes:
    return answer.ok().messages[-1]["body"]
