"""Rows 89 to 93: PEP 3333 on both sides of the middleware."""

import warnings
from collections.abc import Iterator
from typing import Any
from wsgiref.validate import validator

import pytest
from werkzeug.middleware.lint import LintMiddleware

from tests import canaries
from tests.wsgi.driver import TEXT, Service, serve
from tests.wsgi.flows import (
    BROKEN,
    CLOSED,
    KEPT,
    NAMED,
    NOT_KEPT,
    SMALL,
    TOMBSTONES,
    an_error,
    answering,
    discarded,
    flow,
    guarded,
    raising_in_close,
    replaced_before_output,
    replacing_after_output,
)


@pytest.mark.row(89, 93)
@pytest.mark.parametrize("stop_after", [None, 0, 1])
@pytest.mark.parametrize("method", ["POST", "HEAD"])
@pytest.mark.parametrize("key", [canaries.KEY, None], ids=["keyed", "unkeyed"])
@pytest.mark.parametrize("app", [*KEPT, *NOT_KEPT, *TOMBSTONES], **NAMED)
def test_every_flow_satisfies_wsgirefs_validator_on_both_sides(memory, app, key, method, stop_after):
    if key is None and app is discarded:
        pytest.skip("nothing to discard without a key")
    guarded_app = guarded(app, memory, validator)
    for _ in range(2):
        answer = flow(guarded_app, key=key, method=method, stop_after=stop_after)
        assert answer.raised in (None, BROKEN)
        assert answer.events.count("closed") <= 1


# Werkzeug's lint warns about these with or without the middleware, although the app is right.
FALSE_ALARMS = {
    "Absolute URLs required for location header.",  # no longer since RFC 7231, section 7.1.2
    "204 responses must have an empty content length.",  # it warns also if there is no length
    # For HEAD, and after an early stop.
    "Content-Length and the number of bytes sent to the client do not match.",
}


@pytest.mark.row(89)
@pytest.mark.parametrize("options", [{}, {"stop_after": 1}, {"method": "HEAD"}], ids=str)
@pytest.mark.parametrize("app", [*KEPT, *NOT_KEPT, *TOMBSTONES], **NAMED)
def test_every_flow_satisfies_werkzeugs_lint_except_for_its_false_alarms(memory, app, options):
    guarded_app = guarded(app, memory, LintMiddleware)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            answer = flow(guarded_app, **options)
            assert answer.raised in (None, BROKEN)
    assert {str(each.message) for each in caught} <= FALSE_ALARMS


@pytest.mark.row(40, 90, 91, 92, 97)
@pytest.mark.parametrize("app", KEPT, **NAMED)
def test_every_flow_with_a_whole_answer_is_stored_and_replayed(store, app):
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
def test_an_answer_that_failed_or_was_discarded_is_not_stored(store, app):
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
def test_a_body_whose_iter_raises_is_closed(memory):
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
def test_an_app_may_call_start_response_at_the_first_iteration(memory):
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
def test_after_output_start_response_raises_the_error_with_its_traceback(memory):
    answer = Service(replacing_after_output, memory).request(**{"test.events": []})
    assert answer.raised is BROKEN
    assert answer.raised.__traceback__ is not None
    assert answer.brief() == (200, b"do")
    assert memory.calls == ["acquire", "release"]


@pytest.mark.row(92)
def test_a_chunk_that_is_still_held_counts_as_output(memory):
    def app(environ, start_response):
        start_response("200 OK", [TEXT])
        yield b"done"
        start_response("500 Broken", [TEXT], (RuntimeError, BROKEN, None))

    answer = Service(app, memory).request()
    assert answer.raised is BROKEN
    assert answer.events == []  # nothing was sent, so the server can still answer with an error


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
