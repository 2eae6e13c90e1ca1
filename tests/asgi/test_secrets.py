"""Row 59, I12: no key, credential, caller or body appears in an answer, a log, a `repr` or a store."""

import asyncio
import logging
from uuid import uuid4

import pytest

from idempotency_mw import HTTPConfig, IdempotencyConfig, current_execution
from idempotency_mw.calls import Call
from idempotency_mw.core.record import Claim, Operation
from idempotency_mw.errors import IdempotencyRecordError
from idempotency_mw.http.body import Document
from idempotency_mw.http.exchange import Keyed, Wanted
from idempotency_mw.http.message import Request
from idempotency_mw.persistence.redis import AsyncRedisPersistenceLayer
from idempotency_mw.persistence.sqlite import SQLitePersistenceLayer
from tests.asgi.driver import JSON, ASGISurface, Play, until
from tests.asgi.layers import AroundLayer, FailingLayer, HookedLayer

KEY = "canary-key-71f3"
BODY = b'{"card":"canary-body-93d1","key":"canary-key-71f3"}'
CANARIES = (
    "canary-key",
    "canary-body",
    "canary-token",
    "canary-cookie",
    "canary-api",
    "canary-caller",
    "canary-query",
)
HEADERS = [
    JSON,
    ("authorization", "Bearer canary-token-1"),
    ("cookie", "session=canary-cookie-1"),
    ("x-api-key", "canary-api-1"),
    ("x-caller", "canary-caller-1"),
]


def clean(text: str) -> None:
    for canary in CANARIES:
        assert canary not in text, canary


async def request(service, *, key=KEY, body=BODY, headers=HEADERS):
    return await service.request(body, key=key, headers=headers, query=b"q=canary-query-1")


async def flows(surface, layer, **http):
    """Make requests of every kind, and yield each answer that the middleware made."""
    config = IdempotencyConfig(event_key_jmespath="key")
    http = HTTPConfig(max_response_body=20, max_request_body=100, max_key_length=60, **http)
    gate = asyncio.Event()
    seen = []
    service = surface(
        layer, Play(waits_for=gate, seen=lambda _: seen.append(current_execution())), config=config, http=http
    )
    first = service.conversation(BODY, key=KEY, headers=HEADERS, query=b"q=canary-query-1").start()
    await until(lambda: service.runs)
    yield await request(service)
    gate.set()
    await first.end()
    yield await request(service, body=BODY.replace(b"card", b"kart"))
    yield await request(service, key=KEY + "-other")
    yield await request(service, key=f'"{KEY}')
    yield await request(service, key=KEY * 9)
    yield await request(service, body=b'{"card":"canary-body","card":"canary-body"}')
    yield await request(service, body=BODY * 9)
    yield await request(service, headers=[*HEADERS, ("authorization", "Bearer canary-token-2")])
    large = BODY.replace(b"key-71f3", b"key-large")
    service.play = Play(chunks=(b"x" * 30,))
    await request(service, key=None, body=large)
    yield await request(service, key=None, body=large)
    failing = surface(FailingLayer(layer, "acquire"), config=config, http=http)
    yield await request(failing)
    passing = surface(FailingLayer(layer, "acquire"), config=IdempotencyConfig(on_store_failure="pass"), http=http)
    await request(passing)
    for verb, play in (("complete", Play()), ("release", Play(500))):
        broken = surface(FailingLayer(layer, verb), play, config=config, http=http)
        await request(broken, key=None, body=BODY.replace(b"key-71f3", b"key-" + verb.encode()))
    quick = IdempotencyConfig(event_key_jmespath="key", lease_seconds=0.03)
    pausing = Play(seen=lambda _: asyncio.sleep(0.02))
    beating = surface(FailingLayer(layer, "extend"), pausing, config=quick, http=http)
    await request(beating, key=None, body=BODY.replace(b"key-71f3", b"key-beat"))
    for each in (*seen, service.app, layer, *getattr(layer, "claims", ())):
        clean(repr(each))


@pytest.mark.row(59)
@pytest.mark.parametrize("has_callers", [True, False])
async def test_no_canary_is_in_an_answer_a_log_or_a_repr(surface, memory, caplog, has_callers):
    caplog.set_level(logging.DEBUG)
    http = {"caller": lambda request: request.headers["x-caller"]} if has_callers else {}
    answers = [answer async for answer in flows(surface, AroundLayer(memory), **http)]
    statuses = [answer.status for answer in answers]
    assert set(statuses) >= {400, 409, 413, 422, 503}
    for answer in answers:
        assert answer.raised is None
        if answer.status >= 400:
            clean(answer.body.decode("latin-1"))
            clean(str(answer.headers))
    assert len(caplog.records) > 4
    clean(caplog.text)
    clean(str([record.__dict__ for record in caplog.records]))


async def late_flows(surface, memory, clock):
    """Make requests whose records are lost, unreadable, not storable or lapsed; yield the middleware's answers."""
    layer = AroundLayer(memory)

    async def steal(claim):
        await layer.release(claim)
        await layer.acquire(Claim(Operation(claim.storage_key, claim.fingerprint), "f" * 32, 60_000, 60_000))

    lost = surface(HookedLayer(layer, complete=steal))
    yield await request(lost, key=KEY + "-lost")
    record_error = FailingLayer(layer, "acquire", error=lambda: IdempotencyRecordError("it is no record"))
    yield await request(surface(record_error), key=KEY + "-unreadable")
    unfit = surface(layer, Play(headers=((b"x-bad", b"canary-query\x00"),)))
    await request(unfit, key=KEY + "-unfit")
    yield await request(unfit, key=KEY + "-unfit")
    stored = IdempotencyConfig(on_error="store")
    failing = surface(layer, Play(raises=ValueError("canary-body")), config=stored)
    await request(failing, key=KEY + "-failed")
    yield await request(failing, key=KEY + "-failed")
    refusing = IdempotencyConfig(after_crash="refuse", lease_seconds=5, heartbeat=False)
    dying = surface(FailingLayer(layer, "complete"), config=refusing)
    await request(dying, key=KEY + "-died")
    clock.advance(6)
    yield await request(dying, key=KEY + "-died")


@pytest.mark.row(59)
async def test_no_canary_is_in_the_answers_and_logs_about_lost_and_unreadable_records(
    surface, memory, clock, caplog
):
    caplog.set_level(logging.DEBUG)
    answers = [answer async for answer in late_flows(surface, memory, clock)]
    assert [answer.status for answer in answers] == [409, 503, 409, 500, 409]
    slugs = [answer.slug for answer in answers]
    assert slugs == [
        "in-progress",
        "record-unreadable",
        "response-not-kept",
        "execution-failed",
        "outcome-unknown",
    ]
    for answer in answers:
        clean(answer.body.decode("latin-1"))
        clean(str(answer.headers))
    assert len(caplog.records) >= 4
    clean(str([record.__dict__ for record in caplog.records if record.name.startswith("idempotency_mw")]))


@pytest.mark.row(59)
async def test_no_canary_is_in_redis(any_server):
    prefix = f"{uuid4().hex}:"
    async with AsyncRedisPersistenceLayer.from_url(any_server.url, key_prefix=prefix) as layer:
        async for _ in flows(ASGISurface, AroundLayer(layer)):
            pass
        with any_server.client() as client:
            names = client.keys(prefix + "*")
            assert len(names) > 2
            for name in names:
                assert len(name) == len(prefix) + 64
                clean(name.decode())
                clean(client.get(name).decode("latin-1"))
        clean(repr(layer))


@pytest.mark.row(59)
async def test_no_canary_is_in_a_sqlite_file(tmp_path):
    path = tmp_path / "records.db"
    with SQLitePersistenceLayer(path) as layer:
        async for _ in flows(ASGISurface, AroundLayer(layer)):
            pass
        clean(repr(layer))
        for file in (path, path.with_name("records.db-wal")):
            clean(file.read_bytes().decode("latin-1"))


@pytest.mark.row(59)
async def test_no_canary_is_in_the_traceback_of_an_error_of_ours(memory, caplog):
    """A server logs such an exception with its text and its causes."""
    import traceback

    layer = FailingLayer(memory, "acquire", error=lambda: KeyError("a bug"))
    answer = await request(ASGISurface(layer))
    lines = traceback.TracebackException.from_exception(answer.raised, capture_locals=False).format()
    clean("".join(lines))


@pytest.mark.row(59)
def test_no_canary_is_in_the_repr_of_a_value():
    headers = ((b"authorization", b"canary-token"),)
    values = [
        Request("POST", "/pay", b"canary-query", {name: [value] for name, value in headers}),
        Wanted("canary-key", b"canary-cookie", 0),
        Keyed("canary-key", b"canary-cookie", [b"canary-body"]),
        Claim(Operation("5" * 64, "f" * 64), "canary-token", 1, 1),
        Call("canary-key", name="charge", validated={"card": "canary-body"}),
        Document({"card": "canary-body"}),
    ]
    for value in values:
        clean(repr(value))
        clean(str(value))


async def test_the_middleware_keeps_no_state_of_a_request(memory):
    service = ASGISurface(memory)
    before = dict(vars(service.app))
    await request(service)
    assert vars(service.app) == before
