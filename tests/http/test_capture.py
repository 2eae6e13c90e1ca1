"""What is captured of a response, and when it is whole."""

import sys
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idempotency_mw.http.capture import Capture
from idempotency_mw.http.message import Headers


def declaring(length: int | None) -> Headers:
    return () if length is None else ((b"content-length", b"%d" % length),)


def captured(
    *chunks: bytes,
    status: int = 200,
    length: int | None = None,
    finish: bool = False,
    is_head: bool = False,
    max_body: int = 100,
) -> Capture:
    capture = Capture(max_body, is_head=is_head)
    capture.start(status, declaring(length))
    for chunk in chunks:
        capture.add(chunk)
    if finish:
        capture.finish()
    return capture


#    status  HEAD   declared  sent     finished   whole  length known
WHOLE = [
    (200, False, None, b"", False, False, False),
    (200, False, None, b"ab", False, False, False),
    (200, False, None, b"ab", True, True, False),
    (200, False, None, b"", True, True, False),
    (200, False, 2, b"", False, False, True),
    (200, False, 2, b"", True, False, True),
    (200, False, 2, b"a", True, False, True),
    (200, False, 2, b"ab", False, True, True),
    (200, False, 2, b"ab", True, True, True),
    (200, False, 2, b"abc", True, False, True),
    (200, False, 0, b"", False, True, True),
    (200, False, 0, b"a", True, False, True),
    (200, True, 2, b"", False, False, True),
    (200, True, 2, b"", True, True, True),
    (200, True, 2, b"ab", True, True, True),
    (200, True, None, b"", True, True, True),
    (204, False, None, b"", False, False, True),
    (204, False, None, b"", True, True, True),
    (205, False, 0, b"", True, True, True),
    (304, False, 7, b"", True, True, True),
    (304, False, 7, b"", False, False, True),
]  # fmt: skip


@pytest.mark.row(43, 44, 45, 66)
@pytest.mark.parametrize(("status", "is_head", "length", "sent", "finished", "whole", "known"), WHOLE)
def test_when_a_response_is_whole(
    status: int, is_head: bool, length: int | None, sent: bytes, finished: bool, whole: bool, known: bool
) -> None:
    capture = captured(sent, status=status, is_head=is_head, length=length, finish=finished)
    assert (capture.is_whole, capture.has_length) == (whole, known)


@pytest.mark.row(46)
def test_a_response_that_never_started_is_not_whole() -> None:
    capture = Capture(100, is_head=False)
    assert not capture.is_started
    capture.add(b"a body without a start")
    capture.finish()
    assert not capture.is_whole


@pytest.mark.row(44)
def test_two_content_length_headers_declare_no_length() -> None:
    capture = Capture(100, is_head=False)
    capture.start(200, (*declaring(1), *declaring(1)))
    capture.add(b"a")
    assert (capture.has_length, capture.is_whole) == (False, False)


@given(st.lists(st.binary(max_size=5), max_size=8))
def test_the_body_is_its_chunks_in_their_order(chunks: list[bytes]) -> None:
    capture = captured(*chunks, finish=True)
    assert capture.body() == b"".join(chunks)
    assert capture.is_empty is (not any(chunks))


@pytest.mark.row(65)
def test_status_and_headers_are_as_they_came() -> None:
    capture = Capture(100, is_head=False)
    headers = ((b"x-a", b"1"), (b"x-a", b"2"), (b"content-length", b"0"))
    capture.start(299, headers)
    assert (capture.status, capture.headers) == (299, headers)


def test_a_second_start_replaces_the_first() -> None:
    capture = Capture(100, is_head=False)
    capture.start(200, declaring(7))
    capture.start(500, declaring(2))
    capture.add(b"no")
    assert capture.is_whole
    assert (capture.status, capture.headers) == (500, declaring(2))


@pytest.mark.row(53)
@pytest.mark.parametrize(("chunks", "too_large"), [([b"a" * 4], False), ([b"a" * 5], True), ([b"aa"] * 3, True)])
def test_a_body_over_the_limit_is_counted_but_not_kept(chunks: list[bytes], too_large: bool) -> None:
    capture = captured(*chunks, length=sum(map(len, chunks)), max_body=4)
    assert (capture.is_whole, capture.is_too_large) == (True, too_large)
    assert capture.body() == (b"" if too_large else b"".join(chunks))


@pytest.mark.row(53)
def test_nothing_is_captured_after_the_limit() -> None:
    capture = captured(b"aaaaa", b"b", b"", b"c", finish=True, max_body=4)
    assert (capture.is_whole, capture.is_too_large, capture.body()) == (True, True, b"")


@pytest.mark.row(2, 66, 71)
@pytest.mark.parametrize(
    ("status", "is_head"), [(204, False), (205, False), (304, False), (200, True), (404, True)]
)
def test_the_body_of_a_bodiless_response_is_not_kept(status: int, is_head: bool) -> None:
    capture = captured(b"a" * 200, status=status, is_head=is_head, finish=True)
    assert (capture.is_bodiless, capture.is_too_large, capture.body()) == (True, False, b"")


@pytest.mark.parametrize(("status", "is_head"), [(204, False), (200, True)])
def test_a_chunk_of_a_bodiless_response_is_not_held_in_memory(status: int, is_head: bool) -> None:
    chunk = bytes(200)
    capture = Capture(100, is_head=is_head)
    capture.start(status, ())
    before = sys.getrefcount(chunk)
    capture.add(chunk)
    assert sys.getrefcount(chunk) == before


@pytest.mark.row(67)
@pytest.mark.parametrize("chunk", [5, 10**12, [1, 2], "text", None])
def test_a_chunk_that_is_no_buffer_is_a_type_error(chunk: object) -> None:
    capture = captured()
    with pytest.raises(TypeError):
        capture.add(chunk)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [bytearray, lambda data: memoryview(bytearray(data))])
def test_a_buffer_that_the_app_reuses_is_kept_as_it_was(kind: type[bytearray]) -> None:
    capture = Capture(100, is_head=False)
    capture.start(200, ())
    buffer = kind(b"first")
    capture.add(buffer)
    buffer[:] = b"SECON"
    capture.add(buffer)
    capture.finish()
    assert capture.body() == b"firstSECON"


def test_the_length_of_a_memoryview_is_its_bytes() -> None:
    capture = captured(memoryview(b"12345678").cast("I"), length=8)  # type: ignore[arg-type]
    assert (capture.is_whole, capture.body()) == (True, b"12345678")


def test_captures_share_nothing() -> None:
    captures = [captured(bytes([at]), finish=True) for at in range(3)]
    assert all(one.body() != other.body() for one, other in pairwise(captures))
