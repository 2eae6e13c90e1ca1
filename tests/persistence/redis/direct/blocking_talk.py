"""Helpers of the tests of the blocking direct path: a client, what it is asked, and its idle connections."""

import os
import socket
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from secrets import token_hex

import redis

from idempotency_mw.persistence.redis import RedisConnection
from idempotency_mw.persistence.redis.clients.blocking import blocking_client
from idempotency_mw.persistence.redis.clients.closing import closers
from idempotency_mw.persistence.redis.commands import RAW
from idempotency_mw.persistence.redis.direct.blocking import (
    DirectBlockingRedis,
)
from idempotency_mw.persistence.redis.direct.deadline import Deadline
from idempotency_mw.persistence.redis.direct.resp import packed
from tests.clusters import until

DEADLINE = Deadline()
"""The deadline of every client that `direct` yields. Each thread has its own."""


@contextmanager
def direct(url, **options):
    """Yield a direct client, and close it."""
    client = blocking_client(RedisConnection(url=url), DEADLINE, direct=True, **options)
    assert isinstance(client, DirectBlockingRedis)
    try:
        yield client
    finally:
        for close in closers(client):
            close()


def said(client, *command, within=10.0):
    """Return the reply to the command."""
    DEADLINE.start(within)
    return client.execute_command(*command, **RAW)


def echo(client, text, within=10.0):
    """Send ECHO, and check that the reply is this text and not the reply to another caller."""
    assert said(client, "ECHO", text, within=within) == text.encode()


def together(client, *commands, within=10.0):
    """Return the replies to commands that are sent in one message."""
    DEADLINE.start(within)
    return client.send_pipeline(commands)


def idle_lists(client):
    """Return the lists of idle connections, by process.

    A server sees how many connections are open. It can't see which of them are idle, and in which process.
    """
    return client._idle


def idle(client):
    """Return the connections of this process that nobody uses."""
    return idle_lists(client).get(os.getpid(), [])


def until_unfit(client):
    """Wait until none of the idle connections may be used again."""
    until(lambda: not any(each.is_fit(time.monotonic()) for each in idle(client)), within=2)


def ids(server, name):
    """Return the ids of the clients of this name that the server has."""
    with server.client() as store:
        return {each["id"] for each in store.client_list() if each["name"] == name}


def connected(server, name):
    """Return how many clients of this name the server has."""
    return len(ids(server, name))


def several_idle(client):
    """Make the client keep three connections that nobody uses.

    Two threads wait for a list, each on a connection of its own, while this one asks on a third connection.
    """
    name = token_hex(8)

    def ask(*command):
        now = time.monotonic()
        return client.ask(packed(command), now, now + 10.0)

    with ThreadPoolExecutor(2) as threads:
        waiting = [threads.submit(ask, "BLPOP", name, 10) for _ in range(2)]
        until(lambda: waiting_for_a_list(ask("CLIENT", "LIST")) == 2, within=5)
        ask("RPUSH", name, 1, 2)
        assert len({tuple(each.result()) for each in waiting}) == 2
    assert len(idle(client)) == 3


def waiting_for_a_list(clients):
    """Return how many of the clients in the reply to CLIENT LIST are blocked in BLPOP."""
    return sum(b" flags=b " in each and b" cmd=blpop " in each for each in clients.splitlines())


class OnSocket(redis.Connection):
    """redis-py's connection, on a socket that is open already."""

    def __init__(self, sock):
        super().__init__()
        self._sock = sock


def sockets_to(port):
    """Return the descriptors of this process's sockets that are connected to a port of this machine."""
    return {each for each in range(1024) if peer(each) == ("127.0.0.1", port)}


def peer(descriptor):
    """Return the address to which a descriptor is connected; `None` if it is no connected socket."""
    with suppress(OSError):
        if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            with socket.socket(fileno=os.dup(descriptor)) as copy:
                return copy.getpeername()
    return None


def exchange(connection, count=1, within=5.0):
    """Send so many PINGs on a connection, and return the replies."""
    now = time.monotonic()
    return connection.exchange([b"*1\r\n$4\r\nPING\r\n" * count], count, now, now + within)
