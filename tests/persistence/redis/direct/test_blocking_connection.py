"""One blocking connection, byte by byte: its replies, its deadlines, and what can't be read."""

import socket
import threading
import time
from contextlib import closing, contextmanager

import pytest
import redis

from idempotency_mw.persistence.redis.direct.blocking_connection import BlockingConnection
from tests.persistence.redis.direct.blocking_talk import OnSocket, exchange


@contextmanager
def a_connection():
    """Yield a connection, and the other end of it."""
    ours, theirs = socket.socketpair()
    with closing(theirs), closing(ours):
        yield BlockingConnection(OnSocket(ours)), theirs


@pytest.mark.parametrize(
    ("said", "replies"),
    [
        (b":7\r\n", [7]),
        (b":-7\r\n", [-7]),
        (b":+1\r\n", [1]),
        (b"$-1\r\n", [None]),
        (b"*-1\r\n", [None]),
        (b"+OK\r\n", [b"OK"]),
        (b"*1\r\n:0\r\n", [[0]]),
        (b"$3\r\nabc\r\n+OK\r\n*2\r\n:0\r\n$4\r\n\r\n\r\n\r\n", [b"abc", b"OK", [0, b"\r\n\r\n"]]),
    ],
)
def test_replies_are_whole_wherever_they_are_cut(said, replies):
    for cut in range(len(said)):
        with a_connection() as (connection, theirs):
            later = threading.Timer(0.005, theirs.sendall, [said[cut:]])
            theirs.sendall(said[:cut])
            later.start()
            assert exchange(connection, len(replies)) == replies
            assert connection.is_fit(time.monotonic())
            later.join()


def test_an_error_among_several_replies_is_a_value():
    with a_connection() as (connection, theirs):
        theirs.sendall(b"+OK\r\n-WRONGTYPE no\r\n:1\r\n")
        first, second, third = exchange(connection, 3)
        assert (first, third) == (b"OK", 1)
        assert isinstance(second, redis.ResponseError)


@pytest.mark.parametrize("more", [b"+OK\r\n", b"?", b"\r\n"])
def test_more_than_was_asked_for_is_not_a_reply_to_anybody(more):
    with a_connection() as (connection, theirs):
        theirs.sendall(b":1\r\n" + more)
        with pytest.raises(redis.ConnectionError, match="more than"):
            exchange(connection)


@pytest.mark.parametrize(
    "said",
    [
        b"?3\r\nbad\r\n",
        b":x\r\n",
        b">1\r\n:1\r\n",
        b"$x\r\n",
        b"$1\r\nab\r\n",
    ],
)
def test_an_unreadable_reply_is_an_error_at_once(said):
    with a_connection() as (connection, theirs):
        theirs.sendall(said)
        with pytest.raises(redis.RedisError):
            exchange(connection)


def test_a_connection_that_ends_in_mid_reply_is_an_error_at_once():
    with a_connection() as (connection, theirs):
        theirs.sendall(b"$3\r\nab")
        theirs.shutdown(socket.SHUT_WR)
        with pytest.raises(redis.ConnectionError, match="closed"):
            exchange(connection)


def test_a_reply_that_trickles_in_ends_with_the_deadline():
    with a_connection() as (connection, theirs):
        theirs.sendall(b"$999\r\n")
        trickle = threading.Event()

        def drip():
            while not trickle.wait(0.03):
                theirs.sendall(b"x")

        dripping = threading.Thread(target=drip)
        dripping.start()
        begun = time.monotonic()
        with pytest.raises(TimeoutError):
            exchange(connection, within=0.2)
        assert time.monotonic() - begun < 2.0  # without the deadline it would never end
        trickle.set()
        dripping.join()


class Pouring:
    """A socket on which there is always something to read, for a second."""

    def __init__(self, sock):
        self.fileno = sock.fileno
        self.ends = time.monotonic() + 1.0

    def settimeout(self, _seconds):
        pass

    def sendall(self, _message):
        pass

    def recv(self, _size):
        return b"$99999999\r\n" if time.monotonic() < self.ends else b""

    def shutdown(self, _how):
        pass

    def close(self):
        pass


def test_a_reply_that_comes_without_a_pause_and_without_an_end_ends_with_the_deadline():
    ours, theirs = socket.socketpair()
    with closing(theirs), closing(ours):
        connection = BlockingConnection(OnSocket(Pouring(ours)))
        with pytest.raises(TimeoutError):
            exchange(connection, within=0.1)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("was_idle", [False, True])
def test_a_message_that_nobody_takes_ends_with_the_deadline(count, was_idle):
    with a_connection() as (connection, theirs):
        if was_idle:
            theirs.sendall(b":1\r\n")
            exchange(connection)
        begun = time.monotonic()
        with pytest.raises(TimeoutError):
            connection.exchange([b"x" * (1 << 20)] * count, count, begun, begun + 0.2)
        assert time.monotonic() - begun < 2.0  # without the deadline it would never end


@pytest.mark.parametrize("was_idle", [False, True])
def test_a_command_in_pieces_is_sent_whole(was_idle):
    with a_connection() as (connection, theirs):
        if was_idle:
            theirs.sendall(b":1\r\n")
            exchange(connection)
            theirs.recv(1000)
        theirs.sendall(b":2\r\n")
        now = time.monotonic()
        assert connection.exchange([b"be", b"fo", b"re"], 1, now, now + 5) == [2]
        assert theirs.recv(1000) == b"before"


def test_a_silent_connection_leaves_half_of_the_time_to_ask_again_unless_it_is_new_or_may_have_to_wait():
    with a_connection() as (connection, theirs):

        def until_it_is_given_up(count):
            begun = time.monotonic()
            with pytest.raises(TimeoutError):
                exchange(connection, count, within=1.0)
            return time.monotonic() - begun

        assert until_it_is_given_up(1) > 0.99
        theirs.sendall(b":1\r\n")
        exchange(connection)
        assert 0.49 < until_it_is_given_up(1) < 0.99
        assert until_it_is_given_up(2) > 0.99
