"""The reader of Redis's protocol: it reads as redis-py does, wherever the bytes are cut, and within bounds."""

import math
from dataclasses import dataclass

import pytest
import redis
from hypothesis import example, given
from hypothesis import strategies as st
from redis._parsers import BaseParser, _RESP2Parser, _RESP3Parser
from redis.exceptions import InvalidResponse

from idempotency_mw.persistence.redis.direct.resp import Push, Reader
from idempotency_mw.persistence.redis.redis_py import server_error
from tests.persistence.redis.direct.blocking_talk import OnSocket

CANARY = "stored-response-7f3a"


@dataclass(frozen=True)
class Told:
    """An error reply, as a value that can be compared."""

    kind: str
    text: str


def comparable(value):
    """Return a reply as a value that is equal to itself when it is read again."""
    if isinstance(value, Exception):
        return Told(type(value).__name__, str(value))
    if isinstance(value, list):
        return [comparable(each) for each in value]
    if isinstance(value, dict):
        return {key: comparable(each) for key, each in value.items()}
    return Push(comparable(value.items)) if isinstance(value, Push) else value


def read(*pieces):
    """Return what is read from the stream when it comes in these pieces, and whether nothing is left over."""
    reader = Reader(server_error)
    events = [event for piece in pieces for event in reader.read(piece)]
    return list(map(comparable, events)), reader.is_between_replies


def unreadable(stream):
    """Return the error that a stream ends in."""
    *_, error = Reader(server_error).read(stream)
    assert type(error) is InvalidResponse
    return error


def cut(data, stream):
    """Draw where a stream is cut."""
    places = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    return [stream[begin:end] for begin, end in zip([0, *places], [*places, len(stream)], strict=True)]


# Replies, and how a server says them.

LINE = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=20).map(str.encode)
NUMBER = st.integers(-(2**63), 2**63 - 1)
STRING = st.binary(max_size=30) | st.sampled_from([b"", b"\r\n", b"$3\r\nabc\r\n"])
ERROR = st.sampled_from([b"ERR no", b"NOSCRIPT none", b"READONLY no", b"WRONGTYPE no", b"x", b"MOVED 5 a:1"])
FRACTION = st.floats(allow_nan=False)


def of_length(kind, text):
    return b"%b%d\r\n%b\r\n" % (kind, len(text), text)


def aggregate(kind, items):
    return b"%b%d\r\n" % (kind, len(items) // (2 if kind in b"%|" else 1)) + b"".join(items)


BOTH = st.one_of(
    NUMBER.map(lambda value: b":%d\r\n" % value),
    STRING.map(lambda value: of_length(b"$", value)),
    LINE.map(lambda value: b"+%b\r\n" % value),
    ERROR.map(lambda value: b"-%b\r\n" % value),
    st.sampled_from([b"*0\r\n", b":0\r\n"]),
)
RESP2_SIMPLE = BOTH | st.sampled_from([b"$-1\r\n", b"*-1\r\n"])
KEY = STRING.map(lambda value: of_length(b"$", value))
RESP3_SIMPLE = st.one_of(
    BOTH,
    st.integers(-(10**30), 10**30).map(lambda value: b"(%d\r\n" % value),
    FRACTION.map(lambda value: b",%b\r\n" % repr(value).encode()),
    STRING.map(lambda value: of_length(b"=", b"txt:" + value)),
    ERROR.map(lambda value: of_length(b"!", value)),
    st.sampled_from([b"_\r\n", b"#t\r\n", b"#f\r\n", b",inf\r\n", b",-inf\r\n"]),
)


def nested(simple, *kinds):
    def within(inner):
        made = [st.lists(inner, max_size=4).map(lambda items: aggregate(b"*", items))]
        if b"%" in kinds:
            pairs = st.lists(st.tuples(KEY, inner).map(lambda pair: [*pair]), max_size=3)
            made.append(pairs.map(lambda pairs: aggregate(b"%", [each for pair in pairs for each in pair])))
        if b"~" in kinds:
            made.append(st.lists(inner, max_size=3).map(lambda items: aggregate(b"~", items)))
        if b"|" in kinds:
            about = st.tuples(KEY, inner).map(lambda pair: aggregate(b"|", [*pair]))
            made.append(st.tuples(about, inner).map(b"".join))
        return st.one_of(*made)

    return st.recursive(simple, within, max_leaves=12)


RESP2 = nested(RESP2_SIMPLE)
RESP3 = nested(RESP3_SIMPLE, b"%")
EVERYTHING = nested(RESP2_SIMPLE | RESP3_SIMPLE, b"%", b"~", b"|") | st.lists(RESP3_SIMPLE, max_size=3).map(
    lambda items: aggregate(b">", items)
)


@given(st.lists(EVERYTHING, max_size=5), st.data())
@example([b"$3\r\nabc\r\n", b"*3\r\n:0\r\n:1\r\n$2\r\nxy\r\n", b":1\r\n"], None)
def test_a_stream_that_is_cut_anywhere_gives_the_same_events(replies, data):
    stream = b"".join(replies)
    whole = read(stream)
    assert (len(whole[0]), whole[1]) == (len(replies), True)
    assert whole[0] == [event for reply in replies for event in read(reply)[0]]
    assert read(*(stream[at : at + 1] for at in range(len(stream)))) == whole
    if data is not None:
        assert read(*cut(data, stream)) == whole


@given(EVERYTHING, st.data())
def test_a_reply_that_is_not_whole_is_no_event(reply, data):
    begun = reply[: data.draw(st.integers(1, len(reply) - 1))]
    events, is_between = read(begun)
    assert (events, is_between) == ([], False)


# What redis-py makes of the same bytes.


class Source:
    """A socket from which redis-py's parser reads a stream, and then its end."""

    def __init__(self, stream):
        self.left = [stream]

    def recv(self, _size):
        return self.left.pop() if self.left else b""

    def settimeout(self, _seconds):
        pass

    def shutdown(self, _how):
        pass

    def close(self):
        pass


def by_redis_py(kind, stream, count):
    parser = kind(1 << 16)
    parser.on_connect(OnSocket(Source(stream)))
    return [comparable(parser.read_response(disable_decoding=True)) for _ in range(count)]


@pytest.mark.parametrize(("kind", "replies"), [(_RESP2Parser, RESP2), (_RESP3Parser, RESP3)], ids=["2", "3"])
@given(st.data())
def test_replies_are_read_as_redis_py_reads_them(kind, replies, data):
    said = data.draw(st.lists(replies, min_size=1, max_size=3))
    events, _ = read(b"".join(said))
    assert events == by_redis_py(kind, b"".join(said), len(said))


# Each kind, by itself.


@pytest.mark.parametrize(
    ("said", "value"),
    [
        (b":9223372036854775807\r\n", 2**63 - 1),
        (b":+7\r\n", 7),
        (b"(-1234567890123456789012345\r\n", -1234567890123456789012345),
        (b",1.5e3\r\n", 1500.0),
        (b",-inf\r\n", -math.inf),
        (b"#t\r\n", True),
        (b"#f\r\n", False),
        (b"_\r\n", None),
        (b"+\r\n", b""),
        (b"=7\r\ntxt:abc\r\n", b"abc"),
        (b"*0\r\n", []),
        (b"%0\r\n", {}),
        (b"~2\r\n:1\r\n:1\r\n", [1, 1]),
        (b"%1\r\n+a\r\n*1\r\n_\r\n", {b"a": [None]}),
        (b">2\r\n+invalidate\r\n*1\r\n+k\r\n", Push([b"invalidate", [b"k"]])),
        (b">0\r\n", Push([])),
        (b"|1\r\n+ttl\r\n:3600\r\n*2\r\n:1\r\n|1\r\n+a\r\n+b\r\n:2\r\n", [1, 2]),
    ],
)
def test_each_kind_of_reply_has_its_value(said, value):
    (event,), is_between = read(said)
    assert (event, type(event), is_between) == (value, type(value), True)


def test_attributes_begin_a_reply():
    assert read(b"|1\r\n+a\r\n+b\r\n") == ([], False)
    assert read(b"|1\r\n+a\r\n+b\r\n", b"|0\r\n", b":1\r\n") == ([1], True)


def test_not_a_number_is_a_number():
    (event,), _ = read(b",nan\r\n")
    assert math.isnan(event)


@pytest.mark.parametrize("said", [b"-NOSCRIPT none\r\n", b"!13\r\nNOSCRIPT none\r\n"])
def test_an_error_reply_is_a_value_of_redis_pys_class_for_it(said):
    ((_, error),) = Reader(server_error).read(b"*2\r\n:1\r\n" + said)
    assert (type(error), str(error)) == (redis.exceptions.NoScriptError, "none")


# What is no reply.

UNREADABLE = {
    "no type": b"?3\r\n",
    "a line end": b"\r\n",
    "an integer that is none": b":1_0\r\n",
    "an integer with a space": b": 1\r\n",
    "an empty integer": b":\r\n",
    "a big number that is none": b"(1.5\r\n",
    "a big number that is too big": b"(" + b"9" * 4001 + b"\r\n",
    "a double that is none": b",1_0.5\r\n",
    "a boolean that is none": b"#y\r\n",
    "a null that says something": b"_x\r\n",
    "a length that is none": b"$x\r\n",
    "a streamed string": b"$?\r\n",
    "a negative length": b"$-2\r\n",
    "a null of a kind that has none": b"~-1\r\n",
    "an empty length": b"*\r\n",
    "a string that is longer than it says": b"$3\r\nabcd\r\n",
    "a string that does not end as it must": b"$3\r\nabc\rx",
    "a record whose string does not end": b"*3\r\n:0\r\n:1\r\n$1\r\nabc",
    "a string that is too long": b"$536870913\r\n",
    "a length of too many digits": b"$99999999999999999999\r\n",
    "too many items": b"*1048577\r\n",
    "a line that is too long": b"+" + b"x" * (64 << 10),
    "too deep": b"*1\r\n" * 17,
    "a push within a reply": b"*1\r\n>1\r\n",
    "a verbatim string without a format": b"=3\r\nabc\r\n",
    "a map with a list for a key": b"%1\r\n*0\r\n:1\r\n",
}


@pytest.mark.parametrize("said", UNREADABLE.values(), ids=UNREADABLE)
def test_what_is_no_reply_is_an_error_as_soon_as_that_can_be_told(said):
    unreadable(said)


def test_what_stands_before_something_unreadable_is_read():
    number, text, error = Reader(server_error).read(b":1\r\n+OK\r\n?:2\r\n")
    assert (number, text, type(error)) == (1, b"OK", InvalidResponse)


def test_the_longest_line_and_the_deepest_reply_are_read():
    line = b"x" * ((64 << 10) - 3)
    assert read(b"+%b\r\n" % line) == ([line], True)
    (event,), _ = read(b"*1\r\n" * 16 + b":1\r\n")
    for _ in range(16):
        (event,) = event
    assert event == 1


@pytest.mark.parametrize(
    "said",
    [
        b"?%b\r\n",
        b"+OK\r\n%b\r\n",
        b":%b\r\n",
        b"$%b\r\n",
        b"$1\r\n%b\r\n",
        b"=20\r\n%b\r\n",
        b",%b\r\n",
        b"%%1\r\n*1\r\n+%b\r\n:1\r\n",
    ],
)
def test_an_error_never_quotes_what_came(said):
    check_nothing_is_quoted(unreadable(said % CANARY.encode()))


@pytest.mark.skipif("MOVED" not in BaseParser.EXCEPTION_CLASSES, reason="this redis-py has no class for it")
@pytest.mark.parametrize("said", [b"-MOVED %b\r\n", b"-ASK %b x\r\n", b"-ASK 5 %b\r\n"])
def test_a_redirection_without_an_address_is_unreadable_and_not_quoted(said):
    check_nothing_is_quoted(unreadable(said % CANARY.encode()))


def check_nothing_is_quoted(error):
    assert CANARY not in str(error)
    assert error.__cause__ is None
    assert error.__context__ is None or error.__suppress_context__


@given(st.lists(EVERYTHING, max_size=3).map(b"".join), st.binary(max_size=30), st.data())
def test_whatever_comes_there_are_events_or_one_kind_of_error(stream, garbage, data):
    at = data.draw(st.integers(0, len(stream)))
    mixed = stream[:at] + garbage + stream[data.draw(st.integers(at, len(stream))) :]
    reader, count = Reader(server_error), 0
    for piece in cut(data, mixed):
        events = reader.read(piece)
        count += len(events)
        assert not any(type(event) is InvalidResponse for event in events[:-1])
        if events and type(events[-1]) is InvalidResponse:
            break
    assert count <= len(mixed)


def test_a_large_reply_that_comes_in_small_pieces_is_read_once():
    body = bytes(range(256)) * (1 << 14)
    stream = b"*3\r\n:0\r\n:17\r\n$%d\r\n%b\r\n" % (len(body), body)
    pieces = [stream[at : at + (1 << 16)] for at in range(0, len(stream), 1 << 16)]
    assert read(*pieces[:-1]) == ([], False)
    assert read(*pieces) == ([[0, 17, body]], True)


def test_each_element_of_an_array_that_comes_bit_by_bit_is_read_once():
    made = []
    reader = Reader(lambda text: made.append(text) or ValueError(text))
    assert reader.read(b"*1000\r\n") == []
    for number in range(1000):
        *begun, last = ([at] for at in b"-x\r\n")
        assert not any(reader.read(bytes(each)) for each in begun)
        assert reader.is_between_replies is False
        assert [len(reply) for reply in reader.read(bytes(last))] == [1000] * (number == 999)
    assert len(made) == 1000
    assert reader.is_between_replies is True
