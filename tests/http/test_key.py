"""The key in a header (section B of the conformance table), and what a body's key may be (section C)."""

import json
import os
import time
from base64 import b64encode
from pathlib import Path
from typing import Any

import http_sf
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from idempotency_mw.http.config import HTTPConfig
from idempotency_mw.http.key import body_key, header_key, parse_string
from idempotency_mw.http.problem import Problem, Refusal

LENIENT, STRICT, OPAQUE = (HTTPConfig(key_syntax=syntax) for syntax in ("lenient", "strict", "opaque"))  # type: ignore[arg-type]
REFUSED = "refused"

PUNCTUATION = "!#$%&'()*+-./0:<=>?@[\\]^_`{|}~"
UUID = "8e03978e-40d5-43dd-bc93-6894a57f9324"


def key(line: bytes, http: HTTPConfig = LENIENT) -> str:
    found = header_key([line], http)
    if isinstance(found, Refusal):
        assert found.problem is Problem.KEY_INVALID
        return REFUSED
    return found


#    row  the header's value          lenient        strict         opaque
HEADERS = [
    (9, b'"%b"' % UUID.encode(), UUID, UUID, f'"{UUID}"'),
    (10, UUID.encode(), UUID, REFUSED, UUID),
    (12, b'"abc', REFUSED, REFUSED, '"abc'),
    (12, b'abc"', REFUSED, REFUSED, 'abc"'),
    (12, b'"', REFUSED, REFUSED, '"'),
    (12, b'"a"b"', REFUSED, REFUSED, '"a"b"'),
    (12, b'"abc\\"', REFUSED, REFUSED, '"abc\\"'),
    (12, b'"a\\b"', REFUSED, REFUSED, '"a\\b"'),
    (13, rb'"a\"b\\c"', 'a"b\\c', 'a"b\\c', r'"a\"b\\c"'),
    (13, b'"k";p=1', "k", "k", '"k";p=1'),
    (13, b'"k"; p; q="a;b,c"; r=?1; s=:YQ==:; t=%"f%c3%bc"; u=@-7; v=tok/en:*; w=-1.5', "k", "k", REFUSED),
    (13, b'"k" ;p=1', REFUSED, REFUSED, '"k" ;p=1'),
    (13, b'"k";P=1', REFUSED, REFUSED, '"k";P=1'),
    (13, b'"k";p=', REFUSED, REFUSED, '"k";p='),
    (13, b'"k";p=%"%ff"', REFUSED, REFUSED, '"k";p=%"%ff"'),
    (13, b'"k";p="%";q=%"%ff"', REFUSED, REFUSED, '"k";p="%";q=%"%ff"'),
    (13, b'"k";p="%ff"', "k", "k", '"k";p="%ff"'),
    (13, b'""', REFUSED, REFUSED, '""'),
    (13, b"", REFUSED, REFUSED, REFUSED),
    (13, b"   ", REFUSED, REFUSED, REFUSED),
    (13, b'"  "', REFUSED, REFUSED, '"  "'),
    (14, b"a" * 255, "a" * 255, REFUSED, "a" * 255),
    (14, b"a" * 256, REFUSED, REFUSED, REFUSED),
    (14, b'"%b"' % (b"a" * 255), "a" * 255, "a" * 255, REFUSED),
    (14, b'"%b"' % (b"a" * 256), REFUSED, REFUSED, REFUSED),
    (14, b'"%b"' % (rb"\"" * 255), '"' * 255, '"' * 255, REFUSED),
    (15, b"caf\xe9", REFUSED, REFUSED, REFUSED),
    (15, "\u00fc".encode(), REFUSED, REFUSED, REFUSED),
    (15, b'"caf\xe9"', REFUSED, REFUSED, REFUSED),
    (15, b'"a\tb"', REFUSED, REFUSED, REFUSED),
    (15, b"a\tb", REFUSED, REFUSED, REFUSED),
    (15, b"a\x00", REFUSED, REFUSED, REFUSED),
    (15, b"a\n", REFUSED, REFUSED, REFUSED),
    (15, b"a\x7f", REFUSED, REFUSED, REFUSED),
    (16, b"a,b", REFUSED, REFUSED, REFUSED),
    (16, b"a, a", REFUSED, REFUSED, REFUSED),
    (16, b'"a","a"', REFUSED, REFUSED, REFUSED),
    (16, b'"a", "b"', REFUSED, REFUSED, REFUSED),
    (17, b"a;b", REFUSED, REFUSED, "a;b"),
    (17, b'a"b', REFUSED, REFUSED, 'a"b'),
    (17, b"a b", REFUSED, REFUSED, "a b"),
    (17, PUNCTUATION.encode(), PUNCTUATION, REFUSED, PUNCTUATION),
    (18, b"  abc ", "abc", REFUSED, "abc"),
    (18, b'  "abc" ', "abc", "abc", '"abc"'),
    (18, b'" abc "', " abc ", " abc ", '" abc "'),
    (19, b'"ours",x', REFUSED, REFUSED, REFUSED),
    (20, b"ABC", "ABC", REFUSED, "ABC"),
    (21, b"a:*{}", "a:*{}", REFUSED, "a:*{}"),
    (21, b'"DEL *; FLUSHALL"', "DEL *; FLUSHALL", "DEL *; FLUSHALL", '"DEL *; FLUSHALL"'),
    (22, b"PAY-1 (retry)", REFUSED, REFUSED, "PAY-1 (retry)"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "lenient", "strict", "opaque"),
    [pytest.param(*cells, marks=pytest.mark.row(row), id=f"{row}-{cells[0][:24]!r}") for row, *cells in HEADERS],
)
def test_the_key_in_a_header(line: bytes, lenient: str, strict: str, opaque: str) -> None:
    assert (key(line, LENIENT), key(line, STRICT), key(line, OPAQUE)) == (lenient, strict, opaque)


@pytest.mark.row(16)
@pytest.mark.parametrize("http", [LENIENT, STRICT, OPAQUE])
@pytest.mark.parametrize("lines", [[b'"a"', b'"a"'], [b'"a"', b'"b"'], [b"a", b""], [b"a", b"a", b"a"]])
def test_several_key_headers_are_refused_whatever_their_values(lines: list[bytes], http: HTTPConfig) -> None:
    assert isinstance(header_key(lines, http), Refusal)


@pytest.mark.row(23)
def test_the_refusal_of_a_short_key_says_the_allowed_lengths() -> None:
    http = HTTPConfig(min_key_length=16, max_key_length=40)
    assert key(b"a" * 15, http) == REFUSED
    assert key(b'"%b"' % (b"a" * 16), http) == "a" * 16
    refused = header_key([b"abcde"], http)
    assert isinstance(refused, Refusal)
    assert "16 to 40 characters" in refused.detail


@pytest.mark.row(59)
@pytest.mark.parametrize("line", [b'"s3cr3t', b"s3cr3t,", b"s3cr3t\xff", b"s3cr3t" * 50])
def test_a_refusal_does_not_quote_the_key(line: bytes) -> None:
    for http in (LENIENT, STRICT, OPAQUE):
        assert "s3cr3t" not in repr(header_key([line], http) if key(line, http) == REFUSED else "")


# Structured fields.


def vectors() -> list[Any]:
    """Return the Item vectors of github.com/httpwg/structured-field-tests, if they are on this machine."""
    beside = Path(__file__).resolve().parents[3] / "shared/data/structured-field-tests/items.json"
    path = Path(os.environ.get("STRUCTURED_FIELD_VECTORS", beside))
    if not path.is_file():
        return [
            pytest.param({}, marks=pytest.mark.skip("no structured-field-tests: set STRUCTURED_FIELD_VECTORS"))
        ]
    found = json.loads(path.read_text("utf-8"))
    assert len(found) == 840
    assert sum(isinstance(vector.get("expected", [0])[0], str) for vector in found) == 104
    return [pytest.param(vector, id=f"{vector['file']}-{vector['name']}") for vector in found]


@pytest.mark.row(11)
@pytest.mark.parametrize("vector", vectors())
def test_the_parser_agrees_with_the_published_vectors(vector: dict[str, Any]) -> None:
    # Several lines are one value for the parser; that two lines are no key is a rule of its own.
    found = parse_string(", ".join(vector["raw"]))
    expected = vector.get("expected", [None])[0]
    wanted = expected if isinstance(expected, str) and not vector.get("must_fail") else None
    assert found == wanted or (vector.get("can_fail") and found is None)


def reference(data: bytes) -> str | None:
    """Return the value of a String as http_sf parses it, or `None` for anything else."""
    try:
        value, _ = http_sf.parse(data, tltype="item")  # type: ignore[misc]
    except http_sf.StructuredFieldError:
        return None
    return value if type(value) is str else None


def assert_agreement(data: bytes) -> None:
    assert parse_string(data.decode("latin-1")) == reference(data)


@pytest.mark.row(11, 15)
def test_the_parser_agrees_with_the_reference_on_every_byte() -> None:
    for byte in (bytes([number]) for number in range(256)):
        for form in (
            b'"%b"',
            b'"a%bz"',
            b'"\\%b"',
            b'"%b',
            b'%b"',
            b"%b",
            b'%b"a"',
            b'"a"%b',
            b'"a";%b',
            b'"a";k=%b',
        ):
            assert_agreement(form % byte)


@pytest.mark.row(11)
def test_every_visible_character_of_a_string_is_itself() -> None:
    plain = [chr(number) for number in range(0x20, 0x7F) if chr(number) not in '"\\']
    assert [parse_string(f'"{each}"') for each in plain] == plain
    assert [parse_string(f'"\\{each}"') for each in '"\\'] == ['"', "\\"]


visible = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=12)
strings = visible.map(lambda value: '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"')
sf_keys = st.from_regex(r"[a-z*][a-z0-9_\-.*]{0,6}", fullmatch=True)
bare_items = st.one_of(
    strings,
    st.integers(-(10**15) + 1, 10**15 - 1).map(str),
    st.from_regex(r"-?[0-9]{1,12}\.[0-9]{1,3}", fullmatch=True),
    st.from_regex(r"[A-Za-z*][!#$%&'*+\-.^_`|~0-9A-Za-z:/]{0,8}", fullmatch=True),
    st.binary(max_size=9).map(lambda value: f":{b64encode(value).decode()}:"),
    st.sampled_from(["?0", "?1"]),
    st.integers(-62_135_596_800, 253_402_214_400).map(lambda value: f"@{value}"),
    st.text(max_size=6).map(lambda value: '%"' + "".join(f"%{byte:02x}" for byte in os.fsencode(value)) + '"')
    | st.from_regex(r'%"([ !#$&-~]|%[0-9a-f]{2}){0,6}"', fullmatch=True),
)
parameters = st.tuples(sf_keys, st.none() | bare_items).map(
    lambda pair: pair[0] if pair[1] is None else "=".join(pair)
)
items = st.builds(
    lambda before, item, given, after: " " * before + item + "".join(given) + " " * after,
    st.integers(0, 2),
    strings | bare_items,
    st.lists(st.builds(lambda space, given: ";" + " " * space + given, st.integers(0, 2), parameters), max_size=4),
    st.integers(0, 2),
)


@pytest.mark.row(11, 13)
@settings(max_examples=200)
@given(items)
def test_the_parser_agrees_with_the_reference_on_items(item: str) -> None:
    assert_agreement(item.encode("latin-1"))


@pytest.mark.row(11, 12)
@settings(max_examples=200)
@given(items, st.data())
def test_the_parser_agrees_with_the_reference_on_items_with_an_error(item: str, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(item)))
    put = data.draw(
        st.sampled_from(['"', "\\", ";", "=", ":", " ", "\t", "1", ".", "%", "@", "?", ",", "A", "\xe9", ""])
    )
    assert_agreement((item[:at] + put + item[at + data.draw(st.integers(0, 2)) :]).encode("latin-1"))


@pytest.mark.row(11)
@settings(max_examples=200)
@given(st.text(st.sampled_from('"\\;=:%@?.-*a1 \xe9'), max_size=10))
def test_the_parser_agrees_with_the_reference_on_random_text(rest: str) -> None:
    assert_agreement(('"k"' + rest).encode("latin-1"))
    assert_agreement(('"k";a=' + rest).encode("latin-1"))
    assert_agreement(rest.encode("latin-1"))


def test_the_parser_agrees_with_the_reference_on_the_padding_of_byte_sequences() -> None:
    for data in (
        b"",
        b"=",
        b"a",
        b"aa",
        b"aa=",
        b"aa==",
        b"aa===",
        b"aaa",
        b"aaa==",
        b"aaaa",
        b"aaaa=",
        b"aaaaa",
        b"a=a",
    ):
        assert_agreement(b'"k";p=:%b:' % data)


def test_a_date_may_have_up_to_fifteen_digits() -> None:
    # RFC 9651, section 3.3.7, demands the years 1 to 9999 at least; the reference allows no others.
    assert parse_string('"k";p=@-999999999999999') == "k"
    assert parse_string('"k";p=@1000000000000000') is None


N = 65_536
LONG = {
    "a string": '"' + "a" * N + '"',
    "escapes": '"' + '\\"' * (N // 2) + '"',
    "open": '"' + "a" * N,
    "open escapes": '"' + "\\\\" * (N // 2),
    "parameters": '"a"' + ";a=1" * (N // 4),
    "parameters, then an error": '"a"' + ";a=1" * (N // 4) + "!",
    "keys": '"a";' + "a" * N + '"',
    "spaces": '"a";' + " " * N + "!",
    "spaces at the end": '"a"' + " " * N + "!",
    "tokens": '"a";a=' + "a" * N + '"',
    "numbers": '"a";a=' + "1" * N,
    "bytes": '"a";a=:' + "aaaa" * (N // 4),
    "strings": '"a"' + ';a="\\""' * (N // 7) + ";",
    "display strings": '"a"' + ';a=%"%c3%bc"' * (N // 12),
    "percent": '"a";a=%"' + "%c3%bc" * (N // 6) + '"',
    "quotes": '"' * N,
    "bare": "a" * N + ",",
}  # fmt: skip


@pytest.mark.parametrize("value", LONG.values(), ids=LONG)
def test_a_long_header_is_read_in_time_that_grows_with_its_length(value: str) -> None:
    line = value.encode("ascii")
    # 0.025 s on an idle machine. Quadratic time would be seconds.
    assert min(_seconds(line) for _ in range(3)) < 0.25


def _seconds(line: bytes) -> float:
    start = time.thread_time()
    header_key([line], LENIENT)
    return time.thread_time() - start


# A key in a body.

#    row  what the expression selected    the key
SELECTED = [
    (24, "8e03", "8e03"),
    (24, 'a b,c;"d"\\\u00fc\U0001f600', 'a b,c;"d"\\\u00fc\U0001f600'),
    (25, ["t", "7"], '["t","7"]'),
    (25, ["t", 7], '["t","7"]'),
    (25, ['a"b', "\u00fc"], '["a\\"b","\u00fc"]'),
    (25, ["a"], '["a"]'),
    (25, ["a", None], None),
    (25, [None, None], None),
    (25, [], None),
    (25, ["a", ""], REFUSED),
    (25, ["a", True], REFUSED),
    (25, ["a", 1.0], REFUSED),
    (25, ["a", ["b"]], REFUSED),
    (25, ["a", {}], REFUSED),
    (25, [None, {}], REFUSED),
    (25, ["a", "b\n"], REFUSED),
    (25, ["a" * 251], '["' + "a" * 251 + '"]'),
    (25, ["a" * 252], REFUSED),
    (26, None, None),
    (27, 7, "7"),
    (27, -70, "-70"),
    (27, 0, "0"),
    (27, 10**254, "1" + "0" * 254),
    (27, 10**255, REFUSED),
    (27, 10**5000, REFUSED),
    (27, True, REFUSED),
    (27, False, REFUSED),
    (27, 1.0, REFUSED),
    (27, float("inf"), REFUSED),
    (27, {}, REFUSED),
    (27, {"a": "b"}, REFUSED),
    (27, "", REFUSED),
    (29, "a" * 255, "a" * 255),
    (29, "a" * 256, REFUSED),
    (29, "\u00fc" * 255, "\u00fc" * 255),
    (29, "   ", REFUSED),
    (29, "a\x00", REFUSED),
    (29, "a\tb", REFUSED),
    (29, "a\x7f", REFUSED),
    (29, "a\x9f", REFUSED),
    (31, "\ud800", REFUSED),
    (31, "\ude00\ud83d", REFUSED),
]  # fmt: skip


@pytest.mark.parametrize(
    ("selected", "expected"),
    [
        pytest.param(*cells, marks=pytest.mark.row(row), id=f"{row}-{at}")
        for at, (row, *cells) in enumerate(SELECTED)
    ],
)
def test_the_key_in_a_body(selected: Any, expected: str | None) -> None:
    found = body_key(selected, LENIENT)
    if isinstance(found, Refusal):
        assert found.problem is Problem.KEY_INVALID
        found = REFUSED
    assert found == expected


@pytest.mark.row(29)
def test_the_syntax_of_the_header_does_not_apply_to_a_body() -> None:
    assert [body_key("a, b", http) for http in (LENIENT, STRICT, OPAQUE)] == ["a, b"] * 3


@pytest.mark.row(25, 56)
@given(
    st.lists(visible.filter(bool), min_size=1, max_size=3), st.lists(visible.filter(bool), min_size=1, max_size=3)
)
def test_keys_of_several_fields_are_equal_only_if_all_fields_are(one: list[str], other: list[str]) -> None:
    assert (body_key(one, LENIENT) == body_key(other, LENIENT)) is (one == other)
