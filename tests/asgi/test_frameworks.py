"""FastAPI and Litestar in this process. Rows 34, 35, 42, 54, 82 and 87."""

import asyncio
from typing import Annotated

import pytest
from fastapi import BackgroundTasks, Depends, FastAPI, HTTPException
from litestar import Litestar, post
from litestar.middleware import DefineMiddleware
from litestar.params import Body
from litestar.response import Stream
from starlette.requests import Request

from idempotency_mw import current_execution
from idempotency_mw.asgi import IdempotencyMiddleware
from tests.asgi.driver import JSON, Conversation, ask, until
from tests.asgi.scenario import BROKEN, KEY


async def pay(app, *, body=b'{"amount":1}', headers=(), **options):
    return await ask(app, body=body, headers=[KEY, JSON, *headers], **options)


# FastAPI.


def fastapi_app(store, **options):
    app = FastAPI()
    app.state.runs = 0

    @app.post("/pay", status_code=201)
    async def pay(payment: dict):
        app.state.runs += 1
        if payment.get("fail"):
            raise HTTPException(402, "no money")
        return {"paid": payment["amount"], "attempt": current_execution().attempt}

    @app.post("/discard")
    async def discard(request: Request):
        app.state.runs += 1
        request.scope["idempotency"].discard()
        return {"n": app.state.runs}

    app.add_middleware(IdempotencyMiddleware, persistence_store=store, **options)
    return app


@pytest.mark.row(34, 35, 36, 41, 85)
async def test_fastapi_runs_once_and_replays(store):
    app = fastapi_app(store)
    first, retry = (await pay(app)).ok(), (await pay(app)).ok()
    assert first.brief() == retry.brief() == (201, b'{"paid":1,"attempt":1}')
    assert (first.replayed, retry.replayed, app.state.runs) == (False, True, 1)
    assert retry.one("content-type") == "application/json"
    assert (await pay(app, body=b'{"amount":2}')).slug == "key-reused"


@pytest.mark.row(41)
async def test_an_http_exception_of_fastapi_is_an_answer_and_frees_the_key(store):
    app = fastapi_app(store)
    for run in (1, 2):
        assert (await pay(app, body=b'{"fail":1}')).ok().status == 402
        assert app.state.runs == run


@pytest.mark.row(54)
async def test_the_execution_is_also_in_the_scope(store):
    app = fastapi_app(store)
    assert (await pay(app, path="/discard")).body == b'{"n":1}'
    assert (await pay(app, path="/discard")).body == b'{"n":2}'


@pytest.mark.row(82)
@pytest.mark.parametrize("fails", [False, True])
async def test_a_client_does_not_wait_for_a_background_task_of_fastapi(store, fails):
    app = FastAPI()
    gate, runs = asyncio.Event(), []

    async def later():
        await gate.wait()
        if fails:
            raise BROKEN

    @app.post("/pay")
    async def paying(tasks: BackgroundTasks):
        runs.append(1)
        tasks.add_task(later)
        return {"paid": 1}

    app.add_middleware(IdempotencyMiddleware, persistence_store=store)
    first = Conversation(app, path="/pay", headers=[KEY]).start()
    await until(lambda: first.answer.ended)
    assert (await ask(app, headers=[KEY])).replayed
    gate.set()
    answer = await first.end()
    assert answer.raised is (BROKEN if fails else None)
    assert (await ask(app, headers=[KEY])).body == b'{"paid":1}'
    assert len(runs) == 1


@pytest.mark.row(87)
@pytest.mark.parametrize("scope", ["request", "function"])
async def test_a_yield_dependency_that_fails_before_the_response_frees_the_key_and_one_after_it_does_not(
    store, scope
):
    """With the request's scope it exits after the response: the record stays although the commit failed.

    With the function's scope it exits before the response: the failure frees the key.
    """
    app = FastAPI()
    runs = []

    async def transaction():
        yield
        raise BROKEN  # the commit fails

    @app.post("/pay", dependencies=[Depends(transaction, scope=scope)])
    async def paying():
        runs.append(1)
        return {"paid": 1}

    app.add_middleware(IdempotencyMiddleware, persistence_store=store)
    answer = await ask(app, headers=[KEY])
    assert answer.raised is BROKEN
    retry = await ask(app, headers=[KEY])
    if scope == "request":
        assert answer.brief() == (200, b'{"paid":1}')
        assert (retry.replayed, len(runs)) == (True, 1)
    else:
        assert answer.brief() == (500, b"Internal Server Error")
        assert (retry.replayed, len(runs)) == (False, 2)


# Litestar.


@pytest.mark.row(34, 35, 42)
async def test_litestar_runs_once_and_replays(store):
    runs = []

    @post("/pay")
    async def paying(data: Annotated[dict, Body()]) -> dict:
        runs.append(1)
        if data.get("fail"):
            raise BROKEN
        return {"paid": data["amount"]}

    @post("/stream")
    async def stream() -> Stream:
        async def chunks():
            yield b"a"
            yield b"b"

        return Stream(chunks())

    ours = DefineMiddleware(IdempotencyMiddleware, persistence_store=store)
    app = Litestar([paying, stream], middleware=[ours])
    wrapped = IdempotencyMiddleware(Litestar([paying, stream]), persistence_store=store)
    first = (await pay(app)).ok()
    assert first.brief() == (201, b'{"paid":1}')
    assert (await pay(app)).replayed
    assert (await pay(wrapped)).replayed
    assert len(runs) == 1
    answer = await pay(app, body=b'{"fail":1}', headers=[("authorization", "x")])
    assert answer.slug == "key-reused"
    other = [("Idempotency-Key", "k-2"), JSON]
    for number in (2, 3):
        assert (await ask(app, body=b'{"fail":1}', headers=other)).status == 500
        assert len(runs) == number
    assert (await pay(app, path="/stream")).ok().body == b"ab"
    retry = await pay(app, path="/stream")
    assert (retry.body, retry.replayed) == (b"ab", True)
