"""The verdict on a run, by its captured answer."""

import json

import pytest

from idempotency_mw.core.machine import Answered, Discarded, Failed, Kept
from idempotency_mw.http.config import HTTPConfig
from tests.http.exchanges import BASE, MARKER, OURS, SECRETS, exchange, length, replayed


@pytest.mark.row(40, 41)
@pytest.mark.parametrize(
    ("status", "storable"),
    [(200, True), (204, True), (303, True), (399, True), (400, False), (404, False), (500, False)],
)
def test_the_status_decides_whether_an_answer_is_storable(status: int, storable: bool) -> None:
    capture = OURS.replies.capture(BASE)
    capture.start(status, ())
    capture.finish()
    assert OURS.replies.verdict(capture, discarded=False) == Answered(storable=storable, captured=True)


@pytest.mark.row(40, 41)
def test_storable_statuses_are_configurable() -> None:
    ours = exchange(HTTPConfig(storable=lambda status: status == 404))
    capture = ours.replies.capture(BASE)
    capture.start(404, ())
    capture.finish()
    assert ours.replies.verdict(capture, discarded=False) == Answered(storable=True, captured=True)


@pytest.mark.row(44, 46)
@pytest.mark.parametrize("sent", [None, b"", b"ab"])
def test_an_answer_that_is_not_whole_is_a_failure(sent: bytes | None) -> None:
    capture = OURS.replies.capture(BASE)
    if sent is not None:
        capture.start(200, ((b"content-length", b"3"),))
        capture.add(sent)
        capture.finish()
    assert OURS.replies.verdict(capture, discarded=False) == Failed()


@pytest.mark.row(46)
def test_a_body_without_a_start_is_a_failure() -> None:
    capture = OURS.replies.capture(BASE)
    capture.add(b"body")
    capture.finish()
    assert OURS.replies.verdict(capture, discarded=False) == Failed()


@pytest.mark.row(53)
def test_an_answer_over_the_limit_is_not_captured() -> None:
    ours = exchange(HTTPConfig(max_response_body=2))
    capture = ours.replies.capture(BASE)
    capture.start(200, ())
    capture.add(b"abc")
    capture.finish()
    assert ours.replies.verdict(capture, discarded=False) == Answered(storable=True, captured=False)
    assert ours.replies.encode(Kept.NOTHING, capture) is None


@pytest.mark.row(54)
def test_a_discarded_answer_is_discarded_even_if_it_is_not_whole() -> None:
    assert OURS.replies.verdict(OURS.replies.capture(BASE), discarded=True) == Discarded()


@pytest.mark.row(42, 44)
def test_a_failure_is_stored_as_a_problem() -> None:
    capture = OURS.replies.capture(BASE)
    capture.start(200, ((b"x-part", b"s3cr3t"),))
    capture.add(b"4111")
    replay = replayed(OURS, BASE, OURS.replies.encode(Kept.FAILURE, capture))
    document = json.loads(replay.body)
    assert (replay.status, document["status"], document["type"]) == (
        500, 500, "urn:idempotency-mw:problem:execution-failed"
    )  # fmt: skip
    assert replay.headers == (
        (b"content-type", b"application/problem+json"),
        (b"content-language", b"en"),
        (b"cache-control", b"no-store"),
        length(len(replay.body)),
        MARKER,
    )
    assert not any(secret in str(replay.headers) + replay.body.decode() for secret in SECRETS)
