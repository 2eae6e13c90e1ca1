"""Rows 73 to 76: what the app receives, and a client that disconnects."""

import asyncio

import pytest

from idempotency_mw import IdempotencyConfig
from tests.asgi.driver import ASGISurface, Play, turns, until, whole_body
from tests.asgi.layers import AroundLayer
from tests.asgi.scenario import DECLARED, STREAM, last, part, started, surface_of

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
async def test_the_app_receives_the_same_bytes_however_they_were_split(memory, messages, key):
    seen = []
    service = ASGISurface(memory, Play(seen=seen.append))
    (await service.request(messages, key=key)).ok()
    assert seen == [b"".join(message.get("body", b"") for message in messages)]


@pytest.mark.row(73)
async def test_the_split_of_a_body_is_not_part_of_the_fingerprint(memory):
    service = ASGISurface(memory)
    await service.request(BODIES["one"])
    assert (await service.request(BODIES["several"])).replayed


def listening_app(told):
    """An app that calls `receive` while it answers; it tells whether that returned before the end, and what."""

    async def app(scope, receive, send):
        await whole_body(receive)
        listening = asyncio.ensure_future(receive())
        await send(started())
        await send(part(b"a"))
        await turns(20)
        told.append(listening.done())
        await send(last(b"b"))
        told.append((await listening)["type"])

    return app


@pytest.mark.row(74)
@pytest.mark.parametrize("key", ["k", None], ids=["keyed", "unkeyed"])
async def test_receive_after_the_body_blocks_until_the_answer_is_out(memory, key):
    told = []
    answer = (await surface_of(listening_app(told), memory).request(key=key)).ok()
    assert answer.body == b"ab"
    assert told == [False, "http.disconnect"]


@pytest.mark.row(74, 76)
@pytest.mark.fault(11)
async def test_the_app_of_a_keyed_request_is_not_told_that_its_client_has_gone(memory):
    told = []
    service = surface_of(listening_app(told), memory)
    conversation = service.conversation(gone_after=1)
    await conversation.run()
    assert told == [False, "http.disconnect"]
    assert (await service.request()).ok().body == b"ab"
    assert service.runs == 1


@pytest.mark.row(75)
@pytest.mark.parametrize("key", ["k", '"', None])
@pytest.mark.parametrize("read", [0, 1])
async def test_a_client_that_disconnects_while_its_body_is_read_starts_no_run(memory, read, key):
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


# A client that disconnects.


@pytest.mark.row(76)
@pytest.mark.fault(11)
@pytest.mark.parametrize("on_gone", ["silent", "raise"])
@pytest.mark.parametrize("play", [STREAM, DECLARED, Play()], ids=["stream", "declared", "one message"])
async def test_the_app_runs_to_its_end_whenever_its_client_disconnects(memory, store, play, on_gone):
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
async def test_a_client_that_disconnects_while_the_app_runs_changes_nothing(memory, on_gone):
    gate = asyncio.Event()
    service = ASGISurface(memory, Play(waits_for=gate))
    conversation = service.conversation(on_gone=on_gone).start()
    await until(lambda: service.runs)
    conversation.disconnect()
    await turns(5)
    gate.set()
    assert (await conversation.end()).messages == []
    assert (await service.request()).replayed
