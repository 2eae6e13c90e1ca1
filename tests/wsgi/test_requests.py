"""Which requests are protected, what their key is, and which requests are the same operation."""

from typing import Any

import pytest

from idempotency_mw import HTTPConfig, current_execution
from idempotency_mw.persistence.memory import MemoryPersistenceLayer
from idempotency_mw.wsgi import IdempotencyMiddleware
from tests import canaries
from tests.asgi.driver import ASGISurface
from tests.wsgi.driver import TEXT, Service, environ_of
from tests.wsgi.flows import echo
from tests.wsgi.surface import WSGISurface

# Which requests pass.


@pytest.mark.row(2)
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"])
def test_an_unprotected_method_passes_unchanged_even_with_a_key(memory, method):
    seen: list[Any] = []
    environ = environ_of(method=method)
    before = dict(environ)
    middleware = IdempotencyMiddleware(lambda *arguments: seen.append(arguments) or [], persistence_store=memory)

    def start_response(*_: Any) -> None: ...

    middleware(environ, start_response)
    assert seen[0][0] is environ
    assert seen[0][1] is start_response
    assert environ == before
    assert memory.calls == []


@pytest.mark.row(4, 98)
def test_without_a_key_the_app_gets_the_servers_own_environ_stream_and_start_response(memory):
    seen: list[Any] = []
    environ = environ_of(key=None)
    before = dict(environ)
    middleware = IdempotencyMiddleware(lambda *arguments: seen.append(arguments) or [], persistence_store=memory)

    def start_response(*_: Any) -> None: ...

    body = middleware(environ, start_response)
    assert seen[0][0] is environ
    assert seen[0][1] is start_response
    assert body == []
    assert environ == before
    assert memory.calls == []


class CountingEnviron(dict):
    """An environ that counts look-ups and refuses to be iterated."""

    asked = 0

    def __contains__(self, name: object) -> bool:
        self.asked += 1
        return super().__contains__(name)

    def __getitem__(self, name: str) -> Any:
        self.asked += 1
        return super().__getitem__(name)

    def __iter__(self) -> Any:
        raise AssertionError("the headers were scanned")

    get = items = keys = values = __iter__


@pytest.mark.row(4)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_request_without_a_key_costs_one_look_up(memory, method):
    environ = CountingEnviron(environ_of(method=method, key=None))
    IdempotencyMiddleware(lambda *_: [], persistence_store=memory)(environ, None)
    assert environ.asked == 1


@pytest.mark.row(5)
def test_a_request_without_the_required_key_is_refused(memory):
    service = Service(echo, memory, http=HTTPConfig(required=True))
    answer = service.request(key=None)
    assert (answer.status, answer.slug, service.runs) == (400, "key-missing", 0)
    assert memory.calls == []
    assert service.request(key=None, method="GET").ok().status == 200


@pytest.mark.row(6)
def test_a_resolver_that_returns_none_lets_a_keyed_request_pass(memory):
    service = Service(echo, memory, http=lambda request: None if request.path == "/free" else HTTPConfig())
    for _ in range(2):
        assert not service.request(path="/free").ok().replayed
    assert service.request().ok().body == b"{}"
    assert service.request().replayed
    assert not service.request(key=None).ok().replayed
    assert service.runs == 4


@pytest.mark.row(7)
def test_methods_and_header_names_are_case_insensitive(memory):
    http = HTTPConfig(methods=("put",), header="x-IDEM-key")
    service = Service(echo, memory, http=http)
    for _ in range(2):
        answer = service.request(method="PUT", key=None, headers=[("X-Idem-Key", "k")])
    assert answer.replayed


@pytest.mark.row(8)
def test_changes_of_the_app_to_its_environ_do_not_reach_the_servers_environ(memory):
    def app(environ, start_response):
        environ["PATH_INFO"] = "/elsewhere"
        del environ["wsgi.input"]
        return echo(environ_of(), start_response)

    environ = environ_of()
    before = dict(environ)
    list(IdempotencyMiddleware(app, persistence_store=memory)(environ, lambda *_: None))
    assert environ == before


@pytest.mark.row("54a")
def test_a_middleware_inside_another_one_passes_the_request_on(memory):
    inner = Service(echo, memory)
    outer = Service(inner.middleware, memory)
    assert outer.request().ok().body == b"{}"
    assert memory.calls == ["acquire", "complete"]
    assert outer.request().replayed


@pytest.mark.row("54a")
def test_a_foreign_value_in_the_environ_does_not_disable_the_protection(memory):
    service = Service(echo, memory)
    for _ in range(2):
        answer = service.request(**{"idempotency_mw.execution": "somebody else's"})
    assert answer.replayed


def test_the_app_sees_its_execution_in_its_environ_and_while_its_body_is_iterated(memory):
    seen = []

    def app(environ, start_response):
        seen.append(environ.get("idempotency_mw.execution"))
        seen.append(current_execution())
        start_response("200 OK", [TEXT])

        def body():
            seen.append(current_execution())
            yield b"done"

        return body()

    Service(app, memory).request(key='"quoted key"').ok()
    assert seen[0] is seen[1] is seen[2]
    assert (seen[0].key, seen[0].storage_key) == ("quoted key", memory.claim.storage_key)
    assert current_execution() is None


# The key.


@pytest.mark.row(16, 19)
@pytest.mark.parametrize("second", [canaries.KEY, "k-2"])
def test_two_key_headers_are_refused_also_if_one_has_an_underscore(memory, second):
    answer = Service(echo, memory).request(headers=[("Idempotency_Key", second)])
    assert (answer.status, answer.slug) == (400, "key-invalid")
    assert memory.calls == []


@pytest.mark.row(15, 18)
def test_spaces_around_a_key_are_removed_and_a_key_beyond_ascii_is_refused(memory):
    service = Service(echo, memory)
    service.request(key=" k ")
    assert service.request(key="k").replayed
    assert service.request(key="k\u00e9").slug == "key-invalid"


@pytest.mark.row(22)
def test_an_opaque_key_is_used_as_it_came_unless_it_has_a_comma(memory):
    service = Service(echo, memory, http=HTTPConfig(header="PayPal-Request-Id", key_syntax="opaque"))
    ask = [service.request(key=None, headers=[("PayPal-Request-Id", key)]) for key in ('"k"', "k", '"k"', "a,b")]
    assert [answer.ok().replayed for answer in ask] == [False, False, True, False]
    assert ask[3].slug == "key-invalid"


# The operation.


@pytest.mark.row(55, 83)
@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"script": "/sub", "path": "/pay"}, {"script": "", "path": "/sub/pay"}, True),
        ({"path": "/caf\u00c3\u00a9"}, {"path": "/caf\u00c3\u00a9"}, True),
        ({"path": "/pay"}, {"path": "/pay/"}, False),
        ({"path": "/pay"}, {"path": "/pay", "method": "PATCH"}, False),
        ({"path": "/pay", "query": "a=1&b=2"}, {"path": "/pay", "query": "b=2&a=1"}, True),
    ],
)
def test_the_full_path_the_method_and_the_query_make_the_operation(memory, one, other, same):
    service = Service(echo, memory)
    assert service.request(**one).ok().status == 200
    assert service.request(**other).ok().replayed is same


@pytest.mark.row(83, 84)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"path": "/caf\u00e9"},
        {"query": b"b=%C3%A9&a=1"},
        {"headers": [("Content-Type", "Text/Plain; charset=x")]},
    ],
    ids=str,
)
async def test_a_request_is_the_same_operation_over_asgi(options):
    store = MemoryPersistenceLayer()
    first = await ASGISurface(store).request(**options)
    retry = await WSGISurface(store).request(**options)
    assert (retry.ok().brief(), retry.replayed) == (first.ok().brief(), True)


@pytest.mark.row(57)
@pytest.mark.parametrize("name", ["Authorization", "Cookie", "X-API-Key", "Host"])
def test_another_credential_with_the_same_key_is_refused(memory, name):
    service = Service(echo, memory)
    service.request(headers=[(name, "one")])
    assert service.request(headers=[(name, "two")]).slug == "key-reused"
    assert service.request(headers=[]).slug == "key-reused"
    assert service.request(headers=[(name, "one")]).replayed


def test_the_media_type_is_read_from_content_type_and_not_from_http_content_type(memory):
    service = Service(echo, memory)
    service.request()
    assert service.request(HTTP_CONTENT_TYPE="text/plain", HTTP_CONTENT_LENGTH="7").replayed
    assert service.request(CONTENT_TYPE="text/plain").slug == "key-reused"


@pytest.mark.parametrize("variable", ["CONTENT_TYPE", "CONTENT_LENGTH"])
def test_an_empty_and_a_missing_environ_variable_are_the_same(memory, variable):
    http = HTTPConfig(bound_headers=["content-type", "content-length"])
    middleware = IdempotencyMiddleware(echo, persistence_store=memory, http=http)
    without = environ_of(body=b"")
    del without[variable]

    def serve_one(environ: dict[str, Any]) -> tuple[str, list[bytes]]:
        statuses: list[str] = []
        chunks = list(middleware(environ, lambda status, _headers: statuses.append(status)))
        return statuses[0], chunks

    serve_one(environ_of(body=b"", **{variable: ""}))
    assert serve_one(without)[0] == "200 OK"
    assert memory.calls == ["acquire", "complete", "acquire"]
