"""Helpers of the tests of the blocking direct path: a client, what it is asked, and its idle connections."""

import os
import time
from contextlib import contextmanager

from idempotency_mw.persistence.redis import RedisConnection
from idempotency_mw.persistence.redis.clients.blocking import blocking_client
from idempotency_mw.persistence.redis.clients.closing import closers
from idempotency_mw.persistence.redis.commands import RAW
from idempotency_mw.persistence.redis.direct.blocking import (
    DirectBlockingRedis,
)
from idempotency_mw.persistence.redis.direct.deadline import Deadline


@contextmanager
def direct(url, **options):
    """Yield a direct client, and close it."""
    client = blocking_client(RedisConnection(url=url), Deadline(), direct=True, **options)
    assert isinstance(client, DirectBlockingRedis)
    try:
        yield client
    finally:
        for close in closers(client):
            close()


def said(client, *command, within=10.0):
    """Return the reply to the command."""
    client._deadline.start(within)
    return client.execute_command(*command, **RAW)


def echo(client, text, within=10.0):
    """Ask for the text back; a reply that is another's is no reply."""
    assert said(client, "ECHO", text, within=within) == text.encode()


def together(client, *commands, within=10.0):
    client._deadline.start(within)
    return client.send_pipeline(commands)


def idle(client):
    """Return the connections of this process that nobody uses."""
    return client._idle.get(os.getpid(), [])


def connected(server, name):
    """Return how many clients of this name the server has."""
    with server.client() as store:
        return sum(each["name"] == name for each in store.client_list())


def several_idle(client):
    """Make the client keep three connections that nobody uses."""
    made = [client._connected(time.monotonic() + 10.0) for _ in range(3)]
    for connection in made:
        assert exchange(connection) == [b"PONG"]
    client._begin_in_this_process().extend(made)


def exchange(connection, count=1, within=5.0):
    now = time.monotonic()
    return connection.exchange([b"*1\r\n$4\r\nPING\r\n" * count], count, now, now + within)
