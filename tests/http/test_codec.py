"""A response as bytes: encoding, decoding, and bytes of a store that are no response."""

import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from idempotency_mw.errors import IdempotencyRecordError
from idempotency_mw.http import codec
from idempotency_mw.http.message import Response

GOLDEN = Response(
    status=201,
    headers=((b"location", b"../orders/7"), (b"X-A", b"1"), (b"x-a", b""), (b"x-b", b" \xe9:;=\t\xff ")),
    body=b"line\r\n\x00\xff:\n",
)
GOLDEN_BYTES = b"1201000045location:../orders/7\nX-A:1\nx-a:\nx-b: \xe9:;=\t\xff \nline\r\n\x00\xff:\n"

TOKEN = "!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
names = st.text(st.sampled_from(TOKEN), min_size=1, max_size=8).map(str.encode)
octets = st.binary(max_size=8)
plain_values = octets.map(lambda value: value.translate(None, b"\r\n\x00"))
responses = st.builds(
    Response,
    st.integers(200, 599),
    st.lists(st.tuples(names, plain_values), max_size=5).map(tuple),
    st.binary(max_size=64),
)
any_responses = st.builds(
    Response,
    st.integers(-1, 1100),
    st.lists(st.tuples(names | octets, octets), max_size=3).map(tuple),
    st.binary(max_size=8),
)


def encode(response: Response) -> bytes | None:
    return codec.encode(response.status, response.headers, response.body)


def decode(data: bytes) -> Response:
    return Response(*codec.decode(data))


# Records of an earlier release must stay readable: a change here needs another version of the format.
def test_the_encoded_bytes_are_pinned() -> None:
    assert encode(GOLDEN) == GOLDEN_BYTES
    assert decode(GOLDEN_BYTES) == GOLDEN


@pytest.mark.row(62, 67, 68, 69)
@given(responses)
@example(Response(299, (), b""))
@example(Response(599, ((b"a", b"\xe9"),), bytes(range(256))))
def test_an_encoded_response_is_decoded_to_itself(response: Response) -> None:
    encoded = encode(response)
    assert encoded is not None
    assert decode(encoded) == response


@pytest.mark.row(72)
@given(any_responses)
def test_any_response_is_refused_or_decoded_to_itself(response: Response) -> None:
    encoded = encode(response)
    assert encoded is None or decode(encoded) == response


@pytest.mark.row(72)
@pytest.mark.parametrize("byte", [b"\r", b"\n", b"\x00"])
@pytest.mark.parametrize("form", [b"%b", b"a%b", b"%bb", b"a%bb", b"a\r%b b:c"])
def test_a_line_break_or_nul_is_not_encoded(form: bytes, byte: bytes) -> None:
    assert encode(Response(200, ((b"x-a", form % byte),), b"")) is None
    assert encode(Response(200, ((form % byte, b"x"),), b"")) is None
    assert encode(Response(200, ((b"a", b"b"), (b"x", form % byte), (b"c", b"d")), b"")) is None


@pytest.mark.row(72)
@pytest.mark.parametrize("name", [b"", b"a:b", b":status", b"a b", b"a\t", b"\xe9", b'"', b"a/b", b"(a)"])
def test_an_invalid_header_name_is_not_encoded(name: bytes) -> None:
    assert encode(Response(200, ((name, b"x"),), b"")) is None


@pytest.mark.parametrize("status", [-1, 0, 99, 100, 199, 600, 999, 1000])
def test_a_status_outside_200_to_599_is_not_encoded(status: int) -> None:
    assert encode(Response(status, (), b"")) is None


@pytest.mark.parametrize("status", [200, 299, 304, 404, 599])
def test_a_status_from_200_to_599_is_encoded(status: int) -> None:
    assert encode(Response(status, (), b"")) == b"1%d000000" % status


def test_a_header_block_longer_than_six_digits_can_say_is_not_encoded() -> None:
    most = 10**6 - 1 - len(b"a:\n")
    fits = Response(200, ((b"a", b"b" * most),), b"body")
    assert decode(encode(fits) or b"") == fits
    assert encode(Response(200, ((b"a", b"b" * (most + 1)),), b"body")) is None


@pytest.mark.row(52, 72)
@pytest.mark.fault(22)
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"1",
        b"2200000000",
        b"0200000000",
        b"1100000000",
        b"1199000000",
        b"1600000000",
        b"1999000000",
        b"1020000000",
        b"120000000",
        b"1200-00001a:b\n",
        b"1200 00004a:b\n",
        b"1200000004a:b",
        b"1200000003a:b\n",
        b"1200000005a:b\nx",
        b"1200000004ab:\x00",
        b"1200000005a:\r\n\n",
        b"1200000006a:b\rc\n",
        b"1200000006a:b\x00c\n",
        b"1200000002:\n",
        b"1200000003:a\n",
        b"1200000004a b\n",
        b"1200000005 a:b\n",
        b"1200000002ab",
        b"1200999999",
        b'{"status": 200}',
        b"\x80\x04\x95pickle",
    ],
)
def test_bytes_that_are_no_response_of_this_version_are_unreadable(data: bytes) -> None:
    with pytest.raises(IdempotencyRecordError) as caught:
        decode(data)
    assert "a:b" not in str(caught.value)


def read(data: bytes) -> Response | None:
    """Return the response, or `None` if it is unreadable; any other exception fails the test."""
    try:
        return decode(data)
    except IdempotencyRecordError:
        return None


def is_fit(response: Response) -> bool:
    return 200 <= response.status <= 599 and not any(
        byte in name + value for name, value in response.headers for byte in b"\r\n\x00"
    )


@pytest.mark.row(52, 72)
def test_a_truncated_record_is_unreadable_until_its_body_begins() -> None:
    body_at = len(GOLDEN_BYTES) - len(GOLDEN.body)
    for end in range(len(GOLDEN_BYTES)):
        assert (read(GOLDEN_BYTES[:end]) is not None) is (end >= body_at)


@pytest.mark.row(52, 72)
def test_a_record_with_a_changed_byte_is_unreadable_or_a_valid_response() -> None:
    for at in range(len(GOLDEN_BYTES)):
        for byte in range(256):
            data = GOLDEN_BYTES[:at] + bytes([byte]) + GOLDEN_BYTES[at + 1 :]
            response = read(data)
            assert response is None or (is_fit(response) and encode(response) == data)


@pytest.mark.row(52, 72)
@given(st.binary(max_size=64), st.integers(0, len(GOLDEN_BYTES)), st.integers(0, len(GOLDEN_BYTES)))
def test_any_bytes_are_a_response_or_unreadable(data: bytes, start: int, end: int) -> None:
    for mangled in (data, GOLDEN_BYTES[:start] + data + GOLDEN_BYTES[end:]):
        response = read(mangled)
        assert response is None or encode(response) == mangled


@pytest.mark.parametrize("block", [b"a" * 999_999, b"a:" + b"b" * 999_997, b"a:b\n" * 249_999 + b"\x00\n"])
def test_a_mangled_block_is_refused_in_time_that_grows_with_its_length(block: bytes) -> None:
    data = b"1200%06d%b" % (len(block), block)

    def seconds() -> float:
        start = time.thread_time()
        assert read(data) is None
        return time.thread_time() - start

    assert min(seconds() for _ in range(3)) < 0.5


@pytest.mark.row(59)
def test_a_response_does_not_show_its_content() -> None:
    assert repr(GOLDEN) == "Response(status=201)"
