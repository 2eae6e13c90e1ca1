"""Rows 93 to 97: when chunks are sent, and a client that hangs up."""

import io
from collections.abc import Callable
from functools import partial
from typing import Any
from wsgiref.util import FileWrapper

import pytest

from idempotency_mw import HTTPConfig
from idempotency_mw.core.record import Status
from idempotency_mw.wsgi import run as wsgi_run
from tests.wsgi.driver import TEXT, Body, Service, environ_of, serve
from tests.wsgi.flows import (
    BROKEN,
    KEPT,
    NAMED,
    SMALL,
    answering,
    flow,
    late_start,
    raising_in_body,
    two_in_a_list,
    undeclared,
    write_and_iterable,
)

# When chunks are sent.


@pytest.mark.row(79, 95)
def test_one_chunk_at_most_is_held_back(memory):
    events: list[Any] = []
    app = answering(b"1", b"", b"2", b"3", events=events)
    service = Service(app, memory)
    service.request(events=events).ok()
    expected = ["asked b'1'", "asked b''", "asked b'2'", "headers", b"1", "asked b'3'", b"2", b"3", "closed"]
    assert events == expected


@pytest.mark.row(79, 95)
def test_with_a_declared_length_no_chunk_is_held_back(memory):
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
        assert "headers" not in before  # the headers alone would tell the client the length of so short an answer


@pytest.mark.row(71, 95)
@pytest.mark.parametrize("chunks", [(b"a body",), (b"a", b"body")])
@pytest.mark.parametrize("status", ["200 OK", "204 No Content", "304 Not Modified"])
def test_the_headers_of_a_bodiless_answer_wait_for_the_record(memory, status, chunks):
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
def test_a_wrapped_file_is_stored_or_leaves_a_tombstone_and_is_closed(memory, size):
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
def test_a_file_wrapper_with_getitem_alone_is_iterated(memory):
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
def test_after_a_hang_up_the_rest_is_drained_and_the_retry_gets_the_whole_answer(store, app, stop_after):
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
def test_an_answer_too_large_to_store_is_not_drained(memory, caplog):
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
def test_the_claim_of_an_app_that_does_not_end_in_time_while_draining_lapses(memory, clock, caplog, monkeypatch):
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
def test_an_exception_while_draining_frees_the_key_and_is_raised(memory):
    service = Service(raising_in_body, memory)
    answer = flow(service.middleware, stop_after=0)
    assert answer.raised is BROKEN
    assert answer.events[-1] == "closed"
    assert memory.calls == ["acquire", "release"]


@pytest.mark.row(76, 91)
@pytest.mark.fault(11)
def test_the_app_does_not_notice_a_client_that_hangs_up_while_it_writes(memory):
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
