"""How a run ends: what is stored, and that its heartbeat stops."""

import contextlib
import gc
import time
import weakref
from collections.abc import Iterator
from functools import partial
from itertools import islice
from typing import Any

import pytest

from idempotency_mw import IdempotencyConfig, current_execution
from idempotency_mw.core.record import Status
from idempotency_mw.persistence.memory import MemoryPersistenceLayer
from idempotency_mw.testing import FailingPersistenceLayer, ManualClock
from idempotency_mw.wsgi import IdempotencyMiddleware
from tests.wsgi.driver import TEXT, Body, NotingLayer, ProtocolError, Service, environ_of
from tests.wsgi.flows import (
    BROKEN,
    NAMED,
    SMALL,
    STORE_ERRORS,
    a_list,
    an_error,
    answering,
    flow,
    nothing,
    raising,
    undeclared,
)


@pytest.mark.row(46)
@pytest.mark.parametrize("on_error", ["release", "store"])
def test_an_app_without_a_response_fails_and_the_server_reports_it(memory, on_error):
    service = Service(lambda environ, start: [], memory, config=IdempotencyConfig(on_error=on_error))
    answer = service.request()
    assert isinstance(answer.raised, ProtocolError)
    assert answer.status is None
    if on_error == "release":
        assert memory.record() is None
    else:
        assert service.request().ok().slug == "execution-failed"


@pytest.mark.row(44)
@pytest.mark.fault(10)
@pytest.mark.parametrize("chunks", [(b"do",), (b"do", b"ne!")], ids=["less than declared", "more than declared"])
def test_an_answer_of_another_length_than_declared_is_not_stored(memory, chunks):
    app = answering(*chunks, headers=[TEXT, ("Content-Length", "4")])
    assert Service(app, memory).request().ok().body == b"".join(chunks)
    assert memory.record() is None


@pytest.mark.row(43)
def test_an_exception_after_the_declared_length_keeps_the_record(memory):
    def app(environ, start_response):
        start_response("200 OK", [TEXT, ("Content-Length", "4")])
        yield b"done"
        raise BROKEN

    service = Service(app, memory)
    answer = service.request()
    assert (answer.raised, answer.body) == (BROKEN, b"done")
    assert service.request().ok().replayed


@pytest.mark.row(42)
@pytest.mark.fault(9)
def test_with_stored_errors_an_exception_is_replayed_as_a_failure(memory):
    service = Service(raising, memory, config=STORE_ERRORS)
    assert service.request().raised is BROKEN
    retry = service.request().ok()
    assert (retry.status, retry.slug, retry.replayed, service.runs) == (500, "execution-failed", True, 1)


@pytest.mark.row(54)
def test_with_stored_errors_a_discarded_exception_is_not_stored(memory):
    def app(environ, start_response):
        assert current_execution().discard()
        raise BROKEN

    assert Service(app, memory, config=STORE_ERRORS).request().raised is BROKEN
    assert memory.calls == ["acquire", "release"]


@pytest.mark.row(54)
def test_discard_returns_false_after_the_settling(memory):
    said = []

    def app(environ, start_response):
        start_response("200 OK", [TEXT, ("Content-Length", "4")])
        yield b"done"
        said.append(current_execution().discard())

    service = Service(app, memory)
    service.request().ok()
    assert said == [False]
    assert service.request().replayed


@pytest.mark.row(77)
@pytest.mark.fault(12)
@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1), GeneratorExit()], ids=repr)
@pytest.mark.parametrize("on_error", ["release", "store"])
@pytest.mark.parametrize("moment", ["call", "body", "write"])
def test_the_claim_of_an_interrupted_app_lapses(memory, clock, error, on_error, moment):
    def app(environ, start_response):
        write = start_response("200 OK", [TEXT])
        if moment == "write":
            write(b"do")
        if moment != "body":
            raise error
        return Body(body(), environ["test.events"])

    def body() -> Iterator[bytes]:
        yield b"do"
        raise error

    service = Service(app, memory, config=IdempotencyConfig(on_error=on_error))
    assert flow(service.middleware).raised is error
    assert memory.calls == ["acquire"]
    assert memory.record().status is Status.IN_PROGRESS
    assert service.request().slug == "in-progress"
    clock.advance(31)
    flow(service.middleware)
    assert service.executions[-1].attempt == 2


# A store that fails.


@pytest.mark.row(104)
@pytest.mark.fault(15)
@pytest.mark.parametrize("verb", ["complete", "release"])
@pytest.mark.parametrize("app", [undeclared, an_error], **NAMED)
def test_a_client_gets_its_answer_if_the_store_fails_at_the_end(memory, app, verb, caplog):
    failing = FailingPersistenceLayer(memory.store)
    failing.fail_before(verb)
    answer = flow(Service(app, failing).middleware).ok()
    assert answer.body in (b"done", b"busy")
    expected = {"complete": undeclared, "release": an_error}[verb] is app
    assert ("the lease has to lapse" in caplog.text) is expected


# The heartbeat.


class BuggyLayer(NotingLayer):
    """A layer with a bug."""

    def complete(self, claim: Any, result: Any) -> Any:
        raise ZeroDivisionError


def ending_late(environ, start_response):
    """Settle by the declared length, and run a little longer."""
    start_response("200 OK", [TEXT, ("Content-Length", "4")])
    yield b"done"
    time.sleep(0.05)


def interrupted(environ, start_response):
    raise KeyboardInterrupt


def endless(environ, start_response):
    start_response("200 OK", [TEXT])
    return iter(partial(bytes, 1), None)


@pytest.mark.row(51, 77, 94)
@pytest.mark.parametrize(
    ("app", "layer"),
    [
        (ending_late, NotingLayer),
        (interrupted, NotingLayer),
        (endless, NotingLayer),
        (a_list, BuggyLayer),
        (raising, NotingLayer),
    ],
    **NAMED,
)
def test_the_heartbeat_stops_however_the_run_ends(app, layer, caplog):
    store = layer(MemoryPersistenceLayer(clock=ManualClock()))  # no lease ends, however slow the machine is
    config = IdempotencyConfig(lease_seconds=0.03, expires_after_seconds=0.1)
    middleware = IdempotencyMiddleware(app, persistence_store=store, config=config, http=SMALL)
    body = None
    with contextlib.suppress(KeyboardInterrupt, ZeroDivisionError, RuntimeError):
        body = middleware(environ_of(), lambda *_: None)
        for _ in islice(body, 4):
            pass
    if body is not None:
        with contextlib.suppress(ZeroDivisionError):
            body.close()
    beats = store.calls.count("extend")
    time.sleep(0.05)
    assert store.calls.count("extend") == beats
    assert "claim was lost" not in caplog.text


def test_an_error_raised_by_start_response_is_in_no_reference_cycle(memory):
    class OneError(Exception):
        pass

    def noted() -> Any:
        error = OneError()
        seen.append(weakref.ref(error))
        return OneError, error, None

    def app(environ, start_response):
        start_response("200 OK", [TEXT])(b"part")
        start_response("500 Broken", [TEXT], noted())

    seen: list[Any] = []
    middleware = Service(app, memory).middleware
    gc.collect()
    gc.disable()
    try:
        with contextlib.suppress(OneError):
            middleware(environ_of(), lambda *_: None)
        assert seen[0]() is None
    finally:
        gc.enable()


def test_closing_the_body_without_iterating_it_stores_the_answer(memory):
    started = []
    service = Service(nothing, memory)
    service.middleware(environ_of(), lambda *arguments: started.append(arguments)).close()
    assert started == []
    assert service.request().replayed
