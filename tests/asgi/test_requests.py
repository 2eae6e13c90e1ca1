"""Rows 1 to 33: which requests are protected, and where their key comes from, end to end."""

import json

import pytest

from idempotency_mw import HTTPConfig, IdempotencyConfig, current_execution
from tests import canaries
from tests.asgi.driver import JSON, ASGISurface, Conversation, Play, perform
from tests.asgi.layers import AroundLayer
from tests.asgi.scenario import surface_of

# A. Which requests are protected.


@pytest.mark.row(1)
@pytest.mark.parametrize("kind", ["lifespan", "websocket", "tomorrow"])
async def test_a_scope_that_is_not_http_passes_with_the_servers_own_objects(memory, kind):
    seen = []

    async def app(scope, receive, send):
        seen.append((scope, receive, send))

    service = surface_of(app, memory)
    conversation = Conversation(service.app, type=kind, headers=[("Idempotency-Key", "k")])
    receive, send = conversation.receive, conversation.send
    await service.app(conversation.scope, receive, send)
    assert len(seen) == 1
    assert all(one is other for one, other in zip(seen[0], (conversation.scope, receive, send), strict=True))


@pytest.mark.row(2)
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "DELETE", "get"])
async def test_unprotected_methods_pass_even_with_a_key(memory, method):
    store = AroundLayer(memory)
    seen = []

    async def app(scope, receive, send):
        seen.append((scope, receive, send))
        await perform(send, Play(chunks=(b"",)))

    service = surface_of(app, store)
    for _ in range(2):
        conversation = service.conversation(method=method)
        receive, send = conversation.receive, conversation.send
        await service.app(conversation.scope, receive, send)
        assert conversation.received == 0
        assert conversation.answer.all("idempotent-replayed") == []
        scope_seen, receive_seen, send_seen = seen.pop()
        assert scope_seen is conversation.scope
        assert receive_seen is receive
        assert send_seen is send
    assert service.runs == 2
    assert store.calls == []


@pytest.mark.row(3)
async def test_a_repeated_delete_is_replayed_if_delete_is_protected(surface, store):
    service = surface(
        store,
        lambda _: Play(204, chunks=(b"",)) if service.runs == 1 else Play(404),
        http=HTTPConfig(methods=["delete"]),
    )
    first = (await service.request(b"", method="DELETE")).ok()
    retry = (await service.request(b"", method="DELETE")).ok()
    assert (first.status, retry.status, retry.replayed, service.runs) == (204, 204, True, 1)


@pytest.mark.row(4)
async def test_without_a_key_the_app_gets_the_servers_own_objects(memory):
    seen = []

    async def app(scope, receive, send):
        seen.append((scope, receive, send))
        await perform(send, Play())

    store = AroundLayer(memory)
    service = surface_of(app, store)
    conversation = service.conversation(key=None)
    receive, send = conversation.receive, conversation.send
    await service.app(conversation.scope, receive, send)
    assert all(one is other for one, other in zip(seen[0], (conversation.scope, receive, send), strict=True))
    assert conversation.answer.headers == [(b"content-type", b"text/plain")]
    assert store.calls == []


@pytest.mark.row(4, 32)
async def test_a_body_that_was_read_for_a_key_and_has_none_reaches_the_app_unchanged(surface, memory):
    seen = []
    service = surface(memory, Play(seen=seen.append), config=IdempotencyConfig(event_key_jmespath="key"))
    answer = (await service.request(b' {"other": 1}\n', key=None, headers=[JSON])).ok()
    assert answer.headers == [(b"content-type", b"text/plain")]
    assert seen == [b' {"other": 1}\n']


@pytest.mark.row(5)
async def test_a_request_without_the_required_key_is_refused(surface, store):
    service = surface(store, http=HTTPConfig(required=True))
    answer = (await service.request(key=None)).ok()
    assert (answer.status, answer.slug, service.runs, store.calls) == (400, "key-missing", 0, [])


@pytest.mark.row(6)
@pytest.mark.parametrize("is_async", [True, False])
async def test_a_request_whose_resolver_returns_none_passes_whatever_its_key(memory, is_async):
    def resolve(request):
        return None if request.url.path == "/open" else HTTPConfig(required=True)

    async def aresolve(request):
        return resolve(request)

    service = ASGISurface(memory, http=aresolve if is_async else resolve)
    for key in ("k", '"unbalanced', "a,b", None):
        assert (await service.request(path="/open", key=key)).ok().brief() == (200, b"done")
    assert service.runs == 4
    assert (await service.request(path="/pay", key=None)).slug == "key-missing"
    assert (await service.request(path="/pay", key="k")).ok().status == 200
    assert (await service.request(path="/pay", key="k")).replayed


@pytest.mark.row(6)
async def test_a_resolver_can_not_read_the_body(memory):
    async def resolve(request):
        await request.body()

    answer = await ASGISurface(memory, http=resolve).request()
    assert isinstance(answer.raised, RuntimeError)


@pytest.mark.row(7)
@pytest.mark.parametrize("name", ["idempotency-key", "Idempotency-Key", "IDEMPOTENCY-KEY"])
async def test_methods_and_header_names_are_case_insensitive(memory, name):
    service = ASGISurface(memory, http=HTTPConfig(methods=["post"], header="IDEMPOTENCY-Key"))
    await service.request(http_version="2")
    conversation = service.conversation(key=None, method="post", http_version="1.1")
    conversation.scope["headers"] = [(name.encode(), canaries.KEY.encode())]
    assert (await conversation.run()).replayed


@pytest.mark.row(8)
async def test_changes_of_the_app_to_its_scope_do_not_reach_the_servers_scope(memory):
    async def app(scope, receive, send):
        scope["path"] = "/changed"
        scope["endpoint"] = app
        del scope["query_string"]
        await perform(send, Play())

    conversation = surface_of(app, memory).conversation(extensions={"http.response.pathsend": {}})
    before = dict(conversation.scope)
    await conversation.run()
    assert conversation.scope == before
    assert conversation.scope["extensions"] == {"http.response.pathsend": {}}


# B. Key syntax.


@pytest.mark.row(9, 10, 13, 18)
@pytest.mark.parametrize(
    ("sent", "key"),
    [
        ('"8e03978e-40d5"', "8e03978e-40d5"),
        ("8e03978e-40d5", "8e03978e-40d5"),
        ('"a\\"b\\\\c"', 'a"b\\c'),
        ('"k";p=1', "k"),
        ("   spaced  ", "spaced"),
        ('  "spaced" ', "spaced"),
        ("x" * 255, "x" * 255),
    ],
)
async def test_the_key_that_the_app_sees(surface, memory, sent, key):
    seen = []
    service = surface(memory, Play(seen=lambda _: seen.append(current_execution().key)))
    (await service.request(key=sent)).ok()
    assert seen == [key]


@pytest.mark.row(10)
async def test_bare_and_quoted_are_one_key(surface, store):
    service = surface(store)
    await service.request(key='"8e03"')
    assert (await service.request(key="8e03")).replayed


@pytest.mark.row(10, 11)
@pytest.mark.parametrize("sent", ["8e03", "?1", ":aGk=:", "12", '("a")', '"a", "b"'])
async def test_the_strict_syntax_accepts_only_a_string(surface, store, sent):
    service = surface(store, http=HTTPConfig(key_syntax="strict"))
    answer = (await service.request(key=sent)).ok()
    assert (answer.status, answer.slug, service.runs, store.calls) == (400, "key-invalid", 0, [])
    assert (await service.request(key='"8e03"')).ok().status == 200


INVALID = [
    '"abc',
    'abc"',
    '""',
    "",
    "  ",
    '"  "',
    "x" * 256,
    "\u00e9",
    "a\tb",
    "a\x7fb",
    "a,b",
    "a;b",
    'a"b',
    "a b",
]


@pytest.mark.row(12, 13, 14, 15, 16, 17, 119)
@pytest.mark.parametrize("sent", INVALID)
@pytest.mark.parametrize("required", [True, False])
async def test_a_malformed_key_is_refused_before_the_store_is_asked(surface, store, sent, required):
    service = surface(store, http=HTTPConfig(required=required))
    answer = (await service.request(key=sent)).ok()
    assert (answer.status, answer.slug, service.runs, store.calls) == (400, "key-invalid", 0, [])
    assert len(sent) < 4 or sent.encode() not in answer.body


@pytest.mark.row(16)
@pytest.mark.parametrize("second", [canaries.KEY, "k-2"])
async def test_two_key_headers_are_refused_even_if_equal(memory, second):
    store = AroundLayer(memory)
    service = ASGISurface(store)
    answer = (await service.request(headers=[("idempotency-key", second)])).ok()
    assert (answer.status, answer.slug, service.runs, store.calls) == (400, "key-invalid", 0, [])


@pytest.mark.row(19)
async def test_a_header_with_a_similar_name_is_not_the_key(memory):
    service = ASGISurface(memory)
    await service.request(headers=[("Idempotency_Key", "x")])
    assert (await service.request(headers=[("Idempotency_Key", "y")])).replayed
    await service.request(key=None, headers=[("Idempotency_Key", "x")])
    assert service.runs == 2


@pytest.mark.row(20, 21)
async def test_keys_that_differ_in_case_or_look_like_commands_have_records_of_their_own(surface, store):
    service = surface(store)
    keys = ["abc", "ABC", "a:b", "a*", "{a}", "*", "../../a", "FLUSHALL", '"DEL idempotency:*"', "%00"]
    for key in keys:
        assert (await service.request(key=key)).ok().status == 200
    assert service.runs == len(keys)
    for key in keys:
        assert (await service.request(key=key)).replayed
    assert {len(claim.storage_key) for claim in store.claims} == {64}


@pytest.mark.row(22)
async def test_an_opaque_key_is_used_as_it_came_unless_it_has_a_comma(memory):
    seen = []
    http = HTTPConfig(header="PayPal-Request-Id", key_syntax="opaque")
    service = ASGISurface(memory, Play(seen=lambda _: seen.append(current_execution().key)), http=http)
    for key in ('"quoted"', "with space; and more", 'a"b'):
        (await service.request(key=None, headers=[("PayPal-Request-Id", key)])).ok()
    assert seen == ['"quoted"', "with space; and more", 'a"b']
    assert (await service.request(key=None, headers=[("PayPal-Request-Id", "a,b")])).slug == "key-invalid"


@pytest.mark.row(23)
async def test_the_refusal_of_a_short_key_says_the_allowed_lengths(surface, memory):
    service = surface(memory, http=HTTPConfig(min_key_length=16))
    answer = (await service.request(key="x" * 15)).ok()
    assert (answer.status, answer.slug, service.runs) == (400, "key-invalid", 0)
    assert "16 to 255" in json.loads(answer.body)["detail"]
    assert (await service.request(key="x" * 16)).ok().status == 200


# C. Key in the body.


def keyed(surface, store, expression="key", *, config=None, play=None, **http):
    options = {"event_key_jmespath": expression, **(config or {})}
    return surface(store, play or Play(), config=IdempotencyConfig(**options), http=HTTPConfig(**http))


async def post(service, document, *, key=None, media="application/json"):
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return await service.request(body, key=key, headers=[("content-type", media)])


@pytest.mark.row(24)
async def test_a_string_in_the_body_is_the_key(surface, store):
    seen = []
    play = Play(seen=lambda _: seen.append(current_execution().key))
    service = keyed(surface, store, "idempotency_key", play=play, header=None)
    assert (await post(service, {"idempotency_key": "k, with \u00e4", "a": 1})).ok().status == 200
    assert (await post(service, {"idempotency_key": "k, with \u00e4", "a": 1})).replayed
    assert (await post(service, {"idempotency_key": "k, with \u00e4", "a": 2})).slug == "key-reused"
    assert seen == ["k, with \u00e4"]


@pytest.mark.row(25)
async def test_several_fields_make_one_key(surface, memory):
    seen = []
    play = Play(seen=lambda _: seen.append(getattr(current_execution(), "key", None)))
    service = keyed(surface, memory, "[tenant, order.id]", play=play)
    assert (await post(service, {"tenant": "a", "order": {"id": 7}})).ok().status == 200
    assert (await post(service, {"tenant": "a", "order": {"id": 7}}, key='"[\\"a\\",\\"7\\"]"')).replayed
    assert (await post(service, {"tenant": "a", "order": {"id": 8}})).ok().status == 200
    assert seen == ['["a","7"]', '["a","8"]']
    assert (await post(service, {"tenant": "a", "order": {"id": True}})).slug == "key-invalid"
    for missing in ({"tenant": "a"}, {"tenant": None, "order": {"id": 1}}):
        assert (await post(service, missing)).ok().brief() == (200, b"done")
        assert seen.pop() is None


@pytest.mark.row(26)
@pytest.mark.parametrize("document", [{}, {"key": None}, [], None, "text"])
async def test_a_missing_body_key_is_no_key(surface, store, document):
    optional = keyed(surface, store)
    assert (await post(optional, document)).ok().brief() == (200, b"done")
    required = keyed(surface, store, required=True)
    answer = (await post(required, document)).ok()
    assert (answer.status, answer.slug, required.runs, store.calls) == (400, "key-missing", 0, [])


@pytest.mark.row(27)
async def test_an_integer_key_is_its_decimal_text_and_other_types_are_refused(surface, store):
    service = keyed(surface, store)
    assert (await post(service, {"key": 42})).ok().status == 200
    assert (await post(service, {"key": 42}, key="42")).replayed
    for value in (True, 1.5, {"a": 1}, "", -0.0):
        answer = (await post(service, {"key": value})).ok()
        assert (answer.status, answer.slug) == (400, "key-invalid")
    assert service.runs == 1


@pytest.mark.row(28)
@pytest.mark.parametrize("media", ["application/json", "APPLICATION/JSON; charset=utf-8", "application/a+json"])
async def test_invalid_json_is_left_to_the_app_unless_a_key_is_required(surface, store, media):
    optional = keyed(surface, store, play=Play(422))
    assert (await post(optional, b"{broken", media=media)).ok().status == 422
    required = keyed(surface, store, required=True)
    answer = (await post(required, b"{broken", media=media)).ok()
    assert (answer.status, answer.slug, required.runs, store.calls) == (400, "body-invalid", 0, [])


@pytest.mark.row(28)
async def test_a_body_that_is_not_json_is_not_read_for_a_key(memory):
    async def app(scope, receive, send):
        assert conversation.received == 0
        await perform(send, Play())

    service = surface_of(app, memory, config=IdempotencyConfig(event_key_jmespath="key"))
    conversation = service.conversation(b"a=1", key=None, headers=[("content-type", "text/plain")])
    assert (await conversation.run()).ok().status == 200
    required = ASGISurface(
        memory, config=IdempotencyConfig(event_key_jmespath="key"), http=HTTPConfig(required=True)
    )
    assert (await required.request(b"a=1", key=None)).slug == "body-invalid"


@pytest.mark.row(28)
async def test_with_a_validation_expression_an_unparsable_body_is_compared_by_its_bytes(surface, store):
    service = surface(store, config=IdempotencyConfig(payload_validation_jmespath="amount"))
    assert (await post(service, {"amount": 1, "at": 1}, key="a")).ok().status == 200
    assert (await post(service, {"amount": 1, "at": 2}, key="a")).replayed
    assert (await post(service, {"amount": 2, "at": 1}, key="a")).slug == "key-reused"
    assert (await post(service, b"{broken", key="b")).ok().status == 200
    assert (await post(service, b"{broken", key="b")).replayed
    assert (await post(service, b"{broken!", key="b")).slug == "key-reused"


@pytest.mark.row(29)
async def test_header_and_body_key_must_agree(surface, store):
    service = keyed(surface, store, max_key_length=5)
    assert (await post(service, {"key": "one"}, key="one")).ok().status == 200
    assert (await post(service, {"key": "one"}, key="two")).slug == "key-conflict"
    assert (await post(service, {"key": "123456"})).slug == "key-invalid"
    assert (await post(service, {"key": "a\nb"})).slug == "key-invalid"
    assert (await post(service, {"key": "a,b;c"})).ok().status == 200
    assert service.runs == 2


@pytest.mark.row(30)
@pytest.mark.parametrize("body", [b'{"key":"a","key":"b"}', b'{"key":"a","x":[{"y":1,"y":1}]}'])
@pytest.mark.parametrize("options", [{"event_key_jmespath": "key"}, {"payload_validation_jmespath": "key"}])
async def test_json_with_a_duplicate_member_is_refused(surface, store, body, options):
    service = surface(store, config=IdempotencyConfig(**options))
    answer = (await post(service, body, key="a")).ok()
    assert (answer.status, answer.slug, service.runs, store.calls) == (400, "body-invalid", 0, [])


HOSTILE = {
    "deep": b'{"key":' + b"[" * 6000 + b"]" * 6000 + b"}",
    "NaN": b'{"key":NaN}',
    "surrogate": b'{"key":"\\ud800"}',
    "UTF-16": '{"key":"a"}'.encode("utf-16"),
    "digits": b'{"key":' + b"9" * 10000 + b"}",
}


@pytest.mark.row(31)
@pytest.mark.parametrize("required", [True, False])
@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE)
async def test_hostile_json_is_refused_or_passed_on_and_never_an_error_of_ours(surface, store, body, required):
    service = keyed(surface, store, required=required)
    answer = (await post(service, body)).ok()
    if answer.status == 200:
        assert not required
    else:
        assert (answer.status, answer.slug in {"body-invalid", "key-invalid"}) == (400, True)
        assert service.runs == 0
    assert store.calls == []


@pytest.mark.row(32)
async def test_after_the_key_was_read_the_app_receives_the_identical_bytes(surface, store):
    seen = []
    service = keyed(surface, store, play=Play(seen=seen.append))
    body = b'\n{ "key" : "a",\t"b":1.50 }  '
    (await post(service, body)).ok()
    assert seen == [body]


@pytest.mark.row(33)
@pytest.mark.parametrize("declared", [True, False])
async def test_a_body_over_the_limit_is_refused(memory, declared):
    store = AroundLayer(memory)
    service = ASGISurface(store, http=HTTPConfig(max_request_body=10))
    messages = [{"type": "http.request", "body": b"12345", "more_body": n < 2} for n in range(3)]
    headers = [("content-length", "15")] if declared else []
    conversation = service.conversation(messages, headers=headers)
    answer = (await conversation.run()).ok()
    assert (answer.status, answer.slug, service.runs, store.calls) == (413, "body-too-large", 0, [])
    assert conversation.received == (0 if declared else 3)
    assert (await service.request(b"1234567890")).ok().status == 200


@pytest.mark.row(33)
async def test_an_unkeyed_body_of_any_size_passes(surface, store):
    seen = []
    service = surface(store, Play(seen=seen.append), http=HTTPConfig(max_request_body=10))
    (await service.request(b"x" * 50, key=None)).ok()
    assert seen == [b"x" * 50]
