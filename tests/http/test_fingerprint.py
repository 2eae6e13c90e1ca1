"""What must be equal in a retry: method, path, query, media type and payload."""

import time
from dataclasses import dataclass
from urllib.parse import quote, quote_plus, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idempotency_mw.core.record import Operation
from idempotency_mw.http.config import HTTPConfig
from idempotency_mw.http.exchange import Exchange
from idempotency_mw.http.fingerprint import canonical_query
from idempotency_mw.http.message import Request
from tests.http.exchanges import BASE, FIRST, JSON, KEY, OURS, exchange, operation, reached, request

# The operation.


# Every record depends on these digests: if they change, all stored records are orphaned.
def test_the_digests_of_an_operation_are_pinned() -> None:
    assert operation(OURS, request(KEY), b"body") == Operation(
        storage_key="77023e5e5ab18e2f46f666c3c5fa5ff9a24cde8b731a9fc14722a42e5dfd7b70",
        fingerprint="b976bd89ab0ac9a59d7bbd36a7a83f0a24e782d867807dea3b18fe7a4c5a8de7",
    )


def test_the_digests_of_an_operation_with_all_its_parts_are_pinned() -> None:
    http = HTTPConfig(caller=str)
    ours = exchange(http, key_prefix="orders", event_key_jmespath="id", payload_validation_jmespath="{a: a}")
    asked = request((b"content-type", b"application/json"), method="PATCH", path="/\u00fc", query=b"b=%41&a=")
    assert operation(ours, asked, b'{"id": "k", "a": [1, 2.5, "\\u00fc"], "x": 1}', "alice") == Operation(
        storage_key="b3f62244d70a890dd0518940015ce6a53e0fe06c21aedd36031a8b803ff97f97",
        fingerprint="55c92531262de290c8a010509005d89111014bcd08a057001c2627f97ed6201d",
    )


@dataclass(frozen=True)
class Other:
    """Another request: its head and body, and the exchange that it is given to."""

    asked: Request
    body: bytes = b"body"
    ours: Exchange = OURS


def with_headers(**changed: str) -> Request:
    lines = {name.replace("_", "-").encode(): [value.encode()] for name, value in changed.items()}
    return BASE._replace(lines={**BASE.lines, **lines})


OTHER_KEYS = {
    "key": Other(with_headers(idempotency_key='"k2"')),
    "case of the key": Other(with_headers(idempotency_key='"K"')),
    "method": Other(BASE._replace(method="PATCH")),
    "path": Other(BASE._replace(path="/orders/")),
    "case of the path": Other(BASE._replace(path="/Orders")),
    "prefix": Other(BASE, ours=exchange(key_prefix="b")),
}
OTHER_REQUESTS = {
    "body": Other(BASE, b"Body"),
    "empty body": Other(BASE, b""),
    "query": Other(BASE._replace(query=b"a=2")),
    "no query": Other(BASE._replace(query=b"")),
    "media type": Other(with_headers(content_type="text/html")),
    "authorization": Other(with_headers(authorization="Bearer s3cr3t")),
    "empty authorization": Other(with_headers(authorization="")),
    "cookie": Other(with_headers(cookie="a=s3cr3t")),
    "API key": Other(with_headers(x_api_key="s3cr3t")),
    "host": Other(with_headers(host="b.example")),
}
SAME_REQUESTS = {
    "itself": Other(BASE),
    "bare key": Other(with_headers(idempotency_key="k")),
    "parameters of the media type": Other(with_headers(content_type="Text/PLAIN; charset=utf-8")),
    "another header": Other(with_headers(accept="*/*", user_agent="x", traceparent="y")),
    "form of the query": Other(BASE._replace(query=b"%61=1&")),
}


@pytest.mark.row(20, 55)
@pytest.mark.parametrize("other", OTHER_KEYS.values(), ids=OTHER_KEYS)
def test_another_key_method_path_or_prefix_has_another_record(other: Other) -> None:
    assert operation(other.ours, other.asked, other.body).storage_key != FIRST.storage_key


@pytest.mark.row(36, 57)
@pytest.mark.parametrize("other", OTHER_REQUESTS.values(), ids=OTHER_REQUESTS)
def test_another_request_with_the_same_key_has_another_fingerprint(other: Other) -> None:
    found = operation(other.ours, other.asked, other.body)
    assert found.storage_key == FIRST.storage_key
    assert found.fingerprint != FIRST.fingerprint


@pytest.mark.row(35, 9, 10, 84)
@pytest.mark.parametrize("other", SAME_REQUESTS.values(), ids=SAME_REQUESTS)
def test_a_retry_is_the_same_operation(other: Other) -> None:
    assert operation(other.ours, other.asked, other.body) == FIRST


@pytest.mark.row(84)
def test_in_a_query_the_order_of_values_matters_and_that_of_names_does_not() -> None:
    def of(query: bytes) -> Operation:
        return operation(OURS, BASE._replace(query=query))

    assert of(b"a=1&b=2") == of(b"b=2&a=1")
    assert of(b"a=1&a=2").fingerprint != of(b"a=2&a=1").fingerprint


@pytest.mark.row(56)
def test_moving_a_boundary_between_two_parts_changes_the_storage_key() -> None:
    def of(caller: str, path: str, key: bytes, prefix: str = "") -> str:
        ours = exchange(HTTPConfig(caller=str), key_prefix=prefix)
        return operation(ours, request((b"idempotency-key", key), path=path), caller=caller).storage_key

    found = [
        of("a", "bc", b"d"),
        of("ab", "c", b"d"),
        of("a", "b", b"cd"),
        of("b", "c", b"d", "a"),
        of("a:b", "c", b"d"),
        of("a\x00b", "c", b"d"),
        of("a", "b:c", b"d"),
    ]
    assert len(set(found)) == len(found)


# The body.


def fingerprint(ours: Exchange, body: bytes, media: bytes = b"application/json") -> str:
    return operation(ours, request(KEY, (b"content-type", media)), body).fingerprint


@pytest.mark.row(36)
def test_the_fingerprint_depends_on_the_selected_values_and_not_on_their_form() -> None:
    ours = exchange(payload_validation_jmespath="{a: amount, c: currency}")
    first = fingerprint(ours, b'{"amount": 1, "currency": "EUR", "sent": 1}')
    assert fingerprint(ours, b'{"currency":"\\u0045UR","sent":2,"amount":1}') == first
    assert fingerprint(ours, b'{"amount": 2, "currency": "EUR", "sent": 1}') != first
    assert fingerprint(ours, b'{"amount": 1.0, "currency": "EUR"}') != first
    assert fingerprint(ours, b'{"amount": "1", "currency": "EUR"}') != first


@pytest.mark.row(28)
def test_an_unparsable_body_is_compared_by_its_bytes() -> None:
    ours = exchange(payload_validation_jmespath="amount")
    found = [
        fingerprint(ours, b'{"amount": 1'),
        fingerprint(ours, b'{"amount": 1 '),
        fingerprint(ours, b"1"),
        fingerprint(ours, b"1", b"text/plain"),
        fingerprint(ours, b'{"amount": 1}'),
    ]
    assert len(set(found)) == len(found)


@pytest.mark.row(31)
@pytest.mark.parametrize("amount", [b"1e999", b"-1e999", b"9" * 400 + b".0", b"[[1e400]]"])
def test_a_selected_number_beyond_the_range_of_floats_is_refused(amount: bytes) -> None:
    ours = exchange(payload_validation_jmespath="amount")
    assert reached(ours, request(KEY, JSON), b'{"amount": %b}' % amount) == "body-invalid"
    assert isinstance(reached(ours, request(KEY, JSON), b'{"amount": 1, "other": %b}' % amount), Operation)


@pytest.mark.row(30)
def test_duplicate_members_are_refused_only_in_a_body_that_must_be_parsed() -> None:
    assert fingerprint(exchange(), b'{"a": 1, "a": 2}') != fingerprint(exchange(), b'{"a": 2}')
    assert (
        reached(exchange(payload_validation_jmespath="a"), request(KEY, JSON), b'{"b": 1, "b": 2}')
        == "body-invalid"
    )


@pytest.mark.row(88)
def test_a_multipart_retry_with_another_boundary_is_the_same_request() -> None:
    def of(boundary: bytes, value: bytes) -> str:
        body = b"--%b\r\ncontent-disposition: form-data; name=a\r\n\r\n%b\r\n--%b--\r\n" % (
            boundary,
            value,
            boundary,
        )
        return fingerprint(exchange(), body, b"multipart/form-data; boundary=" + boundary)

    assert of(b"aaa", b"1") == of(b"bbb", b"1")
    assert of(b"aaa", b"1") != of(b"aaa", b"2")
    assert of(b"aaa", b"pay --aaa") != of(b"bbb", b"pay --bbb")


def test_a_selection_and_the_same_bytes_have_different_fingerprints() -> None:
    assert fingerprint(exchange(payload_validation_jmespath="@"), b"[1]") != fingerprint(exchange(), b"[1]")


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
def test_queries_of_the_same_members_are_equal(one: bytes, other: bytes) -> None:
    assert canonical_query(one) == canonical_query(other)


@pytest.mark.row(84)
@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_queries_of_other_members_or_another_order_of_values_differ(one: bytes, other: bytes) -> None:
    assert canonical_query(one) != canonical_query(other)


def test_the_canonical_query_is_pinned() -> None:
    assert canonical_query(b"") == b""
    assert canonical_query(b"b=2&a=%E9&a=") == b"1:a2:\xc3\xa91:a0:1:b1:2"


members = st.lists(
    st.tuples(st.text("a&=+% \u00e9", min_size=1, max_size=2), st.text("1&=:+% \u00e9", max_size=3)), max_size=4
)


def by_name(pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return sorted(pairs, key=lambda pair: pair[0])


@pytest.mark.row(84)
@given(members, members)
def test_two_queries_are_equal_only_if_their_members_are(
    one: list[tuple[str, str]], other: list[tuple[str, str]]
) -> None:
    first = urlencode(one, encoding="latin-1", quote_via=quote).encode()
    second = urlencode(other, encoding="latin-1", quote_via=quote_plus).encode()
    assert (canonical_query(first) == canonical_query(second)) is (by_name(one) == by_name(other))


@given(st.binary(max_size=40))
def test_any_bytes_have_a_canonical_query(query: bytes) -> None:
    assert canonical_query(query) == canonical_query(query + b"&")


@pytest.mark.parametrize("part", [b"a&", b"%41=%42&", b"%", b"&", b"a=b&", b"=", b"\xe9", b"%E9"])
def test_a_long_query_is_read_in_time_that_grows_with_its_length(part: bytes) -> None:
    query = part * (65_536 // len(part))

    def seconds() -> float:
        start = time.thread_time()
        canonical_query(query)
        return time.thread_time() - start

    assert min(seconds() for _ in range(3)) < 1
