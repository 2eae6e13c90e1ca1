"""Commands are packed as redis-py packs them, and plain replies are read in one step."""

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from redis.connection import Connection

from idempotency_mw.core.record import Claim, Operation
from idempotency_mw.persistence.redis import commands
from idempotency_mw.persistence.redis.direct.resp import packed, pieces, plain

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
DIGITS = "0123456789abcdef"
CLAIM = st.builds(
    Claim,
    st.builds(Operation, TEXT, st.text(DIGITS, min_size=64, max_size=64) | TEXT),
    st.text(DIGITS, min_size=32, max_size=32) | TEXT,
    st.integers(1, 10**15),
    st.integers(1, 10**15),
    st.booleans(),
)
NUMBER = st.integers(-(10**17), 10**17)
PLAIN = NUMBER | st.binary(max_size=40) | st.tuples(st.just(0), NUMBER, st.binary(max_size=40)).map(list)


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


def by_redis_py(*command: Any, **options: Any) -> bytes:
    """Return the command as redis-py packs it."""
    return b"".join(Connection(**options).pack_command(*command))


PART = st.binary(max_size=20) | st.integers(65530, 65540).map(bytes)
ARGUMENT = TEXT | PART | st.integers() | st.lists(PART, max_size=3).map(tuple)


@given(st.lists(st.lists(ARGUMENT, max_size=4), max_size=3))
def test_commands_in_pieces_are_those_that_redis_py_packs(given_commands: list[list[Any]]) -> None:
    joined = [[b"".join(each) if isinstance(each, tuple) else each for each in one] for one in given_commands]
    wanted = b"".join(by_redis_py("GET", *one) for one in joined)
    assert b"".join(pieces([["GET", *one] for one in given_commands])) == wanted


@pytest.mark.parametrize(("size", "is_copied"), [(65535, True), (65536, False)])
def test_a_large_part_is_a_piece_by_itself(size: int, is_copied: bool) -> None:
    part = bytes(size)
    made = pieces([("SET", "key", (b"before", part), "PX", 1)])
    assert any(each is part for each in made) is not is_copied
    assert len(made) == (1 if is_copied else 3)


@given(TEXT, CLAIM, st.none() | st.binary())
@example("usual:", Claim(Operation("a" * 64, "b" * 64), "c" * 32, 1, 2), b"result")
@example("usual:", Claim(Operation("a" * 64, "b" * 63), "c" * 32, 1, 2), None)
@example("usual:", Claim(Operation("a" * 64, "b" * 64), "c" * 31, 1, 2), None)
@example("ü:", Claim(Operation("a" * 64, "b" * 64), "c" * 32, 1, 2), b"result")
def test_calls_are_packed_as_redis_py_packs_them(prefix: str, claim: Claim, result: bytes | None) -> None:
    key, letter = prefix + claim.storage_key, "N" if result is None else "C"
    lease, retention, may = claim.lease_ms, claim.retention_ms, int(claim.may_take_over)
    for call, *arguments in (
        (commands.acquire(key, claim), claim.token, claim.fingerprint, lease, retention, may),
        (commands.extend(key, claim), claim.token, lease, retention),
        (commands.complete(key, claim, result), claim.token, retention, letter, result or b""),
        (commands.release(key, claim), claim.token),
    ):
        wanted = by_redis_py("EVALSHA", call.script.sha, 1, key, *arguments)
        assert call.packed() == wanted == by_redis_py(*call.by_digest)
        assert wanted == by_redis_py(*call.by_digest, encoding="latin-1")  # nothing depends on a client's
        assert by_redis_py(*call.by_text) == by_redis_py("EVAL", call.script.text, 1, key, *arguments)


@given(TEXT, CLAIM, st.binary())
def test_a_large_result_is_said_under_its_temporary_key(temporary: str, claim: Claim, result: bytes) -> None:
    key = claim.storage_key
    put, run = next(commands.complete_large(key, claim, result, temporary))
    wanted = by_redis_py("SET", temporary, commands.ROOM + result, "PX", commands.TEMPORARY_MS)
    assert b"".join(pieces([put])) == wanted
    arguments = claim.token, claim.retention_ms, len(commands.ROOM + result)
    assert by_redis_py(*run) == by_redis_py(*run[:2], 2, key, temporary, *arguments)


def test_a_large_result_is_sent_as_it_came() -> None:
    claim, result = Claim(Operation("a" * 64, "b" * 64), "c" * 32, 1, 1), bytes(65536)
    assert any(
        piece is result for piece in pieces(next(commands.complete_large("key", claim, result, "temporary")))
    )


@given(PLAIN, st.binary(max_size=20), st.binary(max_size=20))
def test_a_plain_reply_is_read_from_where_it_begins_to_where_it_ends(
    value: Any, before: bytes, after: bytes
) -> None:
    reply = said(value)
    for data in (before + reply + after, bytearray(before + reply + after)):
        found = plain(data, len(before))
        assert found == (value, len(before) + len(reply))
        assert all(isinstance(each, int | bytes) for each in (value if isinstance(value, list) else [found[0]]))


@given(PLAIN, st.data())
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
        b":+1\r\n",
        b":--1\r\n",
        b":-\r\n",
        b":1_0\r\n",
        b": 1\r\n",
        b":9999999999999999999\r\n",
        b"$3\r\nabcd\r\n",
        b"$3\r\nabcde",
        b"*0\r\n",
        b"*1\r\n:0\r\n",
        b"*3\r\n:0\r\n:1\r\n:2\r\n",
        b"*3\r\n:1\r\n:1\r\n$1\r\na\r\n",
        b"*3\r\n:0\r\n:1\r\n$-1\r\na\r\n",
        b"*3\r\n:0\r\n:1\r\n$-1\r\n",
        b"*3\r\n:0\r\n:1\r\n$1\r\nabc",
        b"*4\r\n:0\r\n:1\r\n$1\r\na\r\n:1\r\n",
        b"*2\r\n:1\r\n-ERR no\r\n",
        b"*1\r\n" * 5000 + b":1\r\n",
        b"*999999999999999999\r\n:1\r\n",
        b">2\r\n$7\r\nmessage\r\n:1\r\n",
    ],
)
def test_whatever_else_is_said_is_not_plain(reply: bytes) -> None:
    assert plain(reply, 0) is None
