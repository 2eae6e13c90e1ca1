"""Row 50: late owners, whose lease lapsed and whose key another request, the winner, took over."""

from typing import Any
from wsgiref.validate import validator

import pytest

from idempotency_mw import IdempotencyConfig
from tests.wsgi.driver import TEXT, Service, environ_of, serve
from tests.wsgi.flows import BROKEN, no_content


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
def test_a_late_owner_gets_the_winners_replay_and_nothing_of_its_own_answer(memory, clock, way):
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
def test_a_late_owner_without_a_declared_length_gets_the_winners_replay(memory, clock):
    def first(environ, start_response, lapse):
        start_response("200 OK", [TEXT])
        yield b"mine"
        lapse()

    service, _ = lapsing(clock, memory, first)
    assert service.request().ok().brief() == (200, b"theirs")


@pytest.mark.row(50)
@pytest.mark.fault(8)
def test_a_late_owner_that_has_sent_a_part_finishes_its_own_answer(memory, clock):
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
def test_a_late_owner_whose_key_is_in_progress_again_is_refused(memory, clock):
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
def test_a_late_owner_that_failed_gets_the_winners_replay_and_then_its_exception_is_raised(
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
def test_a_late_owner_that_failed_gets_the_winners_answer_also_if_it_is_empty(memory, clock):
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
