"""Rows 73 to 85 and 88: what is exact about ASGI, and where an app uses it in unusual ways."""

import asyncio
import sys
import time

import pytest

from idempotency_mw import HTTPConfig, IdempotencyConfig
from idempotency_mw.asgi import IdempotencyMiddleware
from idempotency_mw.asgi import run as asgi_run
from idempotency_mw.asgi.run import HOLD_SECONDS, HOLD_TURNS
from tests.asgi.driver import (
    ASGISurface,
    Conversation,
    Play,
    ProtocolError,
    ask,
    perform,
    turns,
    until,
    whole_body,
)
from tests.asgi.layers import AroundLayer, FailingLayer, GatedLayer, SlowLayer
from tests.asgi.test_machine import BROKEN, NO_HEARTBEAT, arecord_of

START = {"type": "http.response.start", "status": 200, "headers": []}


def part(body: bytes) -> dict:
    return {"type": "http.response.body", "body": body, "more_body": True}


def last(body: bytes = b"") -> dict:
    return {"type": "http.response.body", "body": body, "more_body": False}


def started(*headers: tuple[bytes, bytes]) -> dict:
    return {**START, "headers": list(headers)}


def surface_of(app, store, **options) -> ASGISurface:
    """Return a surface over an ASGI app, instead of over a play."""
    service = ASGISurface(store, **options)

    async def counted(scope, receive, send):
        service.runs += 1
        await app(scope, receive, send)

    service.app.app = counted
    return service


# What the app receives.

BODIES = {
    "one": [{"type": "http.request", "body": b"abc", "more_body": False}],
    "several": [
        {"type": "http.request", "body": b"a", "more_body": True},
        {"type": "http.request", "body": b"", "more_body": True},
        {"type": "http.request", "more_body": True},
        {"type": "http.request", "body": b"bc", "more_body": True},
        {"type": "http.request"},
    ],
    "no more_body": [{"type": "http.request", "body": b"abc"}],
    "none": [{"type": "http.request"}],
}


@pytest.mark.row(73)
@pytest.mark.parametrize("key", ["k", None], ids=["keyed", "unkeyed"])
@pytest.mark.parametrize("messages", BODIES.values(), ids=BODIES)
async def test_the_app_sees_the_same_bytes_however_they_came(memory, messages, key):
    seen = []
    service = ASGISurface(memory, Play(seen=seen.append))
    (await service.request(messages, key=key)).ok()
    assert seen == [b"".join(message.get("body", b"") for message in messages)]


@pytest.mark.row(73)
async def test_the_split_of_a_body_is_not_part_of_the_fingerprint(memory):
    service = ASGISurface(memory)
    await service.request(BODIES["one"])
    assert (await service.request(BODIES["several"])).replayed


@pytest.mark.row(74)
@pytest.mark.parametrize("key", ["k", None], ids=["keyed", "unkeyed"])
async def test_receive_after_the_body_blocks_until_the_answer_is_out(memory, key):
    told = []

    async def app(scope, receive, send):
        await whole_body(receive)
        listening = asyncio.ensure_future(receive())
        await send(started())
        await send(part(b"a"))
        await turns(20)
        told.append(listening.done())
        await send(last(b"b"))
        told.append((await listening)["type"])

    answer = (await surface_of(app, memory).request(key=key)).ok()
    assert answer.body == b"ab"
    assert told == [False, "http.disconnect"]


@pytest.mark.row(74, 76)
@pytest.mark.fault(11)
async def test_a_keyed_app_is_not_told_that_its_client_has_gone(memory):
    told = []

    async def app(scope, receive, send):
        await whole_body(receive)
        listening = asyncio.ensure_future(receive())
        await send(started())
        await send(part(b"a"))
        await turns(20)
        told.append(listening.done())
        await send(last(b"b"))
        told.append((await listening)["type"])

    service = surface_of(app, memory)
    conversation = service.conversation(gone_after=1)
    await conversation.run()
    assert told == [False, "http.disconnect"]
    assert (await service.request()).ok().body == b"ab"
    assert service.runs == 1


@pytest.mark.row(75)
@pytest.mark.parametrize("key", ["k", '"', None])
@pytest.mark.parametrize("read", [0, 1])
async def test_a_client_that_goes_while_its_body_is_read_gets_nothing_and_nothing_runs(memory, read, key):
    store = AroundLayer(memory)
    service = ASGISurface(store, config=IdempotencyConfig(event_key_jmespath="key"))
    messages = [{"type": "http.request", "body": b"{", "more_body": True}][:read]
    headers = [("content-type", "application/json")]
    conversation = service.conversation([*messages, {"type": "http.disconnect"}], key=key, headers=headers)
    answer = await conversation.run()
    if key == '"':
        assert answer.slug == "key-invalid"
    else:
        assert (answer.raised, answer.messages) == (None, [])
    assert (service.runs, store.calls) == (0, [])


# A client that goes.

STREAM = Play(200, (), tuple(b"%d" % number for number in range(6)))
DECLARED = Play(200, ((b"content-length", b"6"),), STREAM.chunks)


@pytest.mark.row(76)
@pytest.mark.fault(11)
@pytest.mark.parametrize("on_gone", ["silent", "raise"])
@pytest.mark.parametrize("play", [STREAM, DECLARED, Play()], ids=["stream", "declared", "one message"])
async def test_the_app_runs_to_its_end_whenever_its_client_goes(memory, store, play, on_gone):
    for sent in range(len(play.chunks) + 1):
        service = ASGISurface(store, play)
        conversation = service.conversation(key=f"k-{sent}", gone_after=sent, on_gone=on_gone)
        if sent == 0:
            conversation.disconnect()
        answer = await conversation.run()
        assert answer.raised is None
        assert len(answer.messages) == sent
        retry = (await service.request(key=f"k-{sent}")).ok()
        assert (retry.body, retry.replayed, service.runs) == (b"".join(play.chunks), True, 1)


@pytest.mark.row(76)
@pytest.mark.parametrize("on_gone", ["silent", "raise"])
async def test_a_client_gone_while_the_app_runs_changes_nothing(memory, on_gone):
    gate = asyncio.Event()
    service = ASGISurface(memory, Play(waits_for=gate))
    conversation = service.conversation(on_gone=on_gone).start()
    await until(lambda: service.runs)
    conversation.disconnect()
    await turns(5)
    gate.set()
    assert (await conversation.end()).messages == []
    assert (await service.request()).replayed


# Streams.


@pytest.mark.row(79)
@pytest.mark.parametrize("play", [STREAM, DECLARED], ids=["undeclared", "declared"])
async def test_a_stream_goes_out_as_it_comes_and_its_record_precedes_its_end(memory, play):
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
async def test_the_first_bytes_of_a_stream_are_out_before_the_app_goes_on(memory):
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
async def test_a_declared_length_settles_at_the_chunk_that_reaches_it(memory):
    """The client may take it for whole then, whatever more the app sends."""
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
async def test_the_head_of_a_bodiless_answer_is_whole_and_waits_for_its_record(memory, status, method, fails):
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


async def test_the_body_of_a_head_is_not_held_in_memory(memory):
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


# The hold of a last message.


@pytest.mark.row(45, 82)
async def test_a_held_end_goes_out_when_the_app_returns(memory, monkeypatch):
    monkeypatch.setattr(asgi_run, "HOLD_SECONDS", 60)
    layer = AroundLayer(memory)

    async def app(scope, receive, send):
        await send(started())
        await send(part(b"done"))
        await send(last())
        await turns(3)
        assert layer.calls == ["acquire"]

    assert (await surface_of(app, layer).request()).ok().body == b"done"
    assert layer.calls == ["acquire", "complete"]


@pytest.mark.row(45)
@pytest.mark.parametrize("later", [0, 1, 3, 10])
@pytest.mark.parametrize("chunks", [(b"part",), (b"pa", b"rt"), ()], ids=len)
async def test_a_false_end_followed_by_an_exception_is_released(store, later, chunks):
    async def app(scope, receive, send):
        await send(started())
        for chunk in chunks:
            await send(part(chunk))
        await send(last())
        await turns(later)
        raise BROKEN

    service = surface_of(app, store)
    answer = await service.request()
    assert answer.raised is BROKEN
    assert (answer.body, answer.ended) == (b"".join(chunks), False)
    assert await arecord_of(store) is None


@pytest.mark.row(45)
async def test_a_false_end_is_released_although_the_loop_was_blocked_longer_than_the_hold(memory):
    """No turn passes while the loop is blocked, so that the exception had no time to come."""
    layer = AroundLayer(memory)

    async def app(scope, receive, send):
        await send(started())
        await send(part(b"part"))
        await send(last())
        asyncio.get_running_loop().call_soon(time.sleep, HOLD_SECONDS * 1.5)
        await turns(10)
        raise BROKEN

    service = surface_of(app, layer)
    assert (await service.request()).raised is BROKEN
    assert layer.calls == ["acquire", "release"]


@pytest.mark.row(45)
@pytest.mark.parametrize("before", [5, HOLD_TURNS + 20], ids=["quick", "slow"])
async def test_an_exception_in_the_very_turn_in_which_the_hold_ends_settles_once(memory, before):
    """The timer has fired, its task exists, and has not run yet."""
    layer = SlowLayer(memory, before=before)

    async def app(scope, receive, send):
        await send(started())
        await send(part(b"part"))
        await send(last())
        fired = asyncio.Event()
        # Set for a moment later than the hold's timer, and therefore called right after it.
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
        await send(started())
        await send(part(b"done"))
        await send(last())
        fired = asyncio.Event()
        asyncio.get_running_loop().call_later(HOLD_SECONDS, fired.set)
        await fired.wait()

    service = surface_of(app, layer)
    assert (await service.request()).ok().body == b"done"
    await turns(HOLD_TURNS + 30)
    assert layer.calls == ["acquire", "complete"]


@pytest.mark.row(45, 82)
@pytest.mark.parametrize("error", [None, BROKEN], ids=["slow", "failing"])
async def test_a_client_does_not_wait_for_a_background_task_and_a_retry_replays(memory, error):
    gate = asyncio.Event()

    async def app(scope, receive, send):
        await send(started())
        await send(part(b"done"))
        await send(last())
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
async def test_a_whole_answer_is_out_before_a_background_task_begins(memory, error):
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
async def test_an_app_that_ends_while_the_held_answer_is_being_settled_lets_it_out_first(memory, ending):
    layer = GatedLayer(memory, "complete")

    async def app(scope, receive, send):
        await send(started())
        await send(part(b"done"))
        await send(last())
        await layer.reached.wait()
        asyncio.get_running_loop().call_later(0.01, layer.gate.set)
        if ending is not None:
            raise ending

    service = surface_of(app, layer)
    answer = await service.request()
    assert answer.raised is ending
    assert (answer.body, answer.ended) == (b"done", True)
    assert layer.calls == ["acquire", "complete"]


async def test_what_the_server_says_of_a_held_message_reaches_the_app_call(memory):
    """Settled by the timer, its error has no `send` of the app to come out of."""
    layer = GatedLayer(memory, "complete")

    async def refuse(message):
        if message["type"] == "http.response.body" and not message.get("more_body"):
            raise ProtocolError("no")

    async def app(scope, receive, send):
        await send(started())
        await send(part(b"done"))
        await send(last())
        await layer.reached.wait()
        layer.gate.set()

    answer = await surface_of(app, layer).request(before_send=refuse)
    assert isinstance(answer.raised, ProtocolError)


# Apps that break the protocol, or use several tasks.


async def test_a_second_start_is_refused_as_a_server_would(store):
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
async def test_a_body_before_the_start_is_refused_as_a_server_would(store, on_error):
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
async def test_what_is_sent_after_a_held_end_neither_frees_it_nor_is_stored(memory, extra):
    layer = AroundLayer(memory)
    ended_early = []

    async def app(scope, receive, send):
        await send(started())
        await send(part(b"done"))
        await send(last())
        await send(extra)
        ended_early.append(conversation.answer.ended)

    service = surface_of(app, layer)
    conversation = service.conversation()
    answer = await conversation.run()
    assert ended_early == [False]
    assert isinstance(answer.raised, ProtocolError)  # the server's word on the extra message
    assert (answer.body, answer.ended) == (b"done", True)
    assert (await service.request()).body == b"done"


async def test_what_is_sent_after_a_settled_end_is_the_servers_to_judge(memory):
    async def app(scope, receive, send):
        await perform(send, Play(200, ((b"content-length", b"4"),)))
        await send(last(b"more"))

    service = surface_of(app, memory)
    answer = await service.request()
    assert isinstance(answer.raised, ProtocolError)
    assert (await service.request()).body == b"done"


@pytest.mark.row(79)
async def test_a_message_of_another_task_does_not_overtake_the_settling(memory):
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
async def test_an_app_that_returns_while_its_task_still_sends_is_waited_for(memory):
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
async def test_ways_of_sending_a_body_past_us_are_hidden_from_keyed_requests_only(memory, key):
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
async def test_other_extensions_are_the_servers(memory, extensions):
    seen = []

    async def app(scope, receive, send):
        seen.append(scope.get("extensions"))
        await perform(send, Play())

    await surface_of(app, memory).request(extensions=extensions)
    assert seen == [extensions]


@pytest.mark.row(81)
async def test_other_messages_pass_in_their_place_and_are_not_stored(store):
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
async def test_an_early_hint_is_no_part_of_the_answer_so_that_a_late_owner_still_gets_the_winners(memory, clock):
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


# Where it is mounted.


@pytest.mark.row(83)
@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (("/api/pay", "/api"), ("/pay", "/api"), True),
        (("/api/pay", "/api/"), ("/pay", "/api/"), True),
        (("/api/pay", "/api/"), ("/pay", "/api"), True),
        (("/api/pay", ""), ("/pay", "/api"), True),
        (("/api", "/api"), ("/api", ""), True),
        (("/apiary", "/api"), ("/api/apiary", ""), True),
        (("/pay", "/a"), ("/pay", "/b"), False),
        (("/pay", ""), ("/pay", "/a"), False),
        (("/p\u00e4y", "/\u00e4"), ("/\u00e4/p\u00e4y", ""), True),
    ],
)
async def test_the_prefix_of_a_mount_counts_once_whether_the_path_has_it_or_not(memory, one, other, same):
    service = ASGISurface(memory)
    await service.request(path=one[0], root_path=one[1])
    assert (await service.request(path=other[0], root_path=other[1])).replayed is same


@pytest.mark.row(83)
async def test_a_server_may_leave_the_root_path_out(memory):
    conversation = ASGISurface(memory).conversation()
    del conversation.scope["root_path"]
    del conversation.scope["query_string"]
    assert (await conversation.run()).ok().status == 200


@pytest.mark.row(84)
@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (b"a=1&b=2", b"b=2&a=1", True),
        (b"a=1&a=2", b"a=2&a=1", False),
        (b"a=1&b=2&a=3", b"b=2&a=1&a=3", True),
        (b"a=%31", b"a=1", True),
        (b"a", b"a=", True),
        (b"", b"a=1", False),
    ],
)
async def test_the_order_of_names_in_a_query_does_not_count_and_that_of_values_does(memory, one, other, same):
    service = ASGISurface(memory)
    await service.request(query=one)
    retry = await service.request(query=other)
    assert retry.replayed if same else retry.slug == "key-reused"


def multipart(boundary: str, value: bytes = b"1") -> dict:
    text = boundary.encode()
    body = b"--%b\r\nContent-Disposition: form-data; name=a\r\n\r\n%b\r\n--%b--\r\n" % (text, value, text)
    return {"body": body, "headers": [("content-type", f'multipart/form-data; boundary="{boundary}"')]}


@pytest.mark.row(88)
async def test_a_multipart_retry_with_a_new_boundary_is_the_same_request(memory):
    service = ASGISurface(memory)
    await service.request(**multipart("first"))
    assert (await service.request(**multipart("second-and-longer"))).replayed
    assert (await service.request(**multipart("third", b"2"))).slug == "key-reused"


# Construction, and another loop than asyncio's.


def test_under_trio_a_keyed_request_is_a_configuration_error(memory):
    import trio

    from idempotency_mw.errors import IdempotencyConfigurationError

    async def app(scope, receive, send):
        seen.append(scope)

    seen = []
    middleware = IdempotencyMiddleware(app, persistence_store=memory)
    scope = {"type": "http", "method": "POST", "path": "/", "headers": [(b"idempotency-key", b"k")]}
    with pytest.raises(IdempotencyConfigurationError, match="asyncio"):
        trio.run(middleware, scope, None, None)
    assert seen == []
    trio.run(middleware, {**scope, "headers": []}, None, None)
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"persistence_store": object()}, "persistence_store"),
        ({"persistence_store": None}, "persistence_store"),
        ({"config": {}}, "config"),
        ({"http": "no"}, "http"),
        ({"http": HTTPConfig(header=None)}, "event_key_jmespath"),
    ],
)
def test_an_option_that_cannot_be_meant_is_told_at_construction(memory, options, match):
    from idempotency_mw.errors import IdempotencyConfigurationError

    with pytest.raises(IdempotencyConfigurationError, match=match):
        IdempotencyMiddleware(None, **{"persistence_store": memory, **options})


def test_hooks_need_starlette_and_say_so(memory, monkeypatch):
    import sys

    from idempotency_mw.errors import IdempotencyConfigurationError

    monkeypatch.setitem(sys.modules, "starlette.requests", None)
    IdempotencyMiddleware(None, persistence_store=memory)
    for http in (HTTPConfig(caller=str), lambda request: None):
        with pytest.raises(IdempotencyConfigurationError, match="asgi"):
            IdempotencyMiddleware(None, persistence_store=memory, http=http)


async def test_a_resolver_that_returns_something_else_is_a_configuration_error(memory):
    from idempotency_mw.errors import IdempotencyConfigurationError

    service = ASGISurface(memory, http=lambda request: "no")
    answer = await service.request()
    assert isinstance(answer.raised, IdempotencyConfigurationError)
    assert service.runs == 0


# The last message of a run that nobody waits for any more.


async def test_a_task_that_outlives_its_app_cannot_add_to_a_settled_record(memory):
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


@pytest.mark.row(104)
async def test_an_exception_that_a_layer_should_not_raise_costs_nobody_the_answer_and_leaves_the_claim(memory):
    layer = FailingLayer(memory, "complete", error=lambda: KeyError("a bug"))
    service = ASGISurface(layer, config=NO_HEARTBEAT)
    assert (await service.request()).ok().body == b"done"
    assert (await service.request()).slug == "in-progress"


@pytest.mark.row(85)
async def test_the_answer_of_the_driver_itself_is_checked():
    """The driver refuses what a server refuses; else nothing above could fail."""

    async def twice(scope, receive, send):
        await perform(send, Play())
        await perform(send, Play())

    assert isinstance((await ask(twice)).raised, ProtocolError)
    assert isinstance((await Conversation(twice, method="HEAD").run()).raised, AssertionError)


# While the store is slow to settle.


@pytest.mark.row(51)
async def test_a_beat_that_is_due_while_the_record_is_completed_reports_no_lost_claim(memory, caplog):
    class SlowToSettle(AroundLayer):
        async def _call(self, verb, *arguments):
            answer = await super()._call(verb, *arguments)
            if verb == "complete":
                await asyncio.sleep(0.05)  # five beats
            return answer

    layer = SlowToSettle(memory)
    service = ASGISurface(layer, config=IdempotencyConfig(lease_seconds=0.03))
    caplog.clear()
    assert (await service.request()).ok().status == 200
    assert (layer.calls, caplog.text) == (["acquire", "complete"], "")
