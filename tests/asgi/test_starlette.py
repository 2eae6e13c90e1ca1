"""Starlette in this process: streams, middlewares, mounts, authentication. Rows 45, 61, 74, 80, 82, 83, 85; I8."""

import asyncio
import json

import pytest
from starlette.applications import Starlette
from starlette.authentication import AuthCredentials, AuthenticationBackend, SimpleUser
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route

from idempotency_mw import HTTPConfig, IdempotencyConfig
from idempotency_mw.asgi import IdempotencyMiddleware
from idempotency_mw.asgi.run import HOLD_SECONDS
from idempotency_mw.core.record import Status
from tests.asgi.driver import Conversation, ask, until
from tests.asgi.layers import AroundLayer
from tests.asgi.scenario import BROKEN, KEY, arecord_of

# Starlette.


def streaming(chunks=(b"a", b"b", b"c"), *, fails_at=None, background=None, headers=None, ended=None):
    async def body():
        try:
            for number, chunk in enumerate(chunks):
                if number == fails_at:
                    raise BROKEN
                yield chunk
                await asyncio.sleep(0)
            if fails_at == len(chunks):
                raise BROKEN
        finally:
            if ended is not None:
                ended.append(True)

    async def endpoint(request):
        endpoint.runs += 1
        return StreamingResponse(body(), headers=headers, background=background)

    endpoint.runs = 0
    return endpoint


class Passing(BaseHTTPMiddleware):
    async def dispatch(self, request, call_next):
        return await call_next(request)


def starlette_app(store, endpoint, *, inside=(), outside=(), **options):
    ours = Middleware(IdempotencyMiddleware, persistence_store=store, **options)
    return Starlette(
        routes=[Route("/pay", endpoint, methods=["POST"])],
        middleware=[*outside, ours, *inside],
    )


@pytest.mark.row(74, 76, 79)
@pytest.mark.parametrize("spec_version", ["2.0", "2.3", "2.4"])
@pytest.mark.parametrize("inside", [0, 1, 2])
@pytest.mark.parametrize("on_gone", ["silent", "raise"])
async def test_a_stream_is_stored_whole_whenever_its_client_disconnects(memory, spec_version, inside, on_gone):
    """I8, for a client that disconnects after each message."""
    for gone_after in (None, 0, 1, 2, 3, 4):
        store = AroundLayer(memory)
        ended = []
        endpoint = streaming(ended=ended)
        app = starlette_app(store, endpoint, inside=[Middleware(Passing)] * inside)
        headers = [("Idempotency-Key", f"{gone_after}")]
        conversation = Conversation(
            app, headers=headers, spec_version=spec_version, gone_after=gone_after, on_gone=on_gone
        )
        if gone_after == 0:
            conversation.disconnect()
        await asyncio.wait_for(conversation.run(), 5)
        assert conversation.answer.raised is None
        retry = (await ask(app, headers=headers, spec_version=spec_version)).ok()
        assert (retry.body, retry.replayed, endpoint.runs) == (b"abc", True, 1)
        memory.close()


DECLARED = {"content-length": "3"}


@pytest.mark.row(45)
@pytest.mark.parametrize("spec_version", ["2.3", "2.4"])
@pytest.mark.parametrize("headers", [None, DECLARED], ids=["undeclared", "declared"])
@pytest.mark.parametrize("inside", [0, 1, 2, 4])
@pytest.mark.parametrize("on_error", ["release", "store"])
async def test_a_stream_that_fails_at_any_chunk_leaves_no_truncated_record(
    memory, spec_version, headers, inside, on_error
):
    """I8, for an app that raises at each chunk, behind middlewares that end the body as if it were whole."""
    for fails_at in range(4):
        store = AroundLayer(memory)
        app = starlette_app(
            store,
            streaming(fails_at=fails_at, headers=headers),
            inside=[Middleware(Passing)] * inside,
            config=IdempotencyConfig(on_error=on_error),
        )
        answer = await ask(app, headers=[KEY], spec_version=spec_version)
        assert answer.raised is not None
        record = await arecord_of(store)
        if fails_at == 3 and headers is not None:
            assert record.status is Status.COMPLETED  # the body reached its declared length before the exception
            assert record.result.endswith(b"abc")
        elif on_error == "release":
            assert record is None
        else:
            assert b"execution-failed" in record.result
        memory.close()


@pytest.mark.row(45)
@pytest.mark.parametrize("order", [0, 1])
async def test_a_compressed_stream_that_fails_leaves_no_truncated_record(memory, order):
    """The compressor ends its output properly even if its source failed."""
    inside = [Middleware(GZipMiddleware), Middleware(Passing)]
    for fails_at in range(4):
        store = AroundLayer(memory)
        app = starlette_app(store, streaming(fails_at=fails_at), inside=inside[::-1] if order else inside)
        await ask(app, headers=[KEY, ("accept-encoding", "gzip")])
        assert await arecord_of(store) is None


async def test_a_middleware_that_declares_the_length_of_a_truncated_body_is_believed(memory):
    """A documented limit: such an answer is whole by its length for the client, and so for this middleware.

    Starlette gives that middleware a broken stream as if it had ended, and raises when everything is sent.
    """

    class Buffering(BaseHTTPMiddleware):
        async def dispatch(self, request, call_next):
            response = await call_next(request)
            return Response(b"".join([chunk async for chunk in response.body_iterator]))

    app = starlette_app(memory, streaming(fails_at=2), inside=[Middleware(Buffering)])
    answer = await ask(app, headers=[KEY])
    assert (answer.raised, answer.body, answer.one("content-length"), answer.ended) == (BROKEN, b"ab", "2", True)
    retry = await ask(app, headers=[KEY])
    assert (retry.body, retry.replayed) == (b"ab", True)


@pytest.mark.row(45)
@pytest.mark.parametrize("inside", [1, 3])
async def test_an_exception_before_a_stream_behind_middlewares_frees_the_key(memory, inside):
    async def endpoint(request):
        raise BROKEN

    store = AroundLayer(memory)
    app = starlette_app(store, endpoint, inside=[Middleware(Passing)] * inside)
    answer = await ask(app, headers=[KEY])
    assert (answer.raised, answer.status) == (BROKEN, 500)
    assert await arecord_of(store) is None


@pytest.mark.row(43, 82)
@pytest.mark.parametrize("inside", [0, 1, 2])
@pytest.mark.parametrize("declared", [True, False])
async def test_a_failing_background_task_keeps_the_record_of_a_whole_response(store, inside, declared):
    async def fail():
        await asyncio.sleep(HOLD_SECONDS + 0.2)
        raise BROKEN

    async def plain(request):
        return PlainTextResponse("abc", background=BackgroundTask(fail))

    endpoint = plain if declared else streaming(background=BackgroundTask(fail))
    app = starlette_app(store, endpoint, inside=[Middleware(Passing)] * inside)
    first = Conversation(app, headers=[KEY]).start()
    await until(lambda: first.answer.ended)
    assert (await ask(app, headers=[KEY])).body == b"abc"
    assert (await first.end()).raised is BROKEN
    assert (await ask(app, headers=[KEY])).replayed


@pytest.mark.row(74)
@pytest.mark.parametrize("key", [True, False])
@pytest.mark.parametrize("inside", [0, 1])
async def test_is_disconnected_is_false_until_the_answer_is_sent(memory, key, inside):
    told = []

    async def endpoint(request):
        await request.body()
        told.append(await request.is_disconnected())

        async def events():
            for number in range(3):
                told.append(await request.is_disconnected())
                yield b"data: %d\n\n" % number

        return StreamingResponse(events(), media_type="text/event-stream")

    app = starlette_app(memory, endpoint, inside=[Middleware(Passing)] * inside)
    answer = (await ask(app, headers=[KEY] if key else [], spec_version="2.3")).ok()
    assert answer.body == b"data: 0\n\ndata: 1\n\ndata: 2\n\n"
    assert told == 4 * [False]
    if key:
        assert (await ask(app, headers=[KEY])).body == answer.body


@pytest.mark.row(85)
@pytest.mark.parametrize("on_error", ["release", "store"])
async def test_an_exception_is_handled_alike_if_the_middleware_is_added_or_wraps_the_app(memory, on_error):
    async def endpoint(request):
        raise BROKEN

    config = IdempotencyConfig(on_error=on_error)
    routes = [Route("/pay", endpoint, methods=["POST"])]
    added = Starlette(routes=routes)
    added.add_middleware(IdempotencyMiddleware, persistence_store=memory, config=config)
    store = AroundLayer(memory)
    wrapped = IdempotencyMiddleware(Starlette(routes=routes), persistence_store=store, config=config)
    first = await ask(added, headers=[KEY])
    assert (first.raised, first.status) == (BROKEN, 500)
    assert (await ask(wrapped, headers=[("Idempotency-Key", "k-2")])).status == 500
    record = await arecord_of(store)
    if on_error == "release":
        # Outside the app's own error handling an exception comes after its answer, a 500.
        assert record is None
    else:
        assert record.status is Status.COMPLETED
        assert (await ask(wrapped, headers=[("Idempotency-Key", "k-2")])).status == 500
        assert (await ask(added, headers=[KEY])).status == 500


@pytest.mark.row(83)
async def test_inside_a_mount_the_prefix_is_part_of_the_path_once(memory):
    async def endpoint(request):
        return PlainTextResponse(request.url.path)

    routes = [Route("/pay", endpoint, methods=["POST"])]
    inner = IdempotencyMiddleware(Starlette(routes=routes), persistence_store=memory)
    mounted = Starlette(routes=[Mount("/a", inner), Mount("/b", inner)])
    assert (await ask(mounted, path="/a/pay", headers=[KEY])).body == b"/a/pay"
    assert (await ask(mounted, path="/b/pay", headers=[KEY])).body == b"/b/pay"
    assert (await ask(mounted, path="/a/pay", headers=[KEY])).replayed
    outer = IdempotencyMiddleware(mounted, persistence_store=memory)
    assert (await ask(outer, path="/a/pay", headers=[KEY])).replayed


@pytest.mark.row(80)
@pytest.mark.parametrize("inside", [0, 1])
async def test_a_file_response_passes_the_middleware_and_is_stored(memory, tmp_path, inside):
    from starlette.responses import FileResponse

    path = tmp_path / "receipt.txt"
    path.write_bytes(b"receipt")

    async def endpoint(request):
        return FileResponse(path)

    app = starlette_app(memory, endpoint, inside=[Middleware(Passing)] * inside)
    offered = {"http.response.pathsend": {}}
    assert (await ask(app, headers=[KEY], extensions=offered)).ok().body == b"receipt"
    assert (await ask(app, headers=[KEY], extensions=offered)).body == b"receipt"


@pytest.mark.row(77)
async def test_an_outer_base_http_middleware_that_ends_early_does_not_release_the_claim(memory):
    """It answers by itself and cancels the app: the claim is not released, its lease lapses."""
    entered = asyncio.Event()

    class Impatient(BaseHTTPMiddleware):
        async def dispatch(self, request, call_next):
            task = asyncio.ensure_future(call_next(request))
            await entered.wait()
            task.cancel()
            return PlainTextResponse("too late", status_code=504)

    async def endpoint(request):
        entered.set()
        await asyncio.sleep(0.05)
        return Response(b"done")

    store = AroundLayer(memory)
    app = starlette_app(store, endpoint, outside=[Middleware(Impatient)])
    assert (await ask(app, headers=[KEY])).status == 504
    # The task group of BaseHTTPMiddleware lets the app end or cancels it; the record is never half written.
    record = await arecord_of(store)
    assert record.status in (Status.IN_PROGRESS, Status.COMPLETED)


# Authentication.


class Token(AuthenticationBackend):
    async def authenticate(self, conn):
        name = conn.headers.get("authorization", "").removeprefix("Bearer ")
        return (AuthCredentials(["authenticated"]), SimpleUser(name)) if name in ("ann", "bob") else None


def user_of(request):
    return request.user.display_name if request.user.is_authenticated else ""


async def account(request):
    if not request.user.is_authenticated:
        return PlainTextResponse("who?", status_code=401)
    return JSONResponse({"of": request.user.display_name})


AUTHENTICATION = Middleware(AuthenticationMiddleware, backend=Token())


def bearer(name):
    return {"headers": [KEY, ("authorization", f"Bearer {name}")]}


@pytest.mark.row(61, 56)
async def test_an_outer_authentication_names_the_caller(store):
    """The order that the README recommends: the authentication first, then this middleware."""
    app = starlette_app(store, account, outside=[AUTHENTICATION], http=HTTPConfig(caller=user_of))
    assert json.loads((await ask(app, **bearer("ann"))).body) == {"of": "ann"}
    assert json.loads((await ask(app, **bearer("bob"))).body) == {"of": "bob"}
    assert (await ask(app, **bearer("ann"))).replayed
    assert (await ask(app, **bearer("nobody"))).slug == "caller-missing"


@pytest.mark.row(61, 57)
async def test_with_an_inner_authentication_only_the_same_credentials_get_the_replay(store):
    """The wrong order: a replay bypasses the authentication, so only the same credentials may get it."""
    app = starlette_app(store, account, inside=[AUTHENTICATION])
    assert json.loads((await ask(app, **bearer("ann"))).body) == {"of": "ann"}
    assert (await ask(app, **bearer("bob"))).slug == "key-reused"
    assert (await ask(app, headers=[KEY])).slug == "key-reused"
    assert (await ask(app, **bearer("ann"))).replayed


@pytest.mark.row(61)
async def test_an_inner_authentication_can_not_name_the_caller(store):
    app = starlette_app(store, account, inside=[AUTHENTICATION], http=HTTPConfig(caller=user_of))
    answer = await ask(app, **bearer("ann"))
    assert isinstance(answer.raised, AssertionError)  # Starlette's own: there is no user yet
