"""Rows 56 to 72: which caller gets which answer, and what a replay contains."""

import asyncio

import pytest

from idempotency_mw import HTTPConfig, IdempotencyConfig
from idempotency_mw.errors import IdempotencyConfigurationError
from idempotency_mw.http.message import Response
from tests.asgi.driver import ASGISurface, Play
from tests.asgi.layers import AroundLayer
from tests.asgi.scenario import arecord_of

# E. Isolation.

BY_TENANT = HTTPConfig(caller=lambda request: request.headers.get("x-tenant"))


@pytest.mark.row(56)
async def test_two_callers_with_the_same_key_have_two_records(surface, store):
    service = surface(store, lambda body: Play(chunks=(b"for " + body,)), http=BY_TENANT)
    first = (await service.request(b"A", headers=[("x-tenant", "A")])).ok()
    second = (await service.request(b"B", headers=[("x-tenant", "B")])).ok()
    assert (first.body, second.body, second.replayed) == (b"for A", b"for B", False)
    assert (await service.request(b"A", headers=[("x-tenant", "A")])).body == b"for A"
    assert (await service.request(b"B", headers=[("x-tenant", "B")])).body == b"for B"
    assert service.runs == 2


@pytest.mark.row(56)
async def test_a_caller_may_change_its_credentials(surface, store):
    service = surface(store, http=BY_TENANT)
    await service.request(headers=[("x-tenant", "A"), ("authorization", "old")])
    assert (await service.request(headers=[("x-tenant", "A"), ("authorization", "new")])).replayed


@pytest.mark.row(56)
async def test_an_async_caller_hook_gets_the_frameworks_request(memory):
    async def caller(request):
        await asyncio.sleep(0)
        return f"{request.headers['x-tenant']} {request.url.path} {request.client.host}"

    service = ASGISurface(memory, http=HTTPConfig(caller=caller))
    await service.request(headers=[("x-tenant", "A")])
    assert (await service.request(headers=[("x-tenant", "A")])).replayed
    assert not (await service.request(headers=[("x-tenant", "B")])).replayed


@pytest.mark.row(56)
async def test_the_caller_hook_is_called_only_for_a_request_with_a_valid_key(surface, memory):
    asked = []
    service = surface(memory, http=HTTPConfig(caller=asked.append))
    await service.request(key=None)
    await service.request(key='"broken')
    assert asked == []


CREDENTIALS = [
    ("authorization", "Bearer t"),
    ("cookie", "session=s"),
    ("x-api-key", "a"),
    ("host", "shop.example"),
]


@pytest.mark.row(57)
@pytest.mark.parametrize("credential", CREDENTIALS, ids=lambda pair: pair[0])
@pytest.mark.parametrize("other", ["another", "", None])
async def test_without_callers_another_credential_makes_another_request(surface, store, credential, other):
    service = surface(store, Play(chunks=(b"the stored answer",)))
    await service.request(headers=[credential])
    answer = (await service.request(headers=[] if other is None else [(credential[0], other)])).ok()
    assert (answer.status, answer.slug, service.runs) == (422, "key-reused", 1)
    assert b"stored answer" not in answer.body
    assert b"`caller`" in answer.body
    assert (await service.request(headers=[credential])).replayed


@pytest.mark.row(58)
@pytest.mark.parametrize("caller", [None, ""])
async def test_requests_without_a_caller_are_refused_and_share_no_record(surface, store, caller):
    service = surface(store, http=HTTPConfig(caller=lambda request: caller))
    answer = (await service.request()).ok()
    assert (answer.status, answer.slug, service.runs, store.calls) == (400, "caller-missing", 0, [])


@pytest.mark.row(58)
async def test_an_exception_of_the_caller_hook_is_raised_to_the_server(surface, memory):
    store = AroundLayer(memory)
    service = surface(store, http=HTTPConfig(caller=lambda request: request.headers["absent"]))
    answer = await service.request()
    assert isinstance(answer.raised, KeyError)
    assert (service.runs, store.calls) == (0, [])


@pytest.mark.row(58)
async def test_a_caller_that_is_not_text_is_a_configuration_error(surface, memory):
    service = surface(memory, http=HTTPConfig(caller=lambda request: 7))
    assert isinstance((await service.request()).raised, IdempotencyConfigurationError)
    assert service.runs == 0


@pytest.mark.row(60)
async def test_a_cookie_is_set_once(surface, store):
    service = surface(store, Play(200, ((b"set-cookie", b"a=1"), (b"set-cookie", b"b=2"), (b"x-kept", b"1"))))
    assert (await service.request()).all("set-cookie") == ["a=1", "b=2"]
    retry = await service.request()
    assert (retry.all("set-cookie"), retry.all("x-kept")) == ([], ["1"])


# F. What a replay contains.


@pytest.mark.row(62)
async def test_repeated_headers_keep_their_number_and_order(surface, store):
    headers = ((b"x-a", b"1"), (b"link", b"</1>"), (b"x-a", b"2"), (b"link", b"</2>"), (b"x-a", b"1"))
    service = surface(store, Play(200, headers))
    first, retry = await service.request(), await service.request()
    assert first.headers == list(headers)
    assert retry.headers[:5] == list(headers)


@pytest.mark.row(63)
async def test_connection_headers_are_neither_stored_nor_replayed(surface, store):
    headers = (
        (b"connection", b"close, X-Hop"),
        (b"x-hop", b"1"),
        (b"keep-alive", b"timeout=5"),
        (b"proxy-authenticate", b"Basic"),
        (b"proxy-tomorrow", b"1"),
        (b"te", b"trailers"),
        (b"trailer", b"x-sum"),
        (b"transfer-encoding", b"chunked"),
        (b"upgrade", b"h2c"),
        (b"x-kept", b"1"),
    )
    service = surface(store, Play(200, headers))
    assert (await service.request()).headers == list(headers)
    assert (await service.request()).headers == [
        (b"x-kept", b"1"),
        (b"content-length", b"4"),
        (b"idempotent-replayed", b"true"),
    ]
    assert b"X-Hop" not in (await arecord_of(store)).result


OF_ONE_ANSWER = [
    "date",
    "server",
    "age",
    "set-cookie",
    "www-authenticate",
    "authentication-info",
    "retry-after",
    "ratelimit",
    "ratelimit-policy",
    "x-ratelimit-limit",
    "x-ratelimit-remaining",
    "server-timing",
    "traceparent",
    "tracestate",
    "x-request-id",
    "x-correlation-id",
]


@pytest.mark.row(64)
async def test_headers_that_are_true_of_the_first_answer_only_are_not_replayed(surface, store):
    headers = tuple((name.title().encode(), b"v") for name in OF_ONE_ANSWER)
    service = surface(store, Play(200, (*headers, (b"X-Kept", b"1"))))
    first = await service.request()
    assert len(first.headers) == len(OF_ONE_ANSWER) + 1
    retry = await service.request()
    assert [name for name, _ in retry.headers] == [b"x-kept", b"content-length", b"idempotent-replayed"]


@pytest.mark.row(65)
async def test_a_replay_of_a_stream_has_the_exact_length(surface, store):
    service = surface(store, Play(200, (), (b"one", b"", b"three")))
    assert (await service.request()).one("content-length") is None
    assert (await service.request()).one("content-length") == "8"


@pytest.mark.row(66)
@pytest.mark.parametrize("status", [204, 205, 304])
@pytest.mark.parametrize("headers", [(), ((b"content-length", b"0"),), ((b"etag", b'"a"'),)], ids=str)
async def test_a_bodiless_status_is_replayed_without_a_body(surface, store, status, headers):
    service = surface(store, Play(status, headers, (b"",)))
    await service.request()
    retry = (await service.request()).ok()
    assert (retry.brief(), retry.replayed, service.runs) == ((status, b""), True, 1)
    if status == 204:
        assert retry.one("content-length") is None


@pytest.mark.row(66)
async def test_a_304_keeps_its_declared_length(surface, store):
    service = surface(store, Play(304, ((b"content-length", b"1234"),), (b"",)))
    await service.request()
    assert (await service.request()).one("content-length") == "1234"


@pytest.mark.row(67)
async def test_binary_and_compressed_bodies_are_replayed_byte_for_byte(surface, store):
    import gzip

    for number, body in enumerate((bytes(range(256)) * 3, gzip.compress(b"x" * 5000, mtime=0))):
        service = surface(store, Play(200, ((b"content-encoding", b"gzip"),), (body[:7], body[7:])))
        await service.request(key=f"k-{number}")
        retry = await service.request(key=f"k-{number}")
        assert (retry.body, retry.one("content-encoding")) == (body, "gzip")


@pytest.mark.row(68, 69)
@pytest.mark.parametrize("status", [200, 201, 299, 302])
async def test_header_bytes_locations_and_unusual_statuses_are_unchanged(surface, store, status):
    headers = ((b"location", b"../orders/7?a=%20"), (b"x-name", b"caf\xe9 \xff"))
    service = surface(store, Play(status, headers))
    await service.request()
    retry = await service.request()
    assert (retry.status, retry.headers[:2]) == (status, list(headers))


@pytest.mark.row(69)
async def test_a_status_of_599_is_stored_if_the_configuration_says_so(surface, store):
    service = surface(store, Play(599), http=HTTPConfig(storable=lambda status: True))
    await service.request()
    assert ((await service.request()).status, service.runs) == (599, 1)


@pytest.mark.row(70)
async def test_a_replay_marker_that_the_app_sets_is_removed(surface, store):
    service = surface(store, Play(200, ((b"Idempotent-Replayed", b"true"), (b"x-kept", b"1"))))
    assert (await service.request()).headers == [(b"x-kept", b"1")]
    assert (await service.request()).one("idempotent-replayed") == "true"


@pytest.mark.row(70)
async def test_the_replay_marker_has_the_configured_name(surface, store):
    service = surface(store, Play(200, ((b"x-again", b"1"),)), http=HTTPConfig(replay_header="X-Again"))
    assert (await service.request()).headers == []
    assert (await service.request()).one("x-again") == "true"


@pytest.mark.row(71)
async def test_a_protected_head_is_replayed_with_its_headers_and_no_body(surface, store):
    http = HTTPConfig(methods=["HEAD"])
    service = surface(store, Play(200, ((b"content-length", b"1234"), (b"etag", b"e")), (b"",)), http=http)
    await service.request(b"", method="HEAD")
    retry = (await service.request(b"", method="HEAD")).ok()
    assert (retry.brief(), retry.one("content-length"), retry.one("etag")) == ((200, b""), "1234", "e")
    assert retry.replayed


@pytest.mark.row(72)
@pytest.mark.parametrize("value", [b"a\rb", b"a\nb", b"a\x00b"])
async def test_a_record_with_a_header_that_no_server_sends_is_refused(surface, memory, value):
    layer = AroundLayer(memory)
    service = surface(layer, Play(200, ((b"x-a", b"1"),)))
    await service.request()
    result = (await arecord_of(layer)).result
    mangled = result.replace(b"x-a:1\n", b"x-a:" + value + b"\n")
    length = int(result[4:10]) + len(value) - 1
    memory.close()
    memory.acquire(layer.claims[0])
    memory.complete(layer.claims[0], mangled[:4] + b"%06d" % length + mangled[10:])
    answer = (await service.request()).ok()
    assert (answer.status, answer.slug, service.runs) == (503, "record-unreadable", 1)


@pytest.mark.row(72)
async def test_an_answer_with_a_header_that_no_server_sends_leaves_a_tombstone(surface, memory, caplog):
    layer = AroundLayer(memory)
    service = surface(layer, Play(200, ((b"x-a", b"1\x0b\r2"),)))
    await service.request()
    assert "can't be stored" in caplog.text
    assert (await service.request()).slug == "response-not-kept"


# The hook on replays.


async def test_a_response_hook_changes_replays_only(surface, store):
    seen = []

    def hook(response, record):
        seen.append(record.attempt)
        return Response(response.status, (*response.headers, (b"x-hooked", b"1")), response.body + b"!")

    service = surface(store, config=IdempotencyConfig(response_hook=hook))
    first, retry = await service.request(), await service.request()
    assert (first.body, first.all("x-hooked")) == (b"done", [])
    assert (retry.body, retry.all("x-hooked"), retry.one("content-length")) == (b"done!", ["1"], "5")
    assert seen == [1]


async def test_a_response_hook_that_returns_something_else_is_a_configuration_error(surface, memory):
    service = surface(memory, config=IdempotencyConfig(response_hook=lambda response, record: None))
    await service.request()
    assert isinstance((await service.request()).raised, IdempotencyConfigurationError)
