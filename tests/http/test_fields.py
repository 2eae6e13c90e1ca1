"""Which headers of an answer are kept (section F), and which queries are equal (row 84)."""

import time
from urllib.parse import quote, quote_plus, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idempotency_mw.http.config import DROPPED_HEADERS
from idempotency_mw.http.fingerprint import canonical_query
from idempotency_mw.http.kept_headers import KeptHeaders
from idempotency_mw.http.message import Headers, split_list, values

KEPT = KeptHeaders(DROPPED_HEADERS, b"idempotent-replayed")


def lines(text: str) -> Headers:
    pairs = (line.strip().partition(":") for line in text.strip().splitlines())
    return tuple((name.encode(), value.strip().encode()) for name, _, value in pairs)


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
def test_what_is_of_the_connection_is_not_kept(name: str) -> None:
    assert [is_kept(form) for form in (name, name.lower(), name.upper())] == [False] * 3
    nothing_dropped = KeptHeaders((), b"idempotent-replayed")
    assert nothing_dropped.kept(((name.lower().encode(), b"x"),)) == ()


@pytest.mark.row(63)
def test_what_the_connection_names_is_not_kept() -> None:
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
def test_what_is_true_of_one_answer_only_is_not_kept(name: str) -> None:
    assert [is_kept(form) for form in (name, name.lower(), name.upper())] == [False] * 3


@pytest.mark.row(70)
def test_the_marker_is_not_kept_even_if_nothing_else_is_dropped() -> None:
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
def test_what_is_of_the_answer_is_kept(name: str) -> None:
    assert is_kept(name)


@pytest.mark.row(62, 68, 69)
def test_repeated_headers_and_their_order_and_bytes_are_kept() -> None:
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
def test_the_length_is_kept_only_where_it_is_not_the_length_of_the_body() -> None:
    headers = lines("Content-Length: 5\nx-a: 1")
    assert KEPT.kept(headers) == ((b"x-a", b"1"),)
    assert KEPT.kept(headers, keeps_length=True) == headers


def test_a_star_at_the_end_stands_for_any_ending() -> None:
    kept = KeptHeaders(("x-*", "a*b"), b"idempotent-replayed")
    assert kept.kept(lines("x-a: 1\nX-: 2\nx: 3\naxb: 4\na*b: 5")) == lines("x: 3\naxb: 4")
    assert KeptHeaders(("*",), b"idempotent-replayed").kept(lines("x-a: 1\ncontent-type: a/b")) == ()


# Queries.

EQUAL = [
    (b"a=1&b=2", b"b=2&a=1"),
    (b"a=1&b=2&a=3", b"b=2&a=1&a=3"),
    (b"a=%41", b"a=A"),
    (b"%61=1", b"a=1"),
    (b"a=x+y", b"a=x%20y"),
    (b"a=%c3%a9", b"a=%C3%A9"),
    (b"a=\xe9", b"a=%E9"),
    (b"a=%2b", b"a=%2B"),
    (b"a=1&", b"a=1"),
    (b"a=1&&b=2", b"a=1&b=2"),
]

DIFFERENT = [
    (b"a=1&a=2", b"a=2&a=1"),
    (b"a=1", b"a=2"),
    (b"a=1", b"a=1&a=1"),
    (b"a=1", b""),
    (b"a=", b""),
    (b"a=1&b=2", b"a=1%26b=2"),
    (b"a=1", b"a%3D1"),
    (b"a=b=c", b"a%3Db=c"),
    (b"a=%C3%A9", b"a=%E9"),
    (b"a=+", b"a=%2B"),
    (b"a=1;b=2", b"a=1&b=2"),
    (b"A=1", b"a=1"),
    (b"a=%00", b"a="),
    (b"a=%25", b"a=%2525"),
]


@pytest.mark.row(84)
@pytest.mark.parametrize(("one", "other"), EQUAL)
def test_the_same_members_make_equal_queries(one: bytes, other: bytes) -> None:
    assert canonical_query(one) == canonical_query(other)


@pytest.mark.row(84)
@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_other_members_or_another_order_of_values_make_different_queries(one: bytes, other: bytes) -> None:
    assert canonical_query(one) != canonical_query(other)


def test_the_canonical_query_stays_what_it_was() -> None:
    assert canonical_query(b"") == b""
    assert canonical_query(b"b=2&a=%E9&a=") == b"1:a2:\xc3\xa91:a0:1:b1:2"


members = st.lists(
    st.tuples(st.text("a&=+% \u00e9", min_size=1, max_size=2), st.text("1&=:+% \u00e9", max_size=3)), max_size=4
)


def by_name(pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return sorted(pairs, key=lambda pair: pair[0])


@pytest.mark.row(84)
@given(members, members)
def test_queries_are_equal_exactly_where_their_members_are(
    one: list[tuple[str, str]], other: list[tuple[str, str]]
) -> None:
    first = urlencode(one, encoding="latin-1", quote_via=quote).encode()
    second = urlencode(other, encoding="latin-1", quote_via=quote_plus).encode()
    assert (canonical_query(first) == canonical_query(second)) is (by_name(one) == by_name(other))


@given(st.binary(max_size=40))
def test_any_bytes_are_a_query(query: bytes) -> None:
    assert canonical_query(query) == canonical_query(query + b"&")


@pytest.mark.parametrize("part", [b"a&", b"%41=%42&", b"%", b"&", b"a=b&", b"=", b"\xe9", b"%E9"])
def test_a_long_query_is_read_in_time_that_grows_with_its_length(part: bytes) -> None:
    query = part * (65_536 // len(part))

    def seconds() -> float:
        start = time.thread_time()
        canonical_query(query)
        return time.thread_time() - start

    assert min(seconds() for _ in range(3)) < 1


# Lists.


@pytest.mark.parametrize(
    ("given_lines", "members"),
    [
        ([], []),
        ([b""], []),
        ([b"a"], [b"a"]),
        ([b" a\t, b,,c ,"], [b"a", b"b", b"c"]),
        ([b"a", b"b, c"], [b"a", b"b", b"c"]),
    ],
)
def test_a_list_of_a_header_is_its_members(given_lines: list[bytes], members: list[bytes]) -> None:
    assert split_list(given_lines) == members


@pytest.mark.row(62)
def test_the_values_of_a_header_are_those_of_all_its_lines() -> None:
    assert values(lines("a: 1\nb: 2\na: 3"), b"a") == [b"1", b"3"]
