"""Request bodies: media types, lengths, strict JSON, and multipart boundaries."""

import json
import time
import traceback
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idempotency_mw.core.digests import digest
from idempotency_mw.core.members import DuplicateMemberError
from idempotency_mw.http.body import (
    MAX_SEGMENTS,
    NotJSONError,
    declared_length,
    is_json,
    media_type,
    parse_json,
    segments,
)

SECRET = "4111-1111"


#    Content-Type                              media type              JSON
MEDIA = [
    ("application/json", b"application/json", True),
    ("Application/JSON; charset=utf-8", b"application/json", True),
    (" application/json ;v=1", b"application/json", True),
    ("application/problem+json", b"application/problem+json", True),
    ("application/vnd.API+JSON; a=b", b"application/vnd.api+json", True),
    ("application/jsonlines", b"application/jsonlines", False),
    ("text/json-ish", b"text/json-ish", False),
    ("multipart/form-data; boundary=a", b"multipart/form-data", False),
    ("", b"", False),
    (";", b"", False),
]  # fmt: skip


@pytest.mark.row(28)
@pytest.mark.parametrize(("content_type", "media", "json_expected"), MEDIA)
def test_the_media_type_says_whether_a_body_is_json(content_type: str, media: bytes, json_expected: bool) -> None:
    assert media_type(content_type.encode()) == media
    assert is_json(media) is json_expected


@pytest.mark.parametrize(
    ("lines", "length"),
    [
        ([], None),
        ([b"0"], 0),
        ([b"007"], 7),
        ([b"9" * 18], 10**18 - 1),
        ([b"9" * 19], None),
        ([b"-1"], None),
        ([b"+1"], None),
        ([b"1 "], None),
        ([b"1_0"], None),
        ([b"\xb2"], None),
        ([b""], None),
        ([b"5", b"5"], None),
        ([b"5, 5"], None),
    ],
)
def test_a_declared_length_is_one_header_of_digits(lines: list[bytes], length: int | None) -> None:
    assert declared_length(lines) == length


# JSON.


@pytest.mark.parametrize(
    "data", [None, True, 0, -1, 1.5, "", "\u00fc\u2028", [], [1, [2]], {}, {"a": {"a": 1}}, 10**300]
)
def test_valid_json_is_parsed(data: Any) -> None:
    assert parse_json(json.dumps(data).encode("utf-8")) == data
    assert parse_json(json.dumps(data, ensure_ascii=False, indent=1).encode("utf-8")) == data


NOT_JSON = {
    "empty": b"",
    "cut off": b'{"card": "4111-1111"',
    "trailing": b'{"card": "4111-1111"} x',
    "NaN": b'["4111-1111", NaN]',
    "Infinity": b'["4111-1111", Infinity]',
    "-Infinity": b'["4111-1111", -Infinity]',
    "10,000 digits": b'["4111-1111", ' + b"9" * 10_000 + b"]",
    "deep list": b'["4111-1111",' + b"[" * 100_000,
    "deep object": b'{"4111-1111":' * 100_000,
    "UTF-16": '["4111-1111"]'.encode("utf-16"),
    "UTF-8 with a mark": '["4111-1111"]'.encode("utf-8-sig"),
    "Latin-1": '["4111-1111 \u00fc"]'.encode("latin-1"),
    "half a pair, encoded": b'["4111-1111 \xed\xa0\x80"]',
    "overlong": b'["4111-1111 \xc0\xaf"]',
    "single quotes": b"['4111-1111']",
    "a control character": b'["4111-1111\n"]',
}


@pytest.mark.row(28, 31, 59)
@pytest.mark.parametrize("body", NOT_JSON.values(), ids=NOT_JSON)
def test_invalid_json_is_refused_without_quoting_it(body: bytes) -> None:
    with pytest.raises(NotJSONError) as caught:
        parse_json(body)
    assert SECRET not in "".join(traceback.format_exception(caught.value))


@pytest.mark.row(31)
def test_an_escaped_lone_surrogate_is_accepted() -> None:
    assert parse_json(rb'"\ud800"') == "\ud800"


@pytest.mark.row(30, 59)
@pytest.mark.parametrize(
    "body",
    [
        b'{"a": "4111-1111", "a": "4111-1111"}',
        b'{"a": 1, "b": {"4111-1111": 1, "4111-1111": 2}}',
        b'[[{"a": 1, "\\u0061": "4111-1111"}]]',
        b'{"": "4111-1111", "": 2}',
    ],
)
def test_a_duplicate_member_is_refused_at_any_depth(body: bytes) -> None:
    with pytest.raises(DuplicateMemberError) as caught:
        parse_json(body)
    assert SECRET not in "".join(traceback.format_exception(caught.value))


@pytest.mark.row(30)
def test_two_objects_may_have_members_of_the_same_name() -> None:
    assert parse_json(b'{"a": {"a": 1}, "b": [{"a": 1}, {"a": 1}], "A": 2}')["A"] == 2


@pytest.mark.row(31)
@given(st.binary(max_size=40) | st.text(st.sampled_from('{}[]",:0123eE+-.\\u tfn'), max_size=40).map(str.encode))
def test_any_bytes_are_parsed_as_json_or_refused(body: bytes) -> None:
    try:
        parse_json(body)
    except (NotJSONError, DuplicateMemberError):
        return
    json.loads(body)


# Multipart.


def form(boundary: bytes, *parts: bytes, eol: bytes = b"\r\n") -> bytes:
    body = [b"--%b%b%b%b" % (boundary, eol, eol.join((b"content-disposition: form-data; name=a", b"", part)), eol)
            for part in parts]  # fmt: skip
    return b"".join(body) + b"--%b--%b" % (boundary, eol)


def split(body: bytes, boundary: str = "", content_type: str = "multipart/form-data; boundary=") -> list[bytes]:
    return segments(body, (content_type + boundary).encode("latin-1"))


@pytest.mark.row(88)
@pytest.mark.parametrize("eol", [b"\r\n", b"\n"])
@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("aaa", "bbb"),
        ("--aaa", "X"),
        ("----WebKitFormBoundary7MA4YWxkTrZu0gW", "----WebKitFormBoundaryaaaaaaaaaaaaaaaa"),
        ('"a b"', "c; charset=utf-8"),
        ("a; charset=utf-8", "'()+_,-./:=?"[:4]),
        ("a" * 70, '"' + "b" * 70 + '"'),
    ],
)
def test_a_retry_may_choose_another_boundary(one: str, other: str, eol: bytes) -> None:
    def parts(boundary: str) -> list[bytes]:
        return split(form(boundary.partition(";")[0].strip('"').encode(), b"1", b"22", eol=eol), boundary)

    assert parts(one) == parts(other)
    assert len(parts(one)) == 4


def test_the_name_of_the_boundary_parameter_is_case_insensitive() -> None:
    assert split(form(b"aA", b"1"), "aA", "Multipart/Mixed;BOUNDARY=") == split(form(b"b", b"1"), "b")


@pytest.mark.row(88, 36)
def test_bodies_of_other_parts_have_other_digests() -> None:
    bodies = [[b"1", b"2"], [b"2", b"1"], [b"12"], [b"1"], [b"1", b"2", b""], [b"1\r\n2"]]
    assert len({digest(split(form(b"b", *parts), "b")) for parts in bodies}) == len(bodies)


@pytest.mark.row(88, 36)
def test_content_that_looks_like_a_boundary_is_content() -> None:
    # Each content has its own boundary inside a line, where it is content and no boundary.
    assert split(form(b"x", b"pay --x 100"), "x") != split(form(b"y", b"pay --y 100"), "y")


@pytest.mark.row(88)
@pytest.mark.parametrize(
    "content_type",
    [
        "multipart/form-data",
        "multipart/form-data; boundary",
        "multipart/form-data; boundary=",
        'multipart/form-data; boundary=""',
        "multipart/form-data; boundary=" + "b" * 71,
        "multipart/form-data; xboundary=b",
        "text/plain; boundary=b",
        "",
    ],
)
def test_a_multipart_body_without_a_boundary_is_one_segment(content_type: str) -> None:
    body = form(b"b" * 70, b"1") + form(b"b", b"1")
    assert segments(body, content_type.encode()) == [body]


@pytest.mark.row(88)
def test_a_body_of_too_many_parts_is_one_segment() -> None:
    body = b"--b\r\n" * MAX_SEGMENTS
    assert len(split(body, "b")) == MAX_SEGMENTS + 1
    assert split(body + b"--b", "b") == [body + b"--b"]


SLOW: dict[str, Callable[[], object]] = {
    "many parts": lambda: digest(split(b"--b\n" * (10 * 2**18), "b")),
    "many parts in one line": lambda: digest(split(b"--b" * (10 * 2**20 // 3), "b")),
    "large parts": lambda: digest(split(form(b"b", *[b"x" * 2**20] * 10), "b")),
    "a line of dashes": lambda: digest(split(b"-" * 10 * 2**20, "-" * 70)),
    "a long type": lambda: split(b"", ";" * 2**16),
    "a type of spaces": lambda: split(b"", ";" + " " * 2**16),
    "a long boundary": lambda: split(b"", "b" * 2**16),
    "digits": lambda: _refused(b"9" * (10 * 2**20)),
    "brackets": lambda: _refused(b"[" * (10 * 2**20)),
    "a long text": lambda: parse_json(b'"' + b"a" * (10 * 2**20) + b'"'),
}


def _refused(body: bytes) -> None:
    with pytest.raises(NotJSONError):
        parse_json(body)


@pytest.mark.row(31)
@pytest.mark.parametrize("read", SLOW.values(), ids=SLOW)
def test_ten_mebibytes_are_read_in_time_that_grows_with_their_length(read: Callable[[], object]) -> None:
    def seconds() -> float:
        start = time.thread_time()
        read()
        return time.thread_time() - start

    assert min(seconds() for _ in range(3)) < 0.5
