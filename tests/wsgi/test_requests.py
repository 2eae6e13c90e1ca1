"""What of an environ makes a request ours, and what the app and the hooks get of it."""

import io
import json
import sys
from typing import Any

import pytest

from idempotency_mw import HTTPConfig, IdempotencyConfig, current_execution
from idempotency_mw.errors import IdempotencyConfigurationError
from idempotency_mw.persistence.memory import MemoryPersistenceLayer
from idempotency_mw.persistence.redis import AsyncRedisPersistenceLayer
from idempotency_mw.testing import AsyncFailingPersistenceLayer
from idempotency_mw.wsgi import IdempotencyMiddleware
from tests import canaries
from tests.asgi.driver import ASGISurface
from tests.wsgi.driver import TEXT, Answer, OneRead, Service, environ_of, serve
from tests.wsgi.surface import WSGISurface


def echo(environ, start_response):
    """Answer with the body that the app sees."""
    start_response("200 OK", [TEXT])
    return [environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))]


def slug_of(answer: Answer) -> str | None:
    return None if answer.ok().status == 200 else answer.slug


# What passes.


@pytest.mark.row(2)
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"])
def test_an_unprotected_method_passes_untouched_even_with_a_key(memory, method):
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


class Counting(dict):
    """An environ that counts how often it is asked."""

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
    environ = Counting(environ_of(method=method, key=None))
    IdempotencyMiddleware(lambda *_: [], persistence_store=memory)(environ, None)
    assert environ.asked == 1


@pytest.mark.row(5)
def test_where_a_key_is_required_a_request_without_is_refused(memory):
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
def test_methods_and_header_names_are_matched_without_regard_to_case(memory):
    http = HTTPConfig(methods=("put",), header="x-IDEM-key")
    service = Service(echo, memory, http=http)
    for _ in range(2):
        answer = service.request(method="PUT", key=None, headers=[("X-Idem-Key", "k")])
    assert answer.replayed


@pytest.mark.row(8)
def test_what_the_app_does_to_its_environ_does_not_reach_the_servers(memory):
    def app(environ, start_response):
        environ["PATH_INFO"] = "/elsewhere"
        del environ["wsgi.input"]
        return echo(environ_of(), start_response)

    environ = environ_of()
    before = dict(environ)
    list(IdempotencyMiddleware(app, persistence_store=memory)(environ, lambda *_: None))
    assert environ == before


@pytest.mark.row("54a")
def test_mounted_twice_the_inner_one_passes(memory):
    inner = Service(echo, memory)
    outer = Service(inner.middleware, memory)
    assert outer.request().ok().body == b"{}"
    assert memory.calls == ["acquire", "complete"]
    assert outer.request().replayed


@pytest.mark.row("54a")
def test_a_foreign_value_in_the_environ_does_not_switch_the_protection_off(memory):
    service = Service(echo, memory)
    for _ in range(2):
        answer = service.request(**{"idempotency_mw.execution": "somebody else's"})
    assert answer.replayed


def test_the_app_finds_its_execution_in_its_environ_and_while_its_body_is_made(memory):
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
def test_two_header_lines_are_refused_also_when_another_spelling_was_joined_to_ours(memory, second):
    answer = Service(echo, memory).request(headers=[("Idempotency_Key", second)])
    assert (answer.status, answer.slug) == (400, "key-invalid")
    assert memory.calls == []


@pytest.mark.row(15, 18)
def test_a_key_is_trimmed_and_one_beyond_ascii_is_refused(memory):
    service = Service(echo, memory)
    service.request(key=" k ")
    assert service.request(key="k").replayed
    assert service.request(key="k\u00e9").slug == "key-invalid"


@pytest.mark.row(22)
def test_an_opaque_key_is_taken_as_it_came_but_for_a_comma(memory):
    service = Service(echo, memory, http=HTTPConfig(header="PayPal-Request-Id", key_syntax="opaque"))
    ask = [service.request(key=None, headers=[("PayPal-Request-Id", key)]) for key in ('"k"', "k", '"k"', "a,b")]
    assert [answer.ok().replayed for answer in ask] == [False, False, True, False]
    assert ask[3].slug == "key-invalid"


# The body.


@pytest.mark.row(98)
def test_the_app_reads_the_full_body_however_it_asks_for_it(memory):
    body = b'{"a":\n1}\n'
    ways = {
        "length": lambda stream: stream.read(len(body)),
        "beyond": lambda stream: stream.read(10**6),
        "all": lambda stream: stream.read(),
        "lines": lambda stream: b"".join(stream),
        "readlines": lambda stream: b"".join(stream.readlines()),
        "readline": lambda stream: stream.readline() + stream.readline(4) + stream.readline(),
    }
    seen: list[Any] = []
    service = Service(lambda environ, start: seen.append(environ) or echo(environ_of(), start), memory)
    for name, way in ways.items():
        service.request(key=name, body=body).ok()
        assert way(seen[-1]["wsgi.input"]) == body
        assert seen[-1]["CONTENT_LENGTH"] == "9"
        assert seen[-1]["wsgi.input_terminated"] is True


class Trickling(io.BytesIO):
    """A stream that gives a few bytes at a time, and then ends."""

    def read(self, size: int = -1, /) -> bytes:
        return super().read(min(size, 3))


@pytest.mark.row(96)
def test_a_chunked_body_is_read_to_its_end_where_the_server_says_that_it_ends(memory):
    service = Service(echo, memory)
    chunked = {"CONTENT_LENGTH": "", "wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked"}
    bodies = (b"0123456789", b"0123456789", b"another")
    first, retry, other = (service.request(**chunked, **{"wsgi.input": Trickling(body)}) for body in bodies)
    assert first.ok().body == b"0123456789"
    assert retry.replayed
    assert (other.slug, service.runs) == ("key-reused", 1)


@pytest.mark.row(96)
@pytest.mark.parametrize("length", ["", None])
def test_without_a_length_nothing_is_read(memory, length):
    service = Service(echo, memory)
    environ = environ_of(CONTENT_LENGTH=length or "")
    if length is None:
        del environ["CONTENT_LENGTH"]
    assert list(service.middleware(environ, lambda *_: None)) == []
    assert environ["wsgi.input"].read(2) == b"{}"


@pytest.mark.row(96)
@pytest.mark.parametrize("length", ["3", "9" * 10, "9" * 5000, "-1", "+2", "2.0", "two", "\u00b2"])
def test_a_body_that_is_shorter_than_declared_or_of_no_length_at_all_is_refused(memory, length):
    service = Service(echo, memory, http=HTTPConfig(max_request_body=10**11))
    answer = service.request(CONTENT_LENGTH=length, **{"wsgi.input": io.BytesIO(b"{}")})
    assert (answer.status, answer.slug, service.runs) == (400, "body-invalid", 0)
    assert memory.calls == []


@pytest.mark.row(33)
@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("size", [100, 101])
def test_a_body_over_the_limit_is_refused(memory, size, chunked):
    service = Service(echo, memory, http=HTTPConfig(max_request_body=100))
    options: dict[str, Any] = {"wsgi.input": io.BytesIO(bytes(size)), "wsgi.input_terminated": chunked}
    answer = service.request(CONTENT_LENGTH="" if chunked else str(size), **options)
    assert slug_of(answer) == ("body-too-large" if size == 101 else None)


@pytest.mark.row(75)
def test_a_client_that_goes_while_its_body_is_read_gets_nothing_and_nothing_runs(memory):
    class Gone(OneRead):
        def read(self, size: int = -1, /) -> bytes:
            raise ConnectionResetError

    service = Service(echo, memory)
    answer = service.request(**{"wsgi.input": Gone(b"{}")})
    assert isinstance(answer.raised, ConnectionResetError)
    assert (answer.status, service.runs, memory.calls) == (None, 0, [])


@pytest.mark.row(4, 26, 32)
def test_a_body_without_a_key_is_given_to_the_app_as_a_copy(memory):
    service = Service(echo, memory, config=IdempotencyConfig(event_key_jmespath="key"))
    assert service.request(key=None, body=b'{"key": null}').ok().body == b'{"key": null}'
    assert memory.calls == []


@pytest.mark.row(24, 29, 32)
def test_a_key_in_the_body_is_found_without_a_header(memory):
    service = Service(echo, memory, config=IdempotencyConfig(event_key_jmespath="key"))
    body = json.dumps({"key": "k"}).encode()
    assert service.request(key=None, body=body).ok().body == body
    assert service.request(key=None, body=body).replayed
    assert service.request(key="other", body=body).slug == "key-conflict"


# Where it goes.


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
def test_the_full_path_and_the_method_are_the_operation(memory, one, other, same):
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
def test_another_credential_with_the_same_key_gets_no_answer(memory, name):
    service = Service(echo, memory)
    service.request(headers=[(name, "one")])
    assert service.request(headers=[(name, "two")]).slug == "key-reused"
    assert service.request(headers=[]).slug == "key-reused"
    assert service.request(headers=[(name, "one")]).replayed


def test_the_media_type_is_part_of_the_request_and_a_header_of_that_name_can_not_pose_as_it(memory):
    service = Service(echo, memory)
    service.request()
    assert service.request(HTTP_CONTENT_TYPE="text/plain", HTTP_CONTENT_LENGTH="7").replayed
    assert service.request(CONTENT_TYPE="text/plain").slug == "key-reused"


@pytest.mark.parametrize("variable", ["CONTENT_TYPE", "CONTENT_LENGTH"])
def test_a_server_that_leaves_a_variable_empty_and_one_that_leaves_it_out_say_the_same(memory, variable):
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


# The hooks.


@pytest.mark.row(56, 58)
def test_a_caller_is_asked_with_werkzeugs_request_and_keeps_callers_apart(memory):
    service = Service(echo, memory, http=HTTPConfig(caller=lambda request: request.headers.get("X-Tenant")))
    for tenant in ("a", "b"):
        assert not service.request(headers=[("X-Tenant", tenant)]).ok().replayed
    assert service.request(headers=[("X-Tenant", "a")]).replayed
    assert service.request().slug == "caller-missing"
    assert service.runs == 2


@pytest.mark.row(58)
def test_an_error_of_the_caller_goes_on(memory):
    def caller(request):
        raise LookupError("who?")

    answer = Service(echo, memory, http=HTTPConfig(caller=caller)).request()
    assert isinstance(answer.raised, LookupError)
    assert memory.calls == []


def test_a_hook_sees_no_body_and_leaves_no_trace(memory):
    seen = []

    def caller(request):
        seen.append((request.get_data(), request.method, request.path, request.content_length))
        return "somebody"

    service = Service(echo, memory, http=HTTPConfig(caller=caller))
    environ = environ_of()
    before = dict(environ)
    assert b"".join(service.middleware(environ, lambda *_: None)) == b"{}"
    assert seen == [(b"", "POST", "/pay", 2)]
    assert environ == before


@pytest.mark.parametrize("hook", ["caller", "http"])
def test_an_async_hook_is_a_configuration_error(memory, hook):
    async def answer(request):
        return None

    http: Any = HTTPConfig(caller=answer) if hook == "caller" else answer
    raised = Service(echo, memory, http=http).request().raised
    assert isinstance(raised, IdempotencyConfigurationError)
    assert "async" in str(raised)


def test_a_resolver_that_returns_something_else_is_a_configuration_error(memory):
    raised = Service(echo, memory, http=lambda request: "no").request().raised
    assert isinstance(raised, IdempotencyConfigurationError)


def test_a_caller_named_by_a_resolver_is_asked_too(memory):
    per_route = HTTPConfig(caller=lambda request: "somebody")
    service = Service(echo, memory, http=lambda request: per_route)
    service.request(headers=[("Authorization", "one")])
    assert service.request(headers=[("Authorization", "two")]).replayed


def test_hooks_need_werkzeug_and_say_so(memory, monkeypatch):
    monkeypatch.setitem(sys.modules, "werkzeug.wrappers", None)
    with pytest.raises(IdempotencyConfigurationError, match=r"idempotency_mw\[wsgi\]"):
        IdempotencyMiddleware(echo, persistence_store=memory, http=HTTPConfig(caller=lambda request: "a"))
    IdempotencyMiddleware(echo, persistence_store=memory)


@pytest.mark.parametrize(
    "layer",
    [
        AsyncFailingPersistenceLayer(MemoryPersistenceLayer()),
        AsyncRedisPersistenceLayer.from_url("redis://127.0.0.1:1/0"),
    ],
    ids=["any", "redis"],
)
def test_an_async_layer_is_a_configuration_error_at_construction(layer):
    with pytest.raises(IdempotencyConfigurationError, match="async"):
        IdempotencyMiddleware(echo, persistence_store=layer)


@pytest.mark.parametrize(
    "options",
    [{"persistence_store": object()}, {"config": {}}, {"http": "x"}, {"http": HTTPConfig(header=None)}],
    ids=["persistence_store", "config", "http", "no key anywhere"],
)
def test_an_option_that_can_not_be_meant_is_told_at_construction(memory, options):
    with pytest.raises(IdempotencyConfigurationError):
        IdempotencyMiddleware(echo, **{"persistence_store": memory, **options})


# On Lambda.


class Invocation:
    """A context as Lambda gives it."""

    def __init__(self, left_ms: int) -> None:
        self.get_remaining_time_in_millis = lambda: left_ms


@pytest.mark.row(111)
@pytest.mark.parametrize("adapter", ["serverless.context", "apig_wsgi.context", "awsgi.context"])
@pytest.mark.parametrize(("left_ms", "lease_ms"), [(2999, 2999), (0, 1000)])
def test_on_lambda_the_lease_is_what_the_invocation_has_left_and_nobody_extends_it(
    memory, adapter, left_ms, lease_ms, monkeypatch
):
    monkeypatch.setattr("idempotency_mw.lifecycle.heartbeat._pulses", pulses := {})
    service = Service(echo, memory)
    assert service.request(**{adapter: Invocation(left_ms)}).ok().body == b"{}"
    assert memory.claim.lease_ms == lease_ms
    assert pulses == {}
    assert service.request(**{adapter: None}).replayed


# What comes of the store.


@pytest.mark.row(138)
def test_the_local_cache_answers_without_the_store(memory):
    service = Service(echo, memory, config=IdempotencyConfig(use_local_cache=True))
    for _ in range(3):
        answer = service.request().ok()
    assert answer.replayed
    assert memory.calls == ["acquire", "complete"]


@pytest.mark.row(71)
def test_a_replay_to_a_head_has_headers_and_no_body(memory):
    service = Service(echo, memory, http=HTTPConfig(methods=("HEAD",), required=True))
    for _ in range(2):
        answer = service.request(method="HEAD").ok()
        assert (answer.status, answer.body) == (200, b"")
    assert answer.replayed
    refused = service.request(method="HEAD", key=None).ok()
    assert (refused.status, refused.body) == (400, b"")


@pytest.mark.row(69)
def test_a_status_that_no_one_has_named_is_replayed_as_it_was(memory):
    def app(environ, start_response):
        start_response("299 Very fine", [TEXT])
        return [b"x"]

    service = Service(app, memory)
    assert service.request().ok().status == 299
    assert service.request().ok().status == 299


@pytest.mark.row(68, 70)
def test_header_values_are_bytes_and_a_marker_of_the_apps_own_is_removed(memory):
    def app(environ, start_response):
        start_response("200 OK", [TEXT, ("X-Bytes", "caf\u00e9"), ("IDEMPOTENT-Replayed", "true")])
        return [b"x"]

    service = Service(app, memory)
    first, retry = service.request().ok(), service.request().ok()
    assert first.one("x-bytes") == retry.one("x-bytes") == "caf\u00e9"
    assert (first.replayed, retry.replayed) == (False, True)


@pytest.mark.row(103)
def test_a_store_that_is_passed_by_leaves_the_app_with_the_whole_body(memory):
    from idempotency_mw.testing import FailingPersistenceLayer

    failing = FailingPersistenceLayer(memory)
    failing.fail_before("acquire", times=None)
    service = Service(echo, failing, config=IdempotencyConfig(on_store_failure="pass"))
    for _ in range(2):
        assert service.request().ok().body == b"{}"
    assert service.runs == 2
    assert serve(Service(echo, failing).middleware).slug == "store-unavailable"
