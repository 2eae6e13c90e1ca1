"""What is written of Redis's protocol here agrees with redis-py's own."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.connection import Connection

from idempotency_mw.persistence.redis.resp import packed, plain

PLAIN = st.integers(0, 10**17) | st.binary(max_size=40)


def said(value: Any) -> bytes:
    """Return the value as a server says it."""
    if isinstance(value, int):
        return b":%d\r\n" % value
    if isinstance(value, bytes):
        return b"$%d\r\n%b\r\n" % (len(value), value)
    return b"*%d\r\n" % len(value) + b"".join(map(said, value))


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])) | st.binary() | st.integers()))
def test_commands_are_packed_as_redis_py_packs_them(args: list[Any]) -> None:
    assert packed(["EVALSHA", *args]) == b"".join(Connection().pack_command("EVALSHA", *args))


@given(PLAIN | st.lists(PLAIN, max_size=4), st.binary(max_size=20), st.binary(max_size=20))
def test_a_plain_reply_is_read_from_where_it_begins_to_where_it_ends(
    value: Any, before: bytes, after: bytes
) -> None:
    reply = said(value)
    assert plain(before + reply + after, len(before)) == (value, len(before) + len(reply))


@given(PLAIN | st.lists(PLAIN, min_size=1, max_size=4), st.data())
def test_a_reply_that_is_not_whole_is_left_alone(value: Any, data: st.DataObject) -> None:
    reply = said(value)
    assert plain(reply[: data.draw(st.integers(0, len(reply) - 1))], 0) is None


@pytest.mark.parametrize(
    "reply",
    [
        b"-ERR no\r\n",
        b"+OK\r\n",
        b"$-1\r\n",
        b"*-1\r\n",
        b"_\r\n",
        b":-1\r\n",
        b":1_0\r\n",
        b": 1\r\n",
        b":9999999999999999999\r\n",
        b"$3\r\nabcd\r\n",
        b"$3\r\nabcde",
        b"*1\r\n*0\r\n",
        b"*2\r\n:1\r\n-ERR no\r\n",
        b"*1\r\n" * 5000 + b":1\r\n",
        b"*999999999999999999\r\n:1\r\n",
        b">2\r\n$7\r\nmessage\r\n:1\r\n",
    ],
)
def test_whatever_else_is_said_is_not_plain(reply: bytes) -> None:
    assert plain(reply, 0) is None
