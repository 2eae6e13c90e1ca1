"""Rows 79, 80 and 82: when messages are sent: streams, held last messages, and a slow store."""

import asyncio
import sys
import time

import pytest

from idempotency_mw import HTTPConfig, IdempotencyConfig
from idempotency_mw.asgi import run as asgi_run
from idempotency_mw.asgi.run import HOLD_SECONDS, HOLD_TURNS
from tests.asgi.driver import ASGISurface, Play, ProtocolError, perform, turns, until
from tests.asgi.layers import AroundLayer, GatedLayer, SlowLayer
from tests.asgi.scenario import (
    BROKEN,
    DECLARED,
    STORABLE,
    STREAM,
    arecord_of,
    last,
    part,
    send_stream,
    started,
    surface_of,
)
from tests.virtual_time import on_virtual_time


@pytest.mark.row(34)
async def test_the_record_is_completed_before_the_last_byte_goes_out(asgi_surface, memory):
    """For each form of answer: a client that has received it whole finds it in the store."""
    for number, play in enumerate(STORABLE):
        layer = GatedLayer(memory, "complete")
        service = asgi_surface(layer, play)
        conversation = service.conversation(key=f"k-{number}").start()
        await layer.reached.wait()
        answer = conversation.answer
        assert not answer.ended
        declared = answer.one("content-length")
        assert declared is None or len(answer.body) < int(declared) or not answer.messages
        layer.gate.set()
        assert (await conversation.end()).ok().brief() == (play.status, b"".join(play.chunks))


async def test_a_slow_store_changes_nothing(surface, memory):
    service = surface(SlowLayer(memory))
    assert (await service.request()).ok().brief() == (200, b"done")
    assert (await service.request()).replayed


# Streams.


@pytest.mark.row(79)
@pytest.mark.parametrize("play", [STREAM, DECLARED], ids=["undeclared", "declared"])
async def test_a_stream_is_sent_as_it_comes_and_its_record_is_completed_before_its_end(memory, play):
    layer = GatedLayer(memory, "complete")
    service = ASGISurface(layer, play)
    conversation = service.conversation().start()
    await layer.reached.wait()
    whole = len(play.chunks)
    assert conversation.answer.body == b"01234" if play is DECLARED else b"012345"[:whole]
    assert not conversation.answer.ended
    layer.gate.set()
    answer = (await conversation.end()).ok()
    assert answer.body == b"012345"
    assert len(answer.messages) == 1 + whole
    assert (await service.request()).body == b"012345"


@pytest.mark.row(79)
async def test_the_first_bytes_of_a_stream_are_sent_before_the_app_goes_on(memory):
    gate = asyncio.Event()

    async def app(scope, receive, send):
        await send(started())
        await send(part(b"first"))
        await gate.wait()
        await send(last(b"second"))

    conversation = surface_of(app, memory).conversation().start()
    await until(lambda: conversation.answer.body == b"first")
    gate.set()
    assert (await conversation.end()).ok().body == b"firstsecond"


@pytest.mark.row(79)
async def test_the_chunk_that_reaches_the_declared_length_settles(memory):
    """The client may regard the body as whole then, even if the app sends more messages."""
    gate = asyncio.Event()

    async def app(scope, receive, send):
        await send(started((b"content-length", b"4")))
        await send(part(b"do"))
        await send(part(b"ne"))
        await gate.wait()
        await send(last())

    store = AroundLayer(memory)
    service = surface_of(app, store)
    conversation = service.conversation().start()
    await until(lambda: conversation.answer.body == b"done")
    assert store.calls == ["acquire", "complete"]
    assert (await service.request()).body == b"done"
    gate.set()
    assert (await conversation.end()).ok().body == b"done"


@pytest.mark.row(66, 79)
@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize(("status", "method"), [(204, "POST"), (304, "POST"), (200, "HEAD")])
async def test_the_start_of_a_bodiless_answer_waits_for_its_record(memory, status, method, fails):
    layer = AroundLayer(memory)

    async def app(scope, receive, send):
        await send({**started(), "status": status})
        await send(part(b""))
        assert conversation.answer.messages == []
        if fails:
            raise BROKEN
        await send(last())
        assert layer.calls == ["acquire", "complete"]

    service = surface_of(app, layer, http=HTTPConfig(methods=[method]))
    conversation = service.conversation(method=method)
    answer = await conversation.run()
    if fails:
        assert (answer.raised, answer.messages, layer.calls) == (BROKEN, [], ["acquire", "release"])
    else:
        assert answer.ok().types == ["http.response.start", "http.response.body"]
        assert (await service.request(method=method)).replayed


async def test_the_body_of_an_answer_to_head_is_not_held_in_memory(memory):
    sent = []

    async def app(scope, receive, send):
        await send(started())
        for number in range(3):
            body = bytes([number]) * 1000
            before = sys.getrefcount(body)
            await send(part(body))
            sent.append(sys.getrefcount(body) - before)
        await send(last())

    await surface_of(app, memory, http=HTTPConfig(methods=["HEAD"])).request(method="HEAD")
    assert sent == [0, 0, 0]


# A held last message.


@pytest.mark.row(45, 82)
async def test_a_held_last_message_is_sent_when_the_app_returns(memory, monkeypatch):
    monkeypatch.setattr(asgi_run, "HOLD_SECONDS", 60)
    layer = AroundLayer(memory)

    async def app(scope, receive, send):
        await send_stream(send, b"done")
        await turns(3)
        assert layer.calls == ["acquire"]

    assert (await surface_of(app, layer).request()).ok().body == b"done"
    assert layer.calls == ["acquire", "complete"]


@pytest.mark.row(45)
@pytest.mark.parametrize("later", [0, 1, 3, 10])
@pytest.mark.parametrize("chunks", [(b"part",), (b"pa", b"rt"), ()], ids=len)
async def test_a_last_message_followed_by_an_exception_frees_the_key(store, later, chunks):
    async def app(scope, receive, send):
        await send_stream(send, *chunks)
        await turns(later)
        raise BROKEN

    service = surface_of(app, store)
    answer = await service.request()
    assert answer.raised is BROKEN
    assert (answer.body, answer.ended) == (b"".join(chunks), False)
    assert await arecord_of(store) is None


@pytest.mark.row(45)
async def test_an_exception_after_the_last_message_frees_the_key_although_the_loop_was_blocked(memory):
    """A blocked loop runs no iteration, so the app has had no chance to raise before the hold's time is over."""
    layer = AroundLayer(memory)

    async def app(scope, receive, send):
        await send_stream(send, b"part")
        asyncio.get_running_loop().call_soon(time.sleep, HOLD_SECONDS * 1.5)
        await turns(10)
        raise BROKEN

    service = surface_of(app, layer)
    assert (await service.request()).raised is BROKEN
    assert layer.calls == ["acquire", "release"]


@pytest.mark.row(45)
@pytest.mark.parametrize("before", [5, HOLD_TURNS + 20], ids=["quick", "slow"])
async def test_an_exception_in_the_loop_iteration_in_which_the_hold_ends_settles_once(memory, before):
    """The timer has fired and created its task, which has not run yet."""
    layer = SlowLayer(memory, before=before)

    async def app(scope, receive, send):
        await send_stream(send, b"part")
        fired = asyncio.Event()
        # Due a moment later than the hold's timer, and therefore called right after it.
        asyncio.get_running_loop().call_later(HOLD_SECONDS, fired.set)
        await fired.wait()
        raise BROKEN

    service = surface_of(app, layer)
    assert (await service.request()).raised is BROKEN
    await turns(HOLD_TURNS + 30)
    assert layer.calls == ["acquire", "release"]
    assert await arecord_of(layer) is None


@pytest.mark.row(45)
async def test_a_return_while_the_hold_ends_settles_once(memory):
    layer = SlowLayer(memory)

    async def app(scope, receive, send):
        await send_stream(send, b"done")
        fired = asyncio.Event()
        asyncio.get_running_loop().call_later(HOLD_SECONDS, fired.set)
        await fired.wait()

    service = surface_of(app, layer)
    assert (await service.request()).ok().body == b"done"
    await turns(HOLD_TURNS + 30)
    assert layer.calls == ["acquire", "complete"]


@pytest.mark.row(45, 82)
@pytest.mark.parametrize("error", [None, BROKEN], ids=["slow", "failing"])
async def test_a_client_does_not_wait_for_a_background_task_and_a_retry_is_replayed(memory, error):
    gate = asyncio.Event()

    async def app(scope, receive, send):
        await send_stream(send, b"done")
        await gate.wait()
        if error is not None:
            raise error

    service = surface_of(app, memory)
    began = time.monotonic()
    conversation = service.conversation().start()
    await until(lambda: conversation.answer.ended)
    assert time.monotonic() - began >= HOLD_SECONDS
    assert (await service.request()).replayed
    gate.set()
    assert (await conversation.end()).raised is error
    assert (await service.request()).body == b"done"
    assert service.runs == 1


@pytest.mark.row(82)
@pytest.mark.parametrize("error", [None, BROKEN], ids=["slow", "failing"])
async def test_an_answer_of_declared_length_is_sent_before_a_background_task_begins(memory, error):
    gate = asyncio.Event()

    async def app(scope, receive, send):
        await perform(send, Play(200, ((b"content-length", b"4"),)))
        await gate.wait()
        if error is not None:
            raise error

    service = surface_of(app, memory)
    conversation = service.conversation().start()
    await until(lambda: conversation.answer.ended)
    assert (await service.request()).replayed
    gate.set()
    assert (await conversation.end()).raised is error


@pytest.mark.row(45)
@pytest.mark.parametrize("ending", [None, BROKEN], ids=["return", "exception"])
async def test_an_app_that_ends_while_its_held_end_is_settled_waits_until_it_is_sent(memory, ending):
    layer = GatedLayer(memory, "complete")

    async def app(scope, receive, send):
        await send_stream(send, b"done")
        await layer.reached.wait()
        asyncio.get_running_loop().call_later(0.01, layer.gate.set)
        if ending is not None:
            raise ending

    service = surface_of(app, layer)
    answer = await service.request()
    assert answer.raised is ending
    assert (answer.body, answer.ended) == (b"done", True)
    assert layer.calls == ["acquire", "complete"]


async def test_an_error_of_the_server_for_a_held_message_is_raised_by_the_apps_call(memory):
    """The timer settled the answer, so no `send` of the app can raise the server's error."""
    layer = GatedLayer(memory, "complete")

    async def refuse(message):
        if message["type"] == "http.response.body" and not message.get("more_body"):
            raise ProtocolError("no")

    async def app(scope, receive, send):
        await send_stream(send, b"done")
        await layer.reached.wait()
        layer.gate.set()

    answer = await surface_of(app, layer).request(before_send=refuse)
    assert isinstance(answer.raised, ProtocolError)


# A store that is slow to settle.


@pytest.mark.row(51)
@on_virtual_time
async def test_a_heartbeat_due_while_the_record_is_completed_reports_no_lost_claim(memory, caplog):
    class SlowToSettle(AroundLayer):
        async def _call(self, verb, *arguments):
            answer = await super()._call(verb, *arguments)
            if verb == "complete":
                await asyncio.sleep(0.05)  # five heartbeats are due meanwhile
            return answer

    layer = SlowToSettle(memory)
    service = ASGISurface(layer, config=IdempotencyConfig(lease_seconds=0.03))
    caplog.clear()  # what was logged when the middleware was built
    assert (await service.request()).ok().status == 200
    assert (layer.calls, caplog.text) == (["acquire", "complete"], "")
