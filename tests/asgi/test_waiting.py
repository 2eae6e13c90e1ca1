"""Rows 114 to 119: duplicates that wait, and the form of refusals."""

import asyncio
import json

import pytest

from idempotency_mw import HTTPConfig, IdempotencyConfig
from idempotency_mw.asgi.incoming import Incoming
from idempotency_mw.core.record import Status
from tests.asgi.driver import JSON, ASGISurface, Play, turns, until
from tests.asgi.layers import AroundLayer, FailingLayer
from tests.asgi.scenario import BROKEN, arecord_of, last, started, surface_of

WAITS = IdempotencyConfig(wait_seconds=5)


async def running(service) -> asyncio.Task:
    first = service.conversation().start()
    await until(lambda: service.runs)
    return first


@pytest.mark.row(114)
@pytest.mark.fault(24)
async def test_a_waiting_duplicate_gets_the_first_answer(surface, store):
    gate = asyncio.Event()
    service = surface(store, Play(waits_for=gate), config=WAITS)
    first = await running(service)
    waiter = service.conversation().start()
    await asyncio.sleep(0.1)
    assert not waiter.task.done()
    gate.set()
    answer = (await waiter.end()).ok()
    assert (answer.brief(), answer.replayed, service.runs) == ((200, b"done"), True, 1)
    assert answer.all("preference-applied") == []
    await first.end()


@pytest.mark.row(114)
@pytest.mark.parametrize(("prefer", "applied"), [("wait=5", 5), ("respond-async, Wait = 3", 3), ("wait=99", 10)])
async def test_a_preferred_wait_replaces_the_configured_one_and_is_named_in_the_answer(
    surface, store, prefer, applied
):
    gate = asyncio.Event()
    service = surface(store, Play(waits_for=gate), http=HTTPConfig(max_wait_seconds=10))
    first = await running(service)
    waiter = service.conversation(headers=[("prefer", prefer)]).start()
    await asyncio.sleep(0.08)
    gate.set()
    answer = (await waiter.end()).ok()
    assert (answer.replayed, answer.one("preference-applied"), service.runs) == (True, f"wait={applied}", 1)
    await first.end()


@pytest.mark.row(115)
@pytest.mark.parametrize("preferred", [True, False])
async def test_a_duplicate_that_waited_to_no_avail_is_refused(surface, store, preferred):
    gate = asyncio.Event()
    service = surface(
        store,
        Play(waits_for=gate),
        config=IdempotencyConfig(wait_seconds=0.06),
        http=HTTPConfig(max_wait_seconds=10),
    )
    first = await running(service)
    answer = (await service.request(headers=[("prefer", "wait=0")] if preferred else [])).ok()
    assert (answer.status, answer.slug, service.runs) == (409, "in-progress", 1)
    assert int(answer.one("retry-after")) >= 1
    assert answer.one("preference-applied") == ("wait=0" if preferred else None)
    gate.set()
    await first.end()


@pytest.mark.row(116)
@pytest.mark.parametrize("prefer", ["wait=-1", "wait=x", "wait", "wait=1.5", "respond-async", "waits=5", ""])
async def test_an_invalid_preference_is_ignored(surface, memory, prefer):
    gate = asyncio.Event()
    service = surface(memory, Play(waits_for=gate), http=HTTPConfig(max_wait_seconds=10))
    first = await running(service)
    answer = (await service.request(headers=[("prefer", prefer)])).ok()
    assert (answer.slug, answer.one("preference-applied")) == ("in-progress", None)
    gate.set()
    await first.end()


@pytest.mark.row(116)
async def test_a_preference_is_ignored_unless_the_configuration_allows_one(surface, memory):
    gate = asyncio.Event()
    service = surface(memory, Play(waits_for=gate))
    first = await running(service)
    answer = (await service.request(headers=[("prefer", "wait=5")])).ok()
    assert (answer.slug, answer.one("preference-applied")) == ("in-progress", None)
    gate.set()
    await first.end()


@pytest.mark.row(117)
@pytest.mark.parametrize("failure", [Play(500), Play(raises=BROKEN)], ids=["status", "exception"])
async def test_after_a_release_exactly_one_of_the_waiting_duplicates_runs(surface, store, failure):
    gate, second = asyncio.Event(), asyncio.Event()

    def play(_):
        if service.runs > 1:
            return Play(waits_for=second)
        return Play(failure.status, raises=failure.raises, waits_for=gate)

    service = surface(store, play, config=WAITS)
    first = await running(service)
    waiters = [service.conversation().start() for _ in range(5)]
    await until(lambda: store.calls.count("acquire") >= 6)
    gate.set()
    await first.end()
    await until(lambda: service.runs == 2)
    second.set()
    answers = [(await waiter.end()).ok() for waiter in waiters]
    assert [answer.brief() for answer in answers] == 5 * [(200, b"done")]
    assert sum(answer.replayed for answer in answers) == 4
    assert service.runs == 2


@pytest.mark.row(114, 48)
@pytest.mark.fault(7)
async def test_a_waiting_duplicate_takes_over_when_the_lease_lapses(surface, memory, clock):
    dead = asyncio.Event()
    service = surface(
        memory,
        lambda _: Play(waits_for=dead if service.runs == 1 else None),
        config=IdempotencyConfig(wait_seconds=5, lease_seconds=30, heartbeat=False),
    )
    first = await running(service)
    waiter = service.conversation().start()
    await asyncio.sleep(0.02)
    clock.advance(31)
    assert (await waiter.end()).ok().brief() == (200, b"done")
    assert service.runs == 2
    dead.set()
    assert (await first.end()).replayed


@pytest.mark.row(114, 38)
@pytest.mark.fault(23)
async def test_another_payload_does_not_wait(surface, memory):
    gate = asyncio.Event()
    store = AroundLayer(memory)
    service = surface(store, Play(waits_for=gate), config=WAITS)
    first = await running(service)
    assert (await service.request(b"other")).slug == "key-reused"
    assert store.calls == ["acquire", "acquire"]
    gate.set()
    await first.end()


@pytest.mark.row(118)
async def test_a_waiting_duplicate_whose_client_disconnects_stops_and_leaves_no_claim(store):
    gate = asyncio.Event()
    service = ASGISurface(store, Play(waits_for=gate), config=IdempotencyConfig(wait_seconds=60))
    first = await running(service)
    waiter = service.conversation().start()
    await until(lambda: store.calls.count("acquire") >= 2)
    waiter.disconnect()
    answer = await waiter.end()
    assert (answer.raised, answer.messages) == (None, [])
    asked = store.calls.count("acquire")
    assert (await arecord_of(store)).status is Status.IN_PROGRESS
    gate.set()
    await first.end()
    await asyncio.sleep(0.1)
    assert store.calls.count("acquire") == asked
    assert service.runs == 1


def failing_first(store, gate: asyncio.Event, told: list[str]) -> ASGISurface:
    """Return a surface whose first run fails after the gate; later runs tell what they receive at the end."""

    async def app(scope, receive, send):
        if service.runs == 1:
            await gate.wait()
            raise BROKEN
        await receive()
        await send(started())
        await send(last(b"done"))
        told.append((await receive())["type"])

    service = surface_of(app, store, config=WAITS)
    return service


@pytest.mark.row(118)
async def test_a_disconnect_after_the_waiting_is_received_by_the_apps_own_call(memory):
    """Watching for a disconnect ends with the waiting; a later one is received by the app's own call."""
    gate = asyncio.Event()
    told = []

    service = failing_first(memory, gate, told)
    first = await running(service)
    waiter = service.conversation().start()
    await asyncio.sleep(0.02)
    gate.set()
    await first.end()
    assert (await waiter.end()).ok().body == b"done"
    assert told == ["http.disconnect"]


@pytest.mark.row(118)
async def test_the_app_continues_the_receive_call_that_watched_for_the_client(memory):
    """A server may lose the message of a cancelled `receive`, or fail if two are called at once."""
    gate = asyncio.Event()
    receiving, cancelled, told = [], [], []

    service = failing_first(memory, gate, told)
    first = await running(service)
    conversation = service.conversation()
    real = conversation.receive

    async def fragile():
        receiving.append(None)
        assert len(receiving) == 1
        try:
            return await real()
        except asyncio.CancelledError:
            cancelled.append(None)
            raise
        finally:
            receiving.clear()

    conversation.receive = fragile
    conversation.start()
    await until(lambda: receiving and conversation.received)
    gate.set()
    await first.end()
    assert (await conversation.end()).ok().body == b"done"
    assert (told, cancelled) == (["http.disconnect"], [])


@pytest.mark.row(114)
async def test_a_waiting_duplicate_that_is_replayed_leaves_no_task(memory):
    """Not even for one loop iteration: on Lambda the loop does not run between two calls."""
    gate, test = asyncio.Event(), asyncio.current_task()
    service = ASGISurface(memory, Play(waits_for=gate), config=WAITS)

    async def waiting():
        answer = await service.conversation().run()
        assert asyncio.all_tasks() == {asyncio.current_task(), test}
        return answer

    first = await running(service)
    waiter = asyncio.ensure_future(waiting())
    await asyncio.sleep(0.1)
    gate.set()
    await first.end()
    assert (await asyncio.wait_for(waiter, 5)).ok().replayed


@pytest.mark.row(118)
async def test_other_messages_of_the_server_do_not_shorten_the_pauses_between_acquires(memory):
    gate = asyncio.Event()
    store = AroundLayer(memory)
    service = ASGISurface(store, Play(waits_for=gate), config=IdempotencyConfig(wait_seconds=0.3))
    first = await running(service)
    conversation = service.conversation()
    real = conversation.receive

    async def talkative():
        return await real() if conversation.received == 0 else {"type": "http.request", "body": b""}

    conversation.receive = talkative
    assert (await conversation.run()).slug == "in-progress"
    assert store.calls.count("acquire") < 12
    gate.set()
    await first.end()


async def test_an_error_of_the_server_while_a_duplicate_waits_is_raised(memory):
    gate = asyncio.Event()
    service = ASGISurface(memory, Play(waits_for=gate), config=WAITS)
    first = await running(service)
    conversation = service.conversation()
    real = conversation.receive

    async def broken():
        if conversation.received:
            raise BROKEN
        return await real()

    conversation.receive = broken
    assert (await conversation.run()).raised is BROKEN
    gate.set()
    await first.end()
    assert service.runs == 1


@pytest.mark.row(118, 77)
async def test_a_cancelled_waiting_duplicate_leaves_no_claim(memory):
    gate = asyncio.Event()
    store = AroundLayer(memory)
    service = ASGISurface(store, Play(waits_for=gate), config=WAITS)
    first = await running(service)
    waiter = service.conversation().start()
    await until(lambda: store.calls.count("acquire") == 2)
    await turns(3)
    waiter.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter.task
    gate.set()
    assert (await first.end()).ok().status == 200
    assert service.runs == 1


# The form of refusals.


async def refusals(surface, memory, method: str) -> dict:
    """Return one refusal of every kind, by its slug."""
    gate = asyncio.Event()
    http = HTTPConfig(
        methods=[method],
        required=True,
        max_request_body=100,
        max_response_body=50,
        caller=lambda request: request.headers.get("x-caller", "somebody"),
    )
    config = IdempotencyConfig(event_key_jmespath="key", expires_after_seconds=100)

    def play(body):
        return Play(chunks=(b"" if method == "HEAD" else b"x" * 60,)) if b"large" in body else Play(waits_for=gate)

    service = surface(memory, play, http=http, config=config)

    async def ask(body=b"{}", service=service, **options):
        return (await service.request(body, method=method, **options)).ok()

    found = await refused_requests(ask)
    first = service.conversation(b"{}", method=method).start()
    await until(lambda: service.runs)
    found["in-progress"] = await ask()
    found["key-reused"] = await ask(b"other")
    gate.set()
    await first.end()
    if method != "HEAD":
        await ask(b"large", key="large")
        found["response-not-kept"] = await ask(b"large", key="large")
    down = surface(FailingLayer(memory, "acquire"), http=http)
    found["store-unavailable"] = await ask(service=down)
    return found


async def refused_requests(ask) -> dict:
    """Return the refusals that depend on the request alone."""
    return {
        "key-missing": await ask(key=None, headers=[JSON]),
        "key-invalid": await ask(key='"'),
        "key-conflict": await ask(b'{"key":"other"}', headers=[JSON]),
        "caller-missing": await ask(headers=[("x-caller", "")]),
        "body-invalid": await ask(b'{"a":1,"a":2}', headers=[JSON]),
        "body-too-large": await ask(b"x" * 101),
    }


@pytest.mark.row(119)
async def test_every_refusal_is_a_problem(surface, memory):
    found = await refusals(surface, memory, "POST")
    types = set()
    for slug, answer in found.items():
        assert answer.slug == slug
        problem = json.loads(answer.body)
        assert set(problem) == {"type", "title", "status", "detail"}
        assert problem["type"].startswith("urn:")
        assert all(problem.values())
        types.add(problem["type"])
        assert answer.one("content-length") == str(len(answer.body))
        assert answer.one("content-language") == "en"
        assert answer.one("cache-control") == "no-store"
        assert answer.one("idempotent-replayed") is None
    assert len(types) == len(found) == 10
    assert found["store-unavailable"].one("retry-after") == "1"


@pytest.mark.row(119, 71)
async def test_a_refusal_of_a_head_request_has_no_body(surface, memory):
    for slug, answer in (await refusals(surface, memory, "HEAD")).items():
        assert answer.body == b"", slug
        assert int(answer.one("content-length")) > 0
        assert answer.one("content-type") == "application/problem+json"


async def test_closing_incoming_that_does_not_listen_does_nothing():
    async def receive():
        raise AssertionError("nobody has asked")

    incoming = Incoming(receive)
    assert not incoming.is_listening
    await incoming.close()
