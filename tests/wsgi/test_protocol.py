"""Rows 89 to 99: PEP 3333 on both sides, and when the record is completed."""

import contextlib
import gc
import io
import time
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from typing import Any
from wsgiref.util import FileWrapper
from wsgiref.validate import validator

import pytest
from werkzeug.middleware.lint import LintMiddleware

from idempotency_mw import HTTPConfig, IdempotencyConfig, current_execution
from idempotency_mw.core.record import Status
from idempotency_mw.persistence.memory import MemoryPersistenceLayer
from idempotency_mw.testing import FailingPersistenceLayer, ManualClock
from idempotency_mw.wsgi import IdempotencyMiddleware
from idempotency_mw.wsgi import run as wsgi_run
from tests import canaries
from tests.wsgi.driver import TEXT, Body, Noting, ProtocolError, Service, environ_of, serve

BROKEN = RuntimeError("the app broke")
STORE_ERRORS = IdempotencyConfig(on_error="store")
SMALL = HTTPConfig(max_response_body=50, methods=("POST", "HEAD"))


def answering(
    *chunks: Any, status: str = "200 OK", headers: Iterable[tuple[str, str]] = (TEXT,), events: Any = None
) -> Any:
    """Return an app that gives these chunks in an iterable that it has to have closed."""

    def app(environ, start_response):
        start_response(status, list(headers))
        return Body(chunks, [] if events is None else events)

    return app


# The flows: each an app that keeps to PEP 3333, however unusual it may be.


def a_list(environ, start_response):
    start_response("201 Created", [TEXT, ("Location", "/pay/1")])
    return [b"done"]


def two_in_a_list(environ, start_response):
    start_response("200 OK", [TEXT])
    return [b"do", b"ne"]


def nothing(environ, start_response):
    start_response("200 OK", [TEXT])
    return []


def only_empty(environ, start_response):
    start_response("200 OK", [TEXT])
    return [b""]


def no_content(environ, start_response):
    start_response("204 No Content", [])
    return []


def declared(environ, start_response):
    start_response("200 OK", [TEXT, ("Content-Length", "4")])
    return Body([b"do", b"", b"ne"], environ["test.events"])


def undeclared(environ, start_response):
    start_response("200 OK", [TEXT])
    return Body([b"", b"d", b"o", b"", b"ne", b""], environ["test.events"])


def late_start(environ, start_response):
    def body() -> Iterator[bytes]:
        yield b""
        start_response("200 OK", [TEXT])
        yield b"done"

    # The validator asks for the start at the first chunk, even if it is empty.
    started = body()
    next(started)
    return Body(started, environ["test.events"])


def write_alone(environ, start_response):
    write = start_response("200 OK", [TEXT])
    write(b"do")
    write(b"")
    write(b"ne")
    return []


def write_and_iterable(environ, start_response):
    write = start_response("200 OK", [TEXT])
    write(b"d")
    write(b"o")
    return Body([b"n", b"e"], environ["test.events"])


def write_and_one(environ, start_response):
    start_response("200 OK", [TEXT])(b"do")
    return [b"ne"]


def replaced_before_output(environ, start_response):
    start_response("500 Broken", [TEXT, ("X-First", "1")])
    try:
        raise BROKEN
    except RuntimeError as error:
        start_response("200 OK", [TEXT, ("X-Last", "1")], (type(error), error, error.__traceback__))
    return [b"done"]


def a_file(environ, start_response):
    start_response("200 OK", [TEXT])
    return FileWrapper(io.BytesIO(b"done"), 3)


def reading(environ, start_response):
    body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
    start_response("200 OK", [TEXT])
    return [body]


def an_error(environ, start_response):
    start_response("503 Busy", [TEXT])
    return [b"busy"]


def too_large(environ, start_response):
    start_response("200 OK", [TEXT])
    return Body([b"x" * 30, b"y" * 30], environ["test.events"])


def discarded(environ, start_response):
    assert current_execution().discard()
    return undeclared(environ, start_response)


def raising(environ, start_response):
    raise BROKEN


def raising_after_start(environ, start_response):
    start_response("200 OK", [TEXT])
    raise BROKEN


def raising_in_body(environ, start_response):
    def body() -> Iterator[bytes]:
        yield b"d"
        yield b"o"
        raise BROKEN

    start_response("200 OK", [TEXT])
    return Body(body(), environ["test.events"])


def raising_at_the_first(environ, start_response):
    def body() -> Iterator[bytes]:
        raise BROKEN
        yield b""

    start_response("200 OK", [TEXT])
    return Body(body(), environ["test.events"])


def raising_in_close(environ, start_response):
    start_response("200 OK", [TEXT])
    return Body([b"do", b"ne"], environ["test.events"], on_close=BROKEN)


def replacing_after_output(environ, start_response):
    def body() -> Iterator[bytes]:
        yield b"do"
        yield b"ne"
        try:
            raise BROKEN
        except RuntimeError as error:
            start_response("500 Broken", [TEXT], (type(error), error, error.__traceback__))
        yield b"never"

    start_response("200 OK", [TEXT])
    return Body(body(), environ["test.events"])


KEPT = [
    a_list,
    two_in_a_list,
    nothing,
    only_empty,
    no_content,
    declared,
    undeclared,
    late_start,
    write_alone,
    write_and_iterable,
    write_and_one,
    replaced_before_output,
    a_file,
    reading,
    raising_in_close,
]
NOT_KEPT = [
    an_error,
    discarded,
    raising,
    raising_after_start,
    raising_in_body,
    raising_at_the_first,
    replacing_after_output,
]
TOMBSTONES = [too_large]
CLOSED = [
    declared,
    undeclared,
    late_start,
    write_and_iterable,
    too_large,
    discarded,
    raising_in_body,
    raising_at_the_first,
    raising_in_close,
    replacing_after_output,
]
NAMED = {"ids": lambda value: getattr(value, "__name__", None)}


def flow(app: Any, **options: Any) -> Any:
    """Make one request of a flow, through a validator on both sides of the middleware."""
    events: list[Any] = []
    return serve(app, events=events, **options, **{"test.events": events})


def guarded(app: Any, store: Any, guard: Callable[[Any], Any], **options: Any) -> Any:
    return guard(IdempotencyMiddleware(guard(app), persistence_store=store, http=SMALL, **options))


@pytest.mark.row(89, 93)
@pytest.mark.parametrize("stop_after", [None, 0, 1])
@pytest.mark.parametrize("method", ["POST", "HEAD"])
@pytest.mark.parametrize("key", [canaries.KEY, None], ids=["keyed", "unkeyed"])
@pytest.mark.parametrize("app", [*KEPT, *NOT_KEPT, *TOMBSTONES], **NAMED)
def test_every_flow_satisfies_the_validator_on_both_sides(memory, app, key, method, stop_after):
    if key is None and app is discarded:
        pytest.skip("nothing to discard without a key")
    guarded_app = guarded(app, memory, validator)
    for _ in range(2):
        answer = flow(guarded_app, key=key, method=method, stop_after=stop_after)
        assert answer.raised in (None, BROKEN)
        assert answer.events.count("closed") <= 1


# What Werkzeug's lint remarks on, with or without the middleware, although the app is right.
FALSE_ALARMS = {
    "Absolute URLs required for location header.",  # not since RFC 7231, section 7.1.2
    "204 responses must have an empty content length.",  # it takes none for one
    # To a HEAD, and after an early stop.
    "Content-Length and the number of bytes sent to the client do not match.",
}


@pytest.mark.row(89)
@pytest.mark.parametrize("options", [{}, {"stop_after": 1}, {"method": "HEAD"}], ids=str)
@pytest.mark.parametrize("app", [*KEPT, *NOT_KEPT, *TOMBSTONES], **NAMED)
def test_every_flow_satisfies_werkzeugs_lint_but_for_its_false_alarms(memory, app, options):
    guarded_app = guarded(app, memory, LintMiddleware)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            answer = flow(guarded_app, **options)
            assert answer.raised in (None, BROKEN)
    assert {str(each.message) for each in caught} <= FALSE_ALARMS


@pytest.mark.row(40, 90, 91, 92, 97)
@pytest.mark.parametrize("app", KEPT, **NAMED)
def test_whatever_way_a_whole_answer_takes_it_is_kept_and_replayed(store, app):
    service = Service(app, store)
    first, retry = flow(service.middleware), flow(service.middleware)
    assert first.raised is (BROKEN if app is raising_in_close else None)
    assert (first.replayed, retry.ok().replayed, service.runs) == (False, True, 1)
    assert retry.brief() == first.brief()
    assert first.body in (b"done", b"{}", b"")
    assert retry.one("content-length") == (None if first.status == 204 else str(len(first.body)))
    assert store.calls == ["acquire", "complete", "acquire"]


@pytest.mark.row(41, 42, 44, 54, 92)
@pytest.mark.fault(9, 10)
@pytest.mark.parametrize("app", NOT_KEPT, **NAMED)
def test_an_answer_that_failed_or_was_discarded_is_not_kept(store, app):
    service = Service(app, store)
    for _ in range(2):
        answer = flow(service.middleware)
        assert answer.raised is (None if app in (an_error, discarded) else BROKEN)
        assert store.record() is None
        assert not answer.replayed
    assert service.runs == 2


@pytest.mark.row(93)
@pytest.mark.parametrize("stop_after", [None, 0, 1])
@pytest.mark.parametrize("app", CLOSED, **NAMED)
def test_the_apps_own_close_is_called_once_and_last(memory, app, stop_after):
    answer = flow(Service(app, memory, http=SMALL).middleware, stop_after=stop_after)
    assert answer.events.count("closed") == 1
    assert answer.events[-1] == "closed"


@pytest.mark.row(93)
def test_a_server_may_close_twice(memory):
    events: list[Any] = []
    answer = Service(answering(b"a", b"b", events=events), memory).middleware
    service_answer = serve(lambda *arguments: _closing_twice(answer(*arguments)))
    assert service_answer.ok().body == b"ab"
    assert events.count("closed") == 1


def _closing_twice(body: Any) -> Iterator[bytes]:
    yield from body
    body.close()
    body.close()


@pytest.mark.row(93)
def test_an_iterable_that_can_not_be_iterated_is_closed_too(memory):
    class Broken:
        closed = 0

        def __iter__(self) -> Iterator[bytes]:
            raise BROKEN

        def close(self) -> None:
            self.closed += 1

    body = Broken()

    def app(environ, start_response):
        start_response("200 OK", [TEXT])
        return body

    assert Service(app, memory).request().raised is BROKEN
    assert body.closed == 1
    assert memory.record() is None


@pytest.mark.row(90)
def test_a_start_at_the_first_iteration_is_in_time(memory):
    def app(environ, start_response):
        start_response("202 Accepted", [TEXT])
        yield b"done"

    service = Service(app, memory)
    assert service.request().ok().brief() == (202, b"done")
    assert service.request().replayed


@pytest.mark.row(92)
def test_the_last_headers_before_output_are_sent_and_stored(memory):
    service = Service(replaced_before_output, memory)
    for answer in (service.request(), service.request()):
        assert answer.status == 200
        assert (answer.one("x-last"), answer.one("x-first")) == ("1", None)


@pytest.mark.row(92)
def test_after_output_the_error_goes_to_the_app_with_its_traceback(memory):
    answer = Service(replacing_after_output, memory).request(**{"test.events": []})
    assert answer.raised is BROKEN
    assert answer.raised.__traceback__ is not None
    assert answer.brief() == (200, b"do")
    assert memory.calls == ["acquire", "release"]


@pytest.mark.row(92)
def test_what_was_yielded_counts_as_output_although_it_is_still_held(memory):
    def app(environ, start_response):
        start_response("200 OK", [TEXT])
        yield b"done"
        start_response("500 Broken", [TEXT], (RuntimeError, BROKEN, None))

    answer = Service(app, memory).request()
    assert answer.raised is BROKEN
    assert answer.events == []  # the server still can say what went wrong


@pytest.mark.row(44)
@pytest.mark.parametrize(
    ("broken", "error"),
    [
        (lambda environ, start: (start("200 OK", [TEXT]), start("200 OK", [TEXT])), AssertionError),
        (lambda environ, start: [b"x"], AssertionError),
        (lambda environ, start: start("200 OK", [TEXT]) and "text", TypeError),
        (lambda environ, start: start("200 OK", [TEXT]) and b"bytes", TypeError),
        (lambda environ, start: start("200 OK", [TEXT]) and [None], TypeError),
        (lambda environ, start: start("200 OK", [TEXT]) and None, TypeError),
        (lambda environ, start: start("nonsense", [TEXT]), ValueError),
        (lambda environ, start: start("200 OK", [("X-Wide", "\u20ac")]), UnicodeEncodeError),
        (lambda environ, start: start("200 OK", [(b"X-Bytes", b"1")]), TypeError),
    ],
    ids=["two starts", "no start", "text", "bytes", "None in it", "None", "status", "header", "header of bytes"],
)
def test_an_app_that_breaks_the_protocol_fails_and_frees_its_key(memory, broken, error):
    service = Service(broken, memory)
    assert isinstance(service.request().raised, error)
    assert memory.calls == ["acquire", "release"]


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


# What goes out, and when.


@pytest.mark.row(79, 95)
def test_each_chunk_is_out_before_the_next_but_one_is_asked_for(memory):
    events: list[Any] = []
    app = answering(b"1", b"", b"2", b"3", events=events)
    service = Service(app, memory)
    service.request(events=events).ok()
    expected = ["asked b'1'", "asked b''", "asked b'2'", "headers", b"1", "asked b'3'", b"2", b"3", "closed"]
    assert events == expected


@pytest.mark.row(79, 95)
def test_with_a_declared_length_each_chunk_is_out_before_the_next_is_asked_for(memory):
    events: list[Any] = []
    app = answering(b"1", b"", b"23", headers=[("Content-Length", "3")], events=events)
    Service(app, memory).request(events=events).ok()
    assert events == ["asked b'1'", "headers", b"1", "asked b''", "asked b'23'", b"23", "closed"]


@pytest.mark.row(34, 95)
@pytest.mark.parametrize("app", KEPT, **NAMED)
def test_the_record_is_completed_before_the_last_byte_goes_out(memory, app):
    events: list[Any] = []

    class Watching:
        acquire, extend, release = memory.acquire, memory.extend, memory.release

        def complete(self, claim, result):
            events.append("completed")
            return memory.complete(claim, result)

    answer = serve(Service(app, Watching()).middleware, events=events, **{"test.events": events})
    out = [each for each in events if each == "headers" or isinstance(each, bytes)]
    before = events[: events.index("completed")]
    assert out[-1] not in before
    assert b"".join(each for each in before if isinstance(each, bytes)) != answer.body or not answer.body
    if len(out) < 3:
        assert "headers" not in before  # of an empty answer, or one of one chunk, the headers say enough


@pytest.mark.row(71, 95)
@pytest.mark.parametrize("chunks", [(b"a body",), (b"a", b"body")])
@pytest.mark.parametrize("status", ["200 OK", "204 No Content", "304 Not Modified"])
def test_where_no_body_goes_out_the_headers_wait_for_the_record(memory, status, chunks):
    method = "HEAD" if status == "200 OK" else "POST"
    events: list[Any] = []
    app = answering(*chunks, status=status, headers=[("X-A", "1")], events=events)
    service = Service(app, memory, http=HTTPConfig(methods=("POST", "HEAD")))
    first = service.request(method=method, events=events).ok()
    retry = service.request(method=method).ok()
    assert events[-2:] == ["headers", "closed"]
    assert first.brief() == retry.brief() == (int(status[:3]), b"")
    assert retry.replayed


@pytest.mark.row(97)
@pytest.mark.parametrize("size", [49, 51])
def test_a_wrapped_file_is_stored_or_a_tombstone_and_closed(memory, size):
    file = io.BytesIO(bytes(size))

    def app(environ, start_response):
        start_response("200 OK", [TEXT])
        return environ["wsgi.file_wrapper"](file, 20)

    service = Service(app, memory, http=SMALL)
    answer = service.request(**{"wsgi.file_wrapper": FileWrapper}).ok()
    assert answer.body == bytes(size)
    assert file.closed
    assert memory.record().status is (Status.COMPLETED if size == 49 else Status.NOT_KEPT)
    assert service.request().status == (200 if size == 49 else 409)


@pytest.mark.row(97)
def test_a_wrapper_that_knows_only_getitem_is_iterated_as_servers_do(memory):
    class OldWrapper:
        def __init__(self, chunks: list[bytes]) -> None:
            self.chunks = chunks

        def __getitem__(self, index: int) -> bytes:
            return self.chunks[index]

    def app(environ, start_response):
        start_response("200 OK", [TEXT])
        return OldWrapper([b"do", b"ne"])

    assert Service(app, memory).request().ok().body == b"done"
    assert memory.record().status is Status.COMPLETED


# A client that hangs up.


@pytest.mark.row(76, 94)
@pytest.mark.fault(11)
@pytest.mark.parametrize("stop_after", [0, 1, 2])
@pytest.mark.parametrize("app", [undeclared, write_and_iterable, late_start, two_in_a_list], **NAMED)
def test_when_the_client_has_gone_the_rest_is_drained_and_the_retry_replays_the_whole(store, app, stop_after):
    service = Service(app, store)
    flow(service.middleware, stop_after=stop_after).ok()
    retry = flow(service.middleware).ok()
    assert (retry.brief(), retry.replayed, service.runs) == ((200, b"done"), True, 1)


@pytest.mark.row(94)
def test_a_settled_answer_is_not_drained(memory):
    events: list[Any] = []
    app = answering(b"done", b"", b"", headers=[("Content-Length", "4")], events=events)
    Service(app, memory).request(stop_after=1, events=events).ok()
    assert events == ["asked b'done'", "headers", b"done", "closed"]


@pytest.mark.row(94)
@pytest.mark.fault(17)
def test_an_answer_too_large_to_keep_is_not_drained_any_further(memory, caplog):
    events: list[Any] = []
    app = answering(*[b"x" * 20] * 100, events=events)
    service = Service(app, memory, http=SMALL)
    service.request(stop_after=1, events=events).ok()
    assert events.count("asked b'xxxxxxxxxxxxxxxxxxxx'") == 3
    assert memory.calls == ["acquire"]
    assert service.request().slug == "in-progress"
    assert "the lease has to lapse" in caplog.text


@pytest.mark.row(94)
@pytest.mark.fault(11)
def test_what_does_not_end_in_time_is_left_to_lapse(memory, clock, caplog, monkeypatch):
    monkeypatch.setattr(wsgi_run, "DRAIN_SECONDS", 0.02)
    events: list[Any] = []

    def silent(environ, start_response):
        start_response("200 OK", [TEXT])
        return Body(iter(partial(bytes, 0), None), events)

    service = Service(silent, memory)
    service.request(stop_after=0, events=events).ok()
    assert events[-1] == "closed"
    assert memory.calls == ["acquire"]
    assert "the lease has to lapse" in caplog.text
    clock.advance(31)
    service.request(stop_after=0)
    assert service.executions[-1].attempt == 2


@pytest.mark.row(94)
@pytest.mark.fault(10, 11)
def test_an_exception_while_draining_frees_the_key_and_goes_on(memory):
    service = Service(raising_in_body, memory)
    answer = flow(service.middleware, stop_after=0)
    assert answer.raised is BROKEN
    assert answer.events[-1] == "closed"
    assert memory.calls == ["acquire", "release"]


@pytest.mark.row(76, 91)
@pytest.mark.fault(11)
def test_a_client_gone_while_the_app_writes_is_not_the_apps_business(memory):
    written = []

    def gone(chunk: bytes) -> None:
        written.append(chunk)
        raise BrokenPipeError

    def app(environ, start_response):
        write = start_response("200 OK", [TEXT])
        for chunk in (b"d", b"o", b"n", b"e"):
            write(chunk)
        return []

    service = Service(app, memory)
    list(service.middleware(*_server_with(gone)))
    assert written == [b"d"]
    assert service.request().ok().body == b"done"


@pytest.mark.row(91, 94)
def test_an_app_that_writes_while_it_is_drained_writes_to_nobody(memory):
    written = []

    def app(environ, start_response):
        write = start_response("200 OK", [TEXT])
        yield b"d"
        for chunk in (b"o", b"n", b"e"):
            write(chunk)

    service = Service(app, memory)
    service.middleware(*_server_with(written.append)).close()
    assert written == []
    assert service.request().ok().body == b"done"


def _server_with(write: Callable[[bytes], object]) -> Any:
    return environ_of(), lambda status, headers, exc_info=None: write


# A late owner.


def lapsing(clock: Any, memory: Any, first: Any, **options: Any) -> tuple[Service, list[Any]]:
    """Return a service whose first run loses its claim to a second one, which answers `theirs`."""
    winner: list[Any] = []

    def app(environ, start_response):
        if service.runs > 1:
            start_response("200 OK", [TEXT])
            return [b"theirs"]
        return first(environ, start_response, lapse)

    def lapse() -> None:
        clock.advance(31)
        winner.append(service.request())

    config = IdempotencyConfig(lease_seconds=30, heartbeat=False, **options)
    service = Service(app, memory, config=config)
    return service, winner


@pytest.mark.row(50)
@pytest.mark.fault(8)
@pytest.mark.parametrize("way", ["list", "body", "write"])
def test_a_late_owner_gets_the_winners_replay_and_the_rest_of_its_own_is_swallowed(memory, clock, way):
    def first(environ, start_response, lapse):
        write = start_response("200 OK", [TEXT, ("Content-Length", "2"), ("X-Mine", "1")])
        lapse()
        if way == "write":
            write(b"mi")
            write(b"ne")
        return [b"mi"] if way == "list" else iter([b"mi", b"ne"])

    service, winner = lapsing(clock, memory, first)
    answer = service.request().ok()
    assert (answer.brief(), answer.replayed, answer.one("x-mine")) == ((200, b"theirs"), True, None)
    assert (winner[0].body, winner[0].replayed) == (b"theirs", False)


@pytest.mark.row(50)
def test_a_late_owner_of_no_declared_length_gets_the_winners_replay(memory, clock):
    def first(environ, start_response, lapse):
        start_response("200 OK", [TEXT])
        yield b"mine"
        lapse()

    service, _ = lapsing(clock, memory, first)
    assert service.request().ok().brief() == (200, b"theirs")


@pytest.mark.row(50)
@pytest.mark.fault(8)
def test_a_late_owner_that_has_sent_a_part_goes_on_with_its_own(memory, clock):
    def first(environ, start_response, lapse):
        start_response("200 OK", [TEXT])
        yield b"mi"
        yield b"n"
        lapse()
        yield b"e"

    service, _ = lapsing(clock, memory, first)
    answer = service.request().ok()
    assert (answer.body, answer.replayed) == (b"mine", False)
    assert service.request().body == b"theirs"


@pytest.mark.row(50)
@pytest.mark.fault(8)
def test_a_late_owner_is_refused_as_the_record_now_says(memory, clock):
    def first(environ, start_response, lapse):
        start_response("200 OK", [TEXT])
        yield b"mine"
        clock.advance(31)
        stranger = Service(hanging, memory, config=IdempotencyConfig(heartbeat=False))
        stranger.request()

    def hanging(environ, start_response):
        raise KeyboardInterrupt

    service, _ = lapsing(clock, memory, first)
    answer = service.request().ok()
    assert (answer.status, answer.slug) == (409, "in-progress")


@pytest.mark.row(50)
@pytest.mark.fault(8)
@pytest.mark.parametrize("moment", ["call", "body"])
@pytest.mark.parametrize("guard", [lambda app: app, validator], ids=["bare", "validated"])
def test_a_late_owner_that_failed_gets_the_winners_replay_and_then_the_exception_goes_on(
    memory, clock, moment, guard
):
    def first(environ, start_response, lapse):
        if moment == "call":
            lapse()
            raise BROKEN
        return failing(start_response, lapse)

    def failing(start_response, lapse):
        start_response("200 OK", [TEXT])
        yield b""
        lapse()
        raise BROKEN

    service, _ = lapsing(clock, memory, first, on_error="store")
    answer = serve(guard(service.middleware))
    assert answer.raised is BROKEN
    assert (answer.brief(), answer.replayed) == ((200, b"theirs"), True)


@pytest.mark.row(50)
def test_a_late_owner_that_failed_gets_the_winners_empty_answer_too(memory, clock):
    def app(environ, start_response):
        if service.runs > 1:
            return no_content(environ, start_response)
        clock.advance(31)
        service.request()
        raise BROKEN

    started = []
    service = Service(app, memory, config=IdempotencyConfig(heartbeat=False, on_error="store"))
    with pytest.raises(RuntimeError):
        list(service.middleware(environ_of(), lambda *arguments: started.append(arguments)))
    assert started[0][0] == "204 No Content"


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
