"""Rows 79 to 81: apps that break the protocol, apps of several tasks, and messages that are not the answer."""

import asyncio

import pytest

from idempotency_mw import IdempotencyConfig
from tests.asgi.driver import Conversation, Play, ProtocolError, ask, perform, turns, until
from tests.asgi.layers import AroundLayer, GatedLayer
from tests.asgi.scenario import NO_HEARTBEAT, arecord_of, last, part, send_stream, started, surface_of

# Apps that break the protocol, or use several tasks.


async def test_a_second_start_is_refused_as_by_a_server(store):
    async def app(scope, receive, send):
        await send(started())
        await send(part(b"a"))
        await send(started((b"content-length", b"2")))
        await send(last(b"b"))

    answer = await surface_of(app, store).request()
    assert isinstance(answer.raised, RuntimeError)
    assert answer.body == b"a"
    assert await arecord_of(store) is None


@pytest.mark.parametrize("on_error", ["release", "store"])
async def test_a_body_before_the_start_is_refused_as_by_a_server(store, on_error):
    async def app(scope, receive, send):
        await send(last(b"a"))

    service = surface_of(app, store, config=IdempotencyConfig(on_error=on_error))
    answer = await service.request()
    assert isinstance(answer.raised, RuntimeError)
    assert answer.messages == []
    if on_error == "store":
        assert (await service.request()).slug == "execution-failed"
    else:
        assert await arecord_of(store) is None


@pytest.mark.row(45, 79)
@pytest.mark.parametrize("extra", [part(b"more"), last(b"more"), last()], ids=["part", "last", "empty"])
async def test_a_message_after_a_held_end_does_not_let_the_end_out_and_is_not_stored(memory, extra):
    layer = AroundLayer(memory)
    ended_early = []

    async def app(scope, receive, send):
        await send_stream(send, b"done")
        await send(extra)
        ended_early.append(conversation.answer.ended)

    service = surface_of(app, layer)
    conversation = service.conversation()
    answer = await conversation.run()
    assert ended_early == [False]
    assert isinstance(answer.raised, ProtocolError)  # what the server raises for the extra message
    assert (answer.body, answer.ended) == (b"done", True)
    assert (await service.request()).body == b"done"


async def test_a_message_after_a_settled_end_is_passed_to_the_server(memory):
    async def app(scope, receive, send):
        await perform(send, Play(200, ((b"content-length", b"4"),)))
        await send(last(b"more"))

    service = surface_of(app, memory)
    answer = await service.request()
    assert isinstance(answer.raised, ProtocolError)
    assert (await service.request()).body == b"done"


@pytest.mark.row(79)
async def test_a_message_from_another_task_does_not_overtake_the_settling(memory):
    layer = GatedLayer(memory, "complete")

    async def app(scope, receive, send):
        await send(started((b"content-length", b"4")))
        first = asyncio.ensure_future(send(part(b"done")))
        await layer.reached.wait()
        second = asyncio.ensure_future(send(last()))
        await turns(5)
        assert conversation.answer.messages == []
        layer.gate.set()
        await asyncio.gather(first, second)

    conversation = surface_of(app, layer).conversation()
    answer = (await conversation.run()).ok()
    assert [message.get("body") for message in answer.messages] == [None, b"done", b""]


@pytest.mark.row(79)
async def test_the_settling_waits_for_a_task_that_still_sends_after_the_app_returned(memory):
    layer = GatedLayer(memory, "complete")
    sending = []

    async def app(scope, receive, send):
        await send(started((b"content-length", b"4")))
        sending.append(asyncio.ensure_future(send(last(b"done"))))
        await layer.reached.wait()
        asyncio.get_running_loop().call_later(0.01, layer.gate.set)

    service = surface_of(app, layer)
    assert (await service.request()).ok().body == b"done"
    assert layer.calls == ["acquire", "complete"]


async def test_messages_sent_from_many_tasks_keep_their_order(store):
    async def app(scope, receive, send):
        await send(started())
        async with asyncio.TaskGroup() as group:
            for number in range(10):
                group.create_task(send(part(b"%d" % number)))
        await send(last())

    service = surface_of(app, store)
    assert (await service.request(before_send=lambda _: turns(3))).ok().body == b"0123456789"
    assert (await service.request()).body == b"0123456789"


# Messages that are not the answer.


@pytest.mark.row(80)
@pytest.mark.parametrize("key", ["k", None], ids=["keyed", "unkeyed"])
async def test_extensions_that_bypass_the_capture_are_hidden_from_keyed_requests_only(memory, key):
    offered = {"http.response.pathsend": {}, "http.response.zerocopysend": {}, "http.response.push": {"a": 1}}
    seen = []

    async def app(scope, receive, send):
        seen.append(scope["extensions"])
        await perform(send, Play())

    conversation = surface_of(app, memory).conversation(key=key, extensions=offered)
    await conversation.run()
    assert seen == [offered if key is None else {"http.response.push": {"a": 1}}]
    assert len(conversation.scope["extensions"]) == 3


@pytest.mark.row(80)
@pytest.mark.parametrize("extensions", [None, {}, {"tls": {}}], ids=["absent", "none", "others"])
async def test_other_extensions_are_left_as_the_server_gave_them(memory, extensions):
    seen = []

    async def app(scope, receive, send):
        seen.append(scope.get("extensions"))
        await perform(send, Play())

    await surface_of(app, memory).request(extensions=extensions)
    assert seen == [extensions]


@pytest.mark.row(81)
async def test_other_messages_keep_their_place_and_are_not_stored(store):
    hint = {"type": "http.response.early_hint", "links": [b"</a.css>"]}
    push = {"type": "http.response.push", "path": "/a", "headers": []}
    debug = {"type": "http.response.debug", "info": {}}
    trailers = {"type": "http.response.trailers", "headers": [(b"x-sum", b"1")]}
    unknown = {"type": "http.response.tomorrow"}

    async def app(scope, receive, send):
        for message in (
            debug,
            hint,
            {**started(), "trailers": True},
            push,
            part(b"do"),
            unknown,
            last(b"ne"),
            trailers,
        ):
            await send(message)

    service = surface_of(app, store)
    answer = (await service.request()).ok()
    assert answer.types == [
        "http.response.debug",
        "http.response.early_hint",
        "http.response.start",
        "http.response.push",
        "http.response.body",
        "http.response.tomorrow",
        "http.response.body",
        "http.response.trailers",
    ]
    assert answer.messages[2]["trailers"] is True
    retry = (await service.request()).ok()
    assert retry.types == ["http.response.start", "http.response.body"]
    assert (retry.body, retry.all("x-sum")) == (b"done", [])
    assert "trailers" not in retry.messages[0]


@pytest.mark.row(50, 81)
async def test_a_late_owner_that_has_sent_only_an_early_hint_gets_the_winners_replay(memory, clock):
    gate = asyncio.Event()

    async def app(scope, receive, send):
        await send({"type": "http.response.early_hint", "links": []})
        if service.runs == 1:
            await gate.wait()
        await perform(send, Play(chunks=(b"%d" % service.runs,)))

    service = surface_of(app, memory, config=NO_HEARTBEAT)
    owner = service.conversation().start()
    await until(lambda: owner.answer.messages)
    clock.advance(31)
    await service.request()
    gate.set()
    answer = (await owner.end()).ok()
    assert (answer.body, answer.replayed) == (b"2", True)


# A task that outlives its app.


async def test_a_task_that_outlives_its_app_can_not_add_to_a_settled_record(memory):
    left = []

    async def app(scope, receive, send):
        async def later():
            await turns(5)
            await send(last(b"late"))

        await send(started())
        await send(part(b"part"))
        left.append(asyncio.ensure_future(later()))

    layer = AroundLayer(memory)
    service = surface_of(app, layer)
    await service.request()
    await asyncio.gather(*left)
    assert layer.calls == ["acquire", "release"]
    assert await arecord_of(layer) is None


@pytest.mark.row(85)
async def test_the_driver_refuses_an_app_that_breaks_the_protocol():
    """The driver refuses what a server refuses; otherwise the tests above could not fail."""

    async def twice(scope, receive, send):
        await perform(send, Play())
        await perform(send, Play())

    assert isinstance((await ask(twice)).raised, ProtocolError)
    assert isinstance((await Conversation(twice, method="HEAD").run()).raised, AssertionError)
