"""redis-py's connections as the layers' clients use them."""

import asyncio
from contextlib import suppress

import pytest
import redis.asyncio

from idempotency_mw.persistence.redis.clients.connections import cancellable


class LosesCancellations:
    """A connection whose sending loses a cancellation, as `asyncio.wait_for` of Python 3.11 may."""

    is_closed = False

    async def send_packed_command(self, *_):
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        await asyncio.sleep(0)

    async def disconnect(self, *, nowait):
        self.is_closed = True


async def test_a_deadline_that_passes_while_a_sentinel_is_asked_ends_the_verb():
    connection = cancellable(LosesCancellations)()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await connection.send_packed_command(b"PING")
            await asyncio.Event().wait()
    assert connection.is_closed


async def test_a_command_that_is_not_cancelled_leaves_the_connection_open_also_in_a_task_that_was(any_server):
    connection = cancellable(redis.asyncio.Connection)(port=any_server.port, socket_timeout=5.0)
    await connection.connect()
    task = asyncio.current_task()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.sleep(0)
    assert task.cancelling() == 1  # the cancellation that came before is not counted
    for _ in range(2):
        await connection.send_command("ECHO", "x")
        assert await connection.read_response() == b"x"
    task.uncancel()
    await connection.disconnect()
