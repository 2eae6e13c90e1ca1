"""The middleware's options: hooks, layers, Lambda invocations, and what follows from the store."""

import sys
import time
from typing import Any

import pytest

from idempotency_mw import HTTPConfig, IdempotencyConfig
from idempotency_mw.errors import IdempotencyConfigurationError
from idempotency_mw.persistence.memory import MemoryPersistenceLayer
from idempotency_mw.persistence.redis import AsyncRedisPersistenceLayer
from idempotency_mw.testing import AsyncFailingPersistenceLayer
from idempotency_mw.wsgi import IdempotencyMiddleware
from tests.wsgi.driver import TEXT, Service, environ_of, serve
from tests.wsgi.flows import echo

# Hooks.


@pytest.mark.row(56, 58)
def test_the_caller_hook_gets_werkzeugs_request_and_each_caller_has_its_own_record(memory):
    service = Service(echo, memory, http=HTTPConfig(caller=lambda request: request.headers.get("X-Tenant")))
    for tenant in ("a", "b"):
        assert not service.request(headers=[("X-Tenant", tenant)]).ok().replayed
    assert service.request(headers=[("X-Tenant", "a")]).replayed
    assert service.request().slug == "caller-missing"
    assert service.runs == 2


@pytest.mark.row(58)
def test_an_exception_of_the_caller_hook_is_raised_to_the_server(memory):
    def caller(request):
        raise LookupError("who?")

    answer = Service(echo, memory, http=HTTPConfig(caller=caller)).request()
    assert isinstance(answer.raised, LookupError)
    assert memory.calls == []


def test_a_hook_can_not_read_the_body_and_does_not_change_the_environ(memory):
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


def test_a_resolver_that_returns_no_configuration_is_a_configuration_error(memory):
    raised = Service(echo, memory, http=lambda request: "no").request().raised
    assert isinstance(raised, IdempotencyConfigurationError)


def test_the_caller_hook_of_a_resolved_configuration_is_called(memory):
    per_route = HTTPConfig(caller=lambda request: "somebody")
    service = Service(echo, memory, http=lambda request: per_route)
    service.request(headers=[("Authorization", "one")])
    assert service.request(headers=[("Authorization", "two")]).replayed


def test_hooks_without_werkzeug_are_a_configuration_error(memory, monkeypatch):
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
def test_an_invalid_option_is_a_configuration_error_at_construction(memory, options):
    with pytest.raises(IdempotencyConfigurationError):
        IdempotencyMiddleware(echo, **{"persistence_store": memory, **options})


# On Lambda.


class InvocationContext:
    """The context object of a Lambda invocation."""

    def __init__(self, left_ms: int) -> None:
        self.get_remaining_time_in_millis = lambda: left_ms


def slow(environ, start_response):
    """Answer with the body after longer than a lease of 0.15 s."""
    time.sleep(0.2)
    return echo(environ, start_response)


@pytest.mark.row(111)
@pytest.mark.parametrize("adapter", ["serverless.context", "apig_wsgi.context", "awsgi.context"])
@pytest.mark.parametrize(("left_ms", "lease_ms"), [(2999, 2999), (0, 1000)])
def test_on_lambda_the_lease_is_the_remaining_time_and_has_no_heartbeat(memory, adapter, left_ms, lease_ms):
    service = Service(slow, memory, config=IdempotencyConfig(lease_seconds=0.15))
    assert service.request(**{adapter: InvocationContext(left_ms)}).ok().body == b"{}"
    assert memory.claim.lease_ms == lease_ms
    assert memory.calls == ["acquire", "complete"]
    assert service.request(**{adapter: None}).replayed


# Replays, and a store that fails.


@pytest.mark.row(138)
def test_the_local_cache_answers_without_the_store(memory):
    service = Service(echo, memory, config=IdempotencyConfig(use_local_cache=True))
    for _ in range(3):
        answer = service.request().ok()
    assert answer.replayed
    assert memory.calls == ["acquire", "complete"]


@pytest.mark.row(71)
def test_a_replay_or_refusal_of_a_head_request_has_no_body(memory):
    service = Service(echo, memory, http=HTTPConfig(methods=("HEAD",), required=True))
    for _ in range(2):
        answer = service.request(method="HEAD").ok()
        assert (answer.status, answer.body) == (200, b"")
    assert answer.replayed
    refused = service.request(method="HEAD", key=None).ok()
    assert (refused.status, refused.body) == (400, b"")


@pytest.mark.row(69)
def test_an_unregistered_status_is_replayed_unchanged(memory):
    def app(environ, start_response):
        start_response("299 Very fine", [TEXT])
        return [b"x"]

    service = Service(app, memory)
    assert service.request().ok().status == 299
    assert service.request().ok().status == 299


@pytest.mark.row(68, 70)
def test_header_bytes_are_kept_and_a_replay_marker_that_the_app_sets_is_removed(memory):
    def app(environ, start_response):
        start_response("200 OK", [TEXT, ("X-Bytes", "caf\u00e9"), ("IDEMPOTENT-Replayed", "true")])
        return [b"x"]

    service = Service(app, memory)
    first, retry = service.request().ok(), service.request().ok()
    assert first.one("x-bytes") == retry.one("x-bytes") == "caf\u00e9"
    assert (first.replayed, retry.replayed) == (False, True)


@pytest.mark.row(103)
def test_with_on_store_failure_pass_the_app_reads_the_whole_body(memory):
    from idempotency_mw.testing import FailingPersistenceLayer

    failing = FailingPersistenceLayer(memory)
    failing.fail_before("acquire", times=None)
    service = Service(echo, failing, config=IdempotencyConfig(on_store_failure="pass"))
    for _ in range(2):
        assert service.request().ok().body == b"{}"
    assert service.runs == 2
    assert serve(Service(echo, failing).middleware).slug == "store-unavailable"
