"""Which headers of an answer are kept: section F of the table."""

import pytest

from idempotency_mw.http.config import DROPPED_HEADERS
from idempotency_mw.http.kept_headers import KeptHeaders
from tests.http.exchanges import lines

KEPT = KeptHeaders(DROPPED_HEADERS, b"idempotent-replayed")


def is_kept(name: str) -> bool:
    return KEPT.kept(((name.encode(), b"x"),)) != ()


@pytest.mark.row(63)
@pytest.mark.parametrize(
    "name",
    [
        "Connection",
        "Keep-Alive",
        "Proxy-Authenticate",
        "Proxy-Authorization",
        "Proxy-Connection",
        "Proxy-Authentication-Info",
        "TE",
        "Trailer",
        "Transfer-Encoding",
        "Upgrade",
    ],
)
def test_connection_headers_are_not_kept(name: str) -> None:
    assert [is_kept(form) for form in (name, name.lower(), name.upper())] == [False] * 3
    nothing_dropped = KeptHeaders((), b"idempotent-replayed")
    assert nothing_dropped.kept(((name.lower().encode(), b"x"),)) == ()


@pytest.mark.row(63)
def test_headers_named_by_the_connection_header_are_not_kept() -> None:
    headers = lines("""
        connection: close, X-Hop ,, x-other
        x-hop: 1
        X-OTHER: 2
        x-kept: 3
        connection: x-third
        x-third: 4
        close: 5
    """)
    assert KEPT.kept(headers) == ((b"x-kept", b"3"),)


@pytest.mark.row(60, 64)
@pytest.mark.parametrize(
    "name",
    [
        "Date", "Server", "Age", "Set-Cookie", "WWW-Authenticate", "Authentication-Info", "Retry-After",
        "RateLimit", "RateLimit-Limit", "RateLimit-Policy", "X-RateLimit-Remaining", "X-RateLimit-Reset",
        "Server-Timing", "traceparent", "tracestate", "X-Request-ID", "X-Correlation-ID",
    ],
)  # fmt: skip
def test_headers_that_are_true_of_one_answer_only_are_not_kept(name: str) -> None:
    assert [is_kept(form) for form in (name, name.lower(), name.upper())] == [False] * 3


@pytest.mark.row(70)
def test_the_replay_marker_is_not_kept_even_if_nothing_else_is_dropped() -> None:
    assert KeptHeaders((), b"x-replayed").kept(((b"X-Replayed", b"true"), (b"x-a", b"1"))) == ((b"x-a", b"1"),)


@pytest.mark.parametrize(
    "name",
    [
        "Content-Type",
        "Location",
        "ETag",
        "Link",
        "Set-Cookies",
        "Dates",
        "X-RateLimit",
        "X-Request-IDs",
        "Proxy",
        "TE-X",
    ],
)
def test_other_headers_are_kept(name: str) -> None:
    assert is_kept(name)


@pytest.mark.row(62, 68, 69)
def test_repeated_headers_keep_their_order_and_bytes() -> None:
    headers = (
        (b"link", b"</a>; rel=a"),
        (b"set-cookie", b"a=b"),
        (b"X-A", b"1"),
        (b"link", b"</b>"),
        (b"x-a", b"\xe9"),
        (b"location", b"../a"),
    )
    assert KEPT.kept(headers) == tuple(line for line in headers if line[0] != b"set-cookie")


@pytest.mark.row(65)
def test_content_length_is_kept_only_for_a_bodiless_response() -> None:
    headers = lines("Content-Length: 5\nx-a: 1")
    assert KEPT.kept(headers) == ((b"x-a", b"1"),)
    assert KEPT.kept(headers, keeps_length=True) == headers


def test_a_star_at_the_end_of_a_name_matches_any_ending() -> None:
    kept = KeptHeaders(("x-*", "a*b"), b"idempotent-replayed")
    assert kept.kept(lines("x-a: 1\nX-: 2\nx: 3\naxb: 4\na*b: 5")) == lines("x: 3\naxb: 4")
    assert KeptHeaders(("*",), b"idempotent-replayed").kept(lines("x-a: 1\ncontent-type: a/b")) == ()
