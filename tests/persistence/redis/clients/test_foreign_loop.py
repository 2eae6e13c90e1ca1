"""Connections on a loop that is over are closed at once, and a fork's copy of a loop leaves its original alone."""

import asyncio
import gc
import select
import selectors
import socket
import warnings
from contextlib import closing

import pytest

from idempotency_mw.persistence.redis.clients.foreign_loop import callbacks_run_at_once, sockets_stay_registered


@pytest.fixture
def listening():
    """A socket that listens."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        yield listener


def connected(loop, listening):
    """Return a connection on the loop, and its other end."""
    _, writer = loop.run_until_complete(asyncio.open_connection(*listening.getsockname()))
    other, _ = listening.accept()
    other.settimeout(5.0)
    return writer, other


@pytest.mark.parametrize("is_closed", [True, False], ids=["closed", "stopped"])
def test_a_connection_on_a_loop_that_is_over_closes_at_once_and_in_silence(listening, is_closed):
    loop = asyncio.new_event_loop()
    writer, other = connected(loop, listening)
    if is_closed:
        loop.close()
    with warnings.catch_warnings(), closing(other):
        warnings.simplefilter("error")
        with callbacks_run_at_once(loop):
            writer.transport.abort()
        assert other.recv(1) == b""
        del writer
        gc.collect()
    loop.close()


@pytest.mark.parametrize("is_closed", [True, False], ids=["closed", "stopped"])
def test_other_callbacks_wait_for_the_loop_or_are_dropped_with_it(is_closed):
    loop, called = asyncio.new_event_loop(), []
    if is_closed:
        loop.close()
    with callbacks_run_at_once(loop):
        loop.call_soon(called.append, 1)
    assert called == []
    if not is_closed:
        loop.run_until_complete(asyncio.sleep(0))
        assert called == [1]
        loop.close()


@pytest.mark.parametrize("put_aside", [callbacks_run_at_once, sockets_stay_registered])
def test_a_loop_is_as_before_afterwards(put_aside):
    loop = asyncio.new_event_loop()
    before = dict(vars(loop))
    with pytest.raises(KeyError), put_aside(loop):
        raise KeyError
    assert vars(loop) == before
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()


def test_a_socket_that_a_forks_copy_of_a_loop_closes_stays_registered(listening):
    selector = selectors.DefaultSelector()
    loop = asyncio.SelectorEventLoop(selector)
    before = set(selector.get_map())
    writer, other = connected(loop, listening)
    registered = set(selector.get_map())
    (ours,) = registered - before
    with closing(other), callbacks_run_at_once(loop):
        with sockets_stay_registered(loop):
            writer.transport.abort()
        assert set(selector.get_map()) == registered
    selector.unregister(ours)
    loop.close()


@pytest.mark.parametrize("is_closed", [True, False], ids=["closed", "stopped"])
def test_uvloop_closes_its_connections_itself_or_when_it_runs_again(listening, is_closed):
    uvloop = pytest.importorskip("uvloop")
    loop = uvloop.new_event_loop()
    writer, other = connected(loop, listening)
    with closing(other), warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # uvloop's own, of what was open when it was closed
        if is_closed:
            loop.close()
        with callbacks_run_at_once(loop), sockets_stay_registered(loop):
            writer.transport.abort()
        if not is_closed:
            assert select.select([other], [], [], 0.05)[0] == []
            loop.run_until_complete(asyncio.sleep(0))
        assert other.recv(1) == b""
        del writer
        gc.collect()
    loop.close()
