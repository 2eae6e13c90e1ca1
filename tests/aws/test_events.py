"""The same request is the same operation, whichever service sends it to Lambda."""

import pytest

from idempotency_mw.aws import viewer_headers
from idempotency_mw.persistence.memory import MemoryPersistenceLayer
from tests.aws.events import BODY, KINDS, MERGING, alb, edge, http_api
from tests.aws.invoking import Context, Orders, invoke, keyed, mangum

every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
every_merging_kind = pytest.mark.parametrize("kind", MERGING.values(), ids=MERGING)


@pytest.fixture
def app():
    return Orders()


@pytest.fixture
def handler(app):
    return mangum(app, MemoryPersistenceLayer())


@pytest.mark.row(113)
@every_kind
@pytest.mark.parametrize("first_is_base64", [False, True])
def test_a_body_is_the_same_in_base64_and_as_text(handler, app, kind, first_is_base64):
    first = invoke(handler, keyed("a", kind, is_base64=first_is_base64))
    again = invoke(handler, keyed("a", kind, is_base64=not first_is_base64))
    assert (first.status, first.is_replay) == (201, False)
    assert (again.status, again.is_replay, again.body) == (201, True, first.body)
    assert [run["body"] for run in app.runs] == [BODY]


@pytest.mark.row(113)
@every_kind
def test_another_body_under_the_key_is_refused(handler, app, kind):
    invoke(handler, keyed("a", kind))
    other = invoke(handler, keyed("a", kind, body=BODY + b" "))
    assert (other.status, other.problem) == (422, "key-reused")
    assert len(app.runs) == 1


@pytest.mark.row(113)
@every_kind
def test_a_request_of_one_kind_of_event_is_replayed_to_every_other_kind(handler, app, kind):
    first = invoke(handler, keyed("a", kind))
    for other in KINDS.values():
        again = invoke(handler, keyed("a", other))
        assert (again.status, again.is_replay, again.body) == (201, True, first.body)
    assert len(app.runs) == 1


@pytest.mark.row(16, 113)
@every_merging_kind
@pytest.mark.parametrize("values", [("a", "b"), ("a", "a"), ('"a"', '"b"')], ids=str)
def test_two_key_headers_are_refused_whatever_the_service_makes_of_them(handler, app, kind, values):
    refused = invoke(handler, kind([("Idempotency-Key", value) for value in values]))
    assert (refused.status, refused.problem) == (400, "key-invalid")
    assert app.runs == []


@pytest.mark.row(113)
def test_a_load_balancer_that_sends_only_the_last_of_two_headers_makes_it_the_key(handler, app):
    invoke(handler, alb([("Idempotency-Key", "a"), ("Idempotency-Key", "b")]))
    assert invoke(handler, keyed("b", alb)).is_replay


@pytest.mark.row(57, 113)
@every_kind
@pytest.mark.parametrize("name", ["Authorization", "Cookie", "X-Api-Key"])
def test_other_credentials_under_the_key_are_refused(handler, app, kind, name):
    def event(value):
        return kind([("Idempotency-Key", "a"), (name, value)])

    first = invoke(handler, event("mine"))
    again, other = invoke(handler, event("mine")), invoke(handler, event("yours"))
    assert (first.status, again.is_replay) == (201, True)
    assert (other.status, other.problem) == (422, "key-reused")
    assert len(app.runs) == 1


@pytest.mark.row(57, 113)
@every_merging_kind
def test_a_credential_in_a_second_header_counts(handler, kind):
    def event(session):
        return kind([("Idempotency-Key", "a"), ("Cookie", "theme=dark"), ("Cookie", f"session={session}")])

    assert invoke(handler, event("mine")).status == 201
    assert invoke(handler, event("yours")).status == 422


@pytest.mark.row(113)
@pytest.mark.row(67)
@every_kind
def test_binary_bodies_and_answers_are_replayed_byte_for_byte(kind):
    every_byte = bytes(range(256))

    async def echo(scope, receive, send):
        body = (await receive())["body"]
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"image/png")]})
        await send({"type": "http.response.body", "body": body})

    handler = mangum(echo, MemoryPersistenceLayer())
    first, again = (invoke(handler, keyed("a", kind, body=every_byte, is_base64=True)) for _ in range(2))
    assert (first.body, first.is_replay) == (every_byte, False)
    assert (again.body, again.is_replay) == (every_byte, True)


@pytest.mark.row(113)
@every_kind
def test_an_event_without_a_key_runs_each_time(kind):
    async def app(scope, receive, send):
        runs.append(await receive())
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"done"})

    runs = []
    handler = mangum(app, MemoryPersistenceLayer())
    assert [invoke(handler, kind([])).status for _ in range(2)] == [200, 200]
    assert len(runs) == 2


@pytest.mark.row(113)
def test_only_an_edge_event_has_more_headers_than_the_scope():
    two = [("X-A", "1"), ("X-A", "2")]
    assert [line for line in viewer_headers(edge(two)) if line[0] == b"x-a"] == [(b"x-a", b"1"), (b"x-a", b"2")]
    assert viewer_headers(http_api(two)) is None
    assert viewer_headers({"Records": [{"eventSource": "aws:sqs"}]}) is None
    assert viewer_headers({"Records": []}) is None
    assert viewer_headers(None) is None


@pytest.mark.row(113)
def test_mangum_answers_for_a_failing_app_and_its_key_is_free(handler):
    async def fail(scope, receive, send):
        raise RuntimeError("out of paper")

    answer = invoke(mangum(fail, store := MemoryPersistenceLayer()), keyed("a"), Context())
    assert answer.status == 500
    assert invoke(mangum(Orders(), store), keyed("a")).status == 201
