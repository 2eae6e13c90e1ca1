"""From an answer to its record and its replay, section F of the table; the response hook; refusals."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from idempotency_mw.core.machine import Kept, Reason, Reject
from idempotency_mw.core.record import Record, Status
from idempotency_mw.errors import IdempotencyConfigurationError
from idempotency_mw.http.config import HTTPConfig
from idempotency_mw.http.message import Headers, Response
from tests.http.exchanges import (
    BASE,
    FIRST,
    KEY,
    MARKER,
    OURS,
    answered,
    exchange,
    length,
    replayed,
    request,
    there_and_back,
)

# Section F: from an answer to its record, and to its replay.


@pytest.mark.row(35, 62, 65, 67, 68, 69)
def test_a_replay_is_the_answer_with_its_length_and_a_marker() -> None:
    headers = (
        (b"link", b"<a>"),
        (b"location", b"../a"),
        (b"x-a", b"\xe9"),
        (b"link", b"<b>"),
        (b"content-length", b"256"),
    )
    every_byte = bytes(range(256))
    assert there_and_back(299, headers, every_byte[:100], every_byte[100:]) == Response(
        299, (*headers[:4], length(256), MARKER), every_byte
    )


@pytest.mark.row(65)
def test_a_streamed_answer_is_replayed_with_its_length() -> None:
    headers = ((b"transfer-encoding", b"chunked"), (b"content-type", b"text/plain"))
    assert there_and_back(200, headers, b"a", b"", b"bc").headers == (headers[1], length(3), MARKER)


@pytest.mark.row(60, 63, 64)
def test_headers_that_belong_to_the_first_transmission_are_not_replayed() -> None:
    headers = (
        (b"date", b"now"),
        (b"set-cookie", b"s3cr3t"),
        (b"connection", b"x-hop"),
        (b"x-hop", b"1"),
        (b"x-ratelimit-limit", b"5"),
        (b"x-a", b"1"),
    )
    assert there_and_back(200, headers).headers == ((b"x-a", b"1"), length(0), MARKER)


@pytest.mark.row(60, 64)
def test_the_dropped_headers_are_configurable() -> None:
    headers = ((b"date", b"now"), (b"x-b", b"1"), (b"te", b"x"))
    replay = there_and_back(200, headers, dropped_headers=["X-*"])
    assert replay.headers == ((b"date", b"now"), length(0), MARKER)


@pytest.mark.row(66)
@pytest.mark.parametrize(
    ("status", "expected"), [(204, (MARKER,)), (205, (MARKER,)), (304, ((b"content-length", b"7"), MARKER))]
)
def test_a_bodiless_status_is_replayed_without_a_body(status: int, expected: Headers) -> None:
    replay = there_and_back(status, ((b"content-length", b"7"),), b"ignored")
    assert replay == Response(status, expected, b"")


@pytest.mark.row(2, 71)
def test_an_answer_to_head_is_replayed_without_a_body_but_with_its_length() -> None:
    headers = ((b"content-type", b"text/plain"), (b"content-length", b"7"))
    assert there_and_back(200, headers, method="HEAD") == Response(200, (*headers, MARKER), b"")
    assert there_and_back(200, headers[:1], b"ignored", method="HEAD") == Response(200, (headers[0], MARKER), b"")


@pytest.mark.row(70)
def test_a_replay_marker_that_the_app_sets_is_removed() -> None:
    headers = ((b"Idempotent-Replayed", b"false"), (b"x-a", b"1"))
    assert exchange().replies.without_marker(headers) == ((b"x-a", b"1"),)
    assert there_and_back(200, headers).headers == ((b"x-a", b"1"), length(0), MARKER)


@pytest.mark.row(35, 70)
def test_the_replay_marker_has_the_configured_name() -> None:
    headers = ((b"idempotent-replayed", b"mine"), (b"x-replayed", b"mine"))
    replay = there_and_back(200, headers, replay_header="X-Replayed")
    assert replay.headers == (headers[0], length(0), (b"x-replayed", b"true"))


@pytest.mark.row(72)
@pytest.mark.parametrize("line", [(b"x", b"a\r\nb: c"), (b"x", b"a\x00"), (b"a:b", b"c"), (b"", b"x")])
def test_an_answer_with_an_invalid_header_is_not_encoded(line: tuple[bytes, bytes]) -> None:
    capture = exchange().replies.capture(BASE)
    capture.start(200, (line,))
    capture.finish()
    assert exchange().replies.encode(Kept.ANSWER, capture) is None


@pytest.mark.row(52, 72)
@pytest.mark.parametrize(
    "result", [None, b"", b"x", b"2200000000", b"1200000008a:b\r\nc:\nd", b"1200000005a:\x00\nd"]
)
def test_an_unreadable_stored_answer_is_refused_and_reported(
    result: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    refusal = replayed(OURS, BASE, result)
    assert f"{FIRST.storage_key[:12]}: refused" in caplog.text
    assert FIRST.storage_key not in caplog.text
    assert (refusal.status, json.loads(refusal.body)["type"]) == (
        503,
        "urn:idempotency-mw:problem:record-unreadable",
    )
    assert MARKER not in refusal.headers
    assert replayed(OURS, BASE._replace(method="HEAD"), result).body == b""


# The response hook.


def hooked(hook: Callable[[Response, Record], Any], result: bytes) -> Response:
    return replayed(exchange(response_hook=hook), BASE, result)


@pytest.mark.row(35)
def test_a_hook_changes_a_replay() -> None:
    seen: list[tuple[Response, Record]] = []

    def hook(response: Response, record: Record) -> Response:
        seen.append((response, record))
        return Response(202, (*response.headers, (b"x-hook", b"1"), (b"Content-Length", b"999")), b"longer body")

    replay = hooked(hook, answered(OURS, BASE, 200, ((b"x-a", b"1"),), b"body"))
    assert replay == Response(202, ((b"x-a", b"1"), (b"x-hook", b"1"), length(11), MARKER), b"longer body")
    assert seen[0][0] == Response(200, ((b"x-a", b"1"),), b"body")
    assert seen[0][1].status is Status.COMPLETED


def test_a_hook_can_replace_a_part_of_the_response() -> None:
    replay = hooked(lambda response, record: replace(response, body=b"other"), b"1200000000")
    assert replay == Response(200, (length(5), MARKER), b"other")


def test_a_hook_that_returns_no_response_is_a_configuration_error() -> None:
    with pytest.raises(IdempotencyConfigurationError, match="response_hook must return"):
        hooked(lambda response, record: response.body, b"1200000000")


@pytest.mark.row(52)
def test_a_hook_is_not_called_for_an_unreadable_answer() -> None:
    def never(response: Response, record: Record) -> Response:
        raise AssertionError

    assert hooked(never, b"mangled").status == 503


# Refusals and preferences.


@pytest.mark.row(2, 119)
@pytest.mark.parametrize("reason", Reason)
def test_a_refusal_has_no_marker_and_for_head_no_body(reason: Reason) -> None:
    refusal = OURS.replies.rejection(BASE, Reject(reason, retry_after_ms=1))
    to_head = OURS.replies.rejection(BASE._replace(method="HEAD"), Reject(reason, retry_after_ms=1))
    assert MARKER not in refusal.headers
    assert (to_head.status, to_head.headers, to_head.body) == (refusal.status, refusal.headers, b"")


@pytest.mark.row(114, 116)
@pytest.mark.parametrize(
    ("longest", "prefer", "waited"),
    [
        (0, b"wait=5", None),
        (10, b"wait=5", 5),
        (10, b"wait=50", 10),
        (10, b"wait=0", 0),
        (2.5, b"wait=5", 2),
        (10, b"wait=-1", None),
        (10, b"wait=x", None),
        (10, b"respond-async", None),
        (10, None, None),
    ],
)
def test_how_long_a_preference_is_honoured(longest: float, prefer: bytes | None, waited: int | None) -> None:
    asked = request(KEY, *([(b"prefer", prefer)] if prefer else []))
    assert exchange(HTTPConfig(max_wait_seconds=longest)).wait(asked) == waited


@pytest.mark.row(114, 115)
def test_an_applied_preference_is_named_in_replays_and_refusals() -> None:
    applied = (b"preference-applied", b"wait=3")
    result = answered(OURS, BASE, 200, ())
    assert replayed(OURS, BASE, result, waited=3).headers[-2:] == (MARKER, applied)
    assert OURS.replies.rejection(BASE, Reject(Reason.IN_PROGRESS, 1), waited=3).headers[-1] == applied
    assert applied not in OURS.replies.rejection(BASE, Reject(Reason.IN_PROGRESS, 1)).headers
