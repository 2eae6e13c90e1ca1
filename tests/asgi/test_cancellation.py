"""Rows 77 and 78: the app's task is cancelled at any moment."""

import asyncio
import sys
from functools import partial

import anyio
import pytest

from idempotency_mw import HTTPConfig, IdempotencyConfig
from idempotency_mw.asgi.run import HOLD_SECONDS
from idempotency_mw.core.record import Status
from tests.asgi.driver import ASGISurface, Play, turns, until
from tests.asgi.layers import AroundLayer, FailingLayer, GatedLayer, HookedLayer, SlowLayer
from tests.asgi.scenario import BROKEN, NO_HEARTBEAT, arecord_of, send_stream, surface_of

DECLARED = Play(200, ((b"content-length", b"4"),))


async def cancelled(task: asyncio.Task, times: int = 1) -> None:
    """Cancel the task this many times, one loop iteration apart, and check that it ends as cancelled."""
    for _ in range(times):
        task.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 5)


@pytest.fixture(params=["anyio", "no anyio"])
def shield(request, monkeypatch):
    """With anyio, whose shielded scope is used, and without it."""
    if request.param == "no anyio":
        monkeypatch.setitem(sys.modules, "anyio", None)


@pytest.mark.row(77)
@pytest.mark.fault(12)
async def test_a_cancelled_run_is_not_released_and_its_lease_lapses(memory, clock):
    layer = AroundLayer(memory)
    gate = asyncio.Event()
    service = ASGISurface(layer, Play(waits_for=gate), config=IdempotencyConfig(lease_seconds=30))
    conversation = service.conversation().start()
    await until(lambda: service.runs)
    await cancelled(conversation.task)
    assert layer.calls == ["acquire"]
    assert (await service.request()).slug == "in-progress"
    clock.advance(30)
    gate.set()
    assert (await service.request()).ok().status == 200
    assert service.runs == 2


@pytest.mark.row(77)
@pytest.mark.fault(12)
async def test_a_cancelled_run_stops_its_heartbeat(memory):
    layer = AroundLayer(memory)
    service = ASGISurface(layer, Play(waits_for=asyncio.Event()), config=IdempotencyConfig(lease_seconds=0.03))
    conversation = service.conversation().start()
    await until(lambda: "extend" in layer.calls)
    await cancelled(conversation.task)
    layer.calls.clear()
    await asyncio.sleep(0.05)
    assert layer.calls == []


@pytest.mark.row(77)
@pytest.mark.fault(12)
@pytest.mark.parametrize("on_error", ["release", "store"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, asyncio.CancelledError, GeneratorExit])
def test_a_base_exception_leaves_the_claim_in_progress(memory, error, on_error):
    layer = AroundLayer(memory)

    async def go():
        service = ASGISurface(layer, Play(raises=error()), config=IdempotencyConfig(on_error=on_error))
        # Awaited here, not in a task: an interrupt in a task of its own would stop the event loop.
        with pytest.raises(error):
            await service.conversation().run()

    asyncio.run(go())
    assert layer.calls == ["acquire"]


@pytest.mark.row(77)
@pytest.mark.fault(12)
async def test_a_run_cancelled_while_its_last_message_is_held_stays_in_progress(memory):
    layer = AroundLayer(memory)

    async def app(scope, receive, send):
        await send_stream(send, b"part")
        held.set()
        await asyncio.Event().wait()

    held = asyncio.Event()
    conversation = surface_of(app, layer).conversation().start()
    await held.wait()
    await cancelled(conversation.task)
    await asyncio.sleep(HOLD_SECONDS * 1.5)
    assert layer.calls == ["acquire"]
    assert not conversation.answer.ended


PLAYS = {
    "declared": (DECLARED, Status.COMPLETED),
    "one-message": (Play(), Status.COMPLETED),
    "stream": (Play(chunks=(b"do", b"ne")), Status.COMPLETED),
    "tombstone": (Play(chunks=(b"x" * 30, b"y" * 30)), Status.NOT_KEPT),
    "error": (Play(500), None),
    "exception": (Play(raises=BROKEN), None),
    "stored-failure": (Play(raises=BROKEN, headers=()), Status.COMPLETED),
}


async def settling(layer: AroundLayer) -> None:
    await until(lambda: {"complete", "release"} & set(layer.calls))


@pytest.mark.row(78)
@pytest.mark.fault(13)
@pytest.mark.parametrize("times", [1, 2, 40])
@pytest.mark.parametrize("name", PLAYS)
async def test_a_cancellation_while_settling_is_raised_after_the_write(memory, shield, name, times):
    play, status = PLAYS[name]
    for moment in range(12):
        layer = SlowLayer(memory, verbs=("complete", "release"))
        config = IdempotencyConfig(on_error="store" if name == "stored-failure" else "release")
        service = ASGISurface(layer, play, config=config, http=HTTPConfig(max_response_body=50))
        conversation = service.conversation(key=f"{name}-{times}-{moment}").start()
        await settling(layer)
        await turns(moment)
        if conversation.task.done():
            break
        await cancelled(conversation.task, times)
        record = await arecord_of(layer)
        assert (record and record.status) is status
    else:
        raise AssertionError("the settling has more turns than the test cancels at")
    assert moment > 8


@pytest.mark.row(77, 78)
@pytest.mark.fault(12, 13)
@pytest.mark.parametrize("times", [1, 3])
async def test_a_cancellation_at_any_loop_iteration_leaves_no_half_written_record(memory, shield, times):
    """Before the settling begins the record stays in progress or the key free; from then on it is completed."""
    seen = set()
    for moment in range(80):
        layer = SlowLayer(memory)
        service = ASGISurface(layer, Play(chunks=(b"do", b"ne"), seen=lambda _: turns(5)))
        conversation = service.conversation(key=f"{times}-{moment}").start()
        await turns(moment)
        if conversation.task.done():
            break
        is_settling = "complete" in layer.calls
        await cancelled(conversation.task, times)
        record = await arecord_of(layer) if layer.claims else None
        if is_settling:
            assert record.status is Status.COMPLETED
            assert (await service.request(key=f"{times}-{moment}")).body == b"done"
        else:
            assert record is None or record.status is Status.IN_PROGRESS
        seen.add(record and record.status)
    assert conversation.task.done()
    assert seen == {None, Status.IN_PROGRESS, Status.COMPLETED}


@pytest.mark.row(78)
@pytest.mark.fault(13)
@pytest.mark.parametrize("name", ["declared", "stream", "tombstone", "error", "exception"])
async def test_an_anyio_scope_that_cancels_while_settling_does_not_stop_the_write(store, name):
    play, status = PLAYS[name]
    layer = GatedLayer(store, "complete", "release")
    service = ASGISurface(layer, play, http=HTTPConfig(max_response_body=50))
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:
            conversation = service.conversation()
            group.start_soon(conversation.run)
            await layer.reached.wait()
            asyncio.get_running_loop().call_later(0.02, layer.gate.set)
            scope.cancel()
    assert scope.cancelled_caught
    assert isinstance(conversation.answer.raised, asyncio.CancelledError)
    record = await arecord_of(layer)
    assert (record and record.status) is status


@pytest.mark.row(78)
@pytest.mark.fault(13)
@pytest.mark.parametrize("times", [1, 2, 10])
async def test_a_cancellation_while_a_real_store_writes_leaves_the_record(store, times):
    reached = asyncio.Event()
    service = ASGISurface(HookedLayer(store, complete=lambda _: reached.set()), DECLARED)
    conversation = service.conversation().start()
    await reached.wait()
    if conversation.task.done():  # memory: written in the same loop iteration
        return
    conversation.task.cancel()
    for _ in range(times - 1):
        await asyncio.sleep(0)
        conversation.task.cancel()
    await asyncio.wait([conversation.task], timeout=5)
    assert (await service.request()).replayed


@pytest.mark.row(78, 104)
@pytest.mark.fault(13, 15)
@pytest.mark.parametrize("name", ["declared", "exception"])
async def test_a_store_that_fails_during_a_cancelled_settling_is_reported(memory, caplog, name):
    verb = "complete" if name == "declared" else "release"
    gated = GatedLayer(memory, verb)
    layer = FailingLayer(gated, verb, applied=True)
    conversation = ASGISurface(layer, PLAYS[name][0]).conversation().start()
    await gated.reached.wait()
    conversation.task.cancel()
    await turns(3)
    gated.gate.set()
    with pytest.raises(asyncio.CancelledError):
        await conversation.task
    assert f"{verb} failed" in caplog.text


# While the end of an answer, held during a background task, is settled or sent.


def with_background(layer, *, ends=None):
    """An app whose held end is settled by the timer while its background task still runs."""

    async def app(scope, receive, send):
        await send_stream(send, b"done")
        await layer.reached.wait()
        if ends is not None:
            await ends()
        else:
            await asyncio.Event().wait()

    return app


async def broken() -> None:
    raise BROKEN


@pytest.mark.row(78, 82)
@pytest.mark.fault(13)
@pytest.mark.parametrize("times", [1, 2, 10])
@pytest.mark.parametrize("ends", [None, partial(turns, 1), broken], ids=["running", "returned", "raised"])
async def test_a_cancellation_while_the_timer_settles_does_not_stop_the_write(memory, shield, ends, times):
    layer = GatedLayer(memory, "complete")
    service = surface_of(with_background(layer, ends=ends), layer)
    conversation = service.conversation().start()
    await layer.reached.wait()
    await turns(5)
    asyncio.get_running_loop().call_later(0.02, layer.gate.set)
    await cancelled(conversation.task, times)
    assert (await arecord_of(layer)).status is Status.COMPLETED


@pytest.mark.row(78, 82)
@pytest.mark.parametrize("ends", [None, partial(turns, 1), broken], ids=["running", "returned", "raised"])
async def test_a_cancelled_run_does_not_wait_for_a_client_that_does_not_read(memory, ends):
    """The record is completed; a client that does not read must not delay the server's shutdown."""
    layer = GatedLayer(memory, "complete")
    layer.gate.set()
    stuck = asyncio.Event()

    async def never_read(message):
        if message["type"] == "http.response.body" and not message.get("more_body"):
            stuck.set()
            await asyncio.Event().wait()

    service = surface_of(with_background(layer, ends=ends), layer)
    conversation = service.conversation(before_send=never_read).start()
    await stuck.wait()
    await cancelled(conversation.task)
    assert (await service.request()).replayed


@pytest.mark.row(78)
async def test_an_anyio_scope_around_a_background_task_does_not_stop_the_write(memory):
    layer = GatedLayer(memory, "complete")
    service = surface_of(with_background(layer), layer)
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:
            group.start_soon(service.conversation().run)
            await layer.reached.wait()
            asyncio.get_running_loop().call_later(0.02, layer.gate.set)
            scope.cancel()
    assert (await arecord_of(layer)).status is Status.COMPLETED


# While acquiring, and while a refusal goes out.


@pytest.mark.row(77)
@pytest.mark.fault(4, 12)
async def test_a_cancellation_while_acquiring_leaves_no_claim(store):
    service = ASGISurface(store, config=NO_HEARTBEAT)
    for moment in range(6):
        conversation = service.conversation(key=f"a-{moment}").start()
        await turns(moment)
        if "acquire" in store.calls and service.runs:
            conversation.task.cancel()
            await asyncio.gather(conversation.task, return_exceptions=True)
            continue
        conversation.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await conversation.task
        if not store.claims:
            continue
        # The release after the acquire in doubt runs in the background; wait for it.
        async with asyncio.timeout(5):
            while (await service.request(key=f"a-{moment}")).status != 200:
                await asyncio.sleep(0.01)
        store.calls.clear()
        store.claims.clear()
        service.runs = 0


async def test_a_cancellation_while_a_replay_is_sent_keeps_the_record(memory):
    service = ASGISurface(memory)
    await service.request()
    waiting = asyncio.Event()

    async def stuck(message):
        waiting.set()
        await asyncio.Event().wait()

    conversation = service.conversation(before_send=stuck).start()
    await waiting.wait()
    await cancelled(conversation.task)
    assert (await service.request()).replayed
