"""However a run ends: what is settled, and what stops with it."""

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
from idempotency_mw.testing import FailingPersistenceLayer
from idempotency_mw.wsgi import IdempotencyMiddleware
from tests.wsgi.driver import TEXT, Body, Noting, ProtocolError, Service, environ_of
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

# The flows: each an app that keeps to PEP 3333, however unusual it may be.


@pytest.mark.row(46)
@pytest.mark.parametrize("on_error", ["release", "store"])
def test_an_app_without_a_response_is_a_failure_that_the_server_reports(memory, on_error):
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
def test_an_answer_of_another_length_than_declared_is_not_whole(memory, chunks):
    app = answering(*chunks, headers=[TEXT, ("Content-Length", "4")])
    assert Service(app, memory).request().ok().body == b"".join(chunks)
    assert memory.record() is None


@pytest.mark.row(43)
def test_an_exception_after_the_declared_length_leaves_the_record(memory):
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
def test_an_exception_is_a_stored_failure_where_errors_are_stored(memory):
    service = Service(raising, memory, config=STORE_ERRORS)
    assert service.request().raised is BROKEN
    retry = service.request().ok()
    assert (retry.status, retry.slug, retry.replayed, service.runs) == (500, "execution-failed", True, 1)


@pytest.mark.row(54)
def test_a_discarded_exception_is_not_stored_either(memory):
    def app(environ, start_response):
        assert current_execution().discard()
        raise BROKEN

    assert Service(app, memory, config=STORE_ERRORS).request().raised is BROKEN
    assert memory.calls == ["acquire", "release"]


@pytest.mark.row(54)
def test_discarding_after_the_settling_says_that_it_is_too_late(memory):
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
def test_what_interrupts_the_app_leaves_the_claim_to_lapse(memory, clock, error, on_error, moment):
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


# Where the store fails.


@pytest.mark.row(104)
@pytest.mark.fault(15)
@pytest.mark.parametrize("verb", ["complete", "release"])
@pytest.mark.parametrize("app", [undeclared, an_error], **NAMED)
def test_a_store_that_fails_at_the_end_changes_nothing_for_the_client(memory, app, verb, caplog):
    failing = FailingPersistenceLayer(memory.store)
    failing.fail_before(verb)
    answer = flow(Service(app, failing).middleware).ok()
    assert answer.body in (b"done", b"busy")
    expected = {"complete": undeclared, "release": an_error}[verb] is app
    assert ("the lease has to lapse" in caplog.text) is expected


# The heartbeat.


class Odd(Noting):
    """A layer with a bug."""

    def complete(self, claim: Any, result: Any) -> Any:
        raise ZeroDivisionError


def ending_in(environ, start_response):
    """Be settled by the declared length, and go on a little."""
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
    [(ending_in, Noting), (interrupted, Noting), (endless, Noting), (a_list, Odd), (raising, Noting)],
    **NAMED,
)
def test_however_a_run_ends_its_heartbeat_ends_too(app, layer, caplog):
    store = layer(MemoryPersistenceLayer())
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


def test_an_error_that_goes_back_to_the_app_is_kept_by_no_cycle(memory):
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


def test_a_server_that_closes_at_once_is_told_nothing(memory):
    started = []
    service = Service(nothing, memory)
    service.middleware(environ_of(), lambda *arguments: started.append(arguments)).close()
    assert started == []
    assert service.request().replayed
