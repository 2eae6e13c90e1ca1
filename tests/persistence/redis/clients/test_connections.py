"""redis-py's connections as the layers' clients use them."""

import asyncio
from contextlib import suppress

import pytest

from idempotency_mw.persistence.redis.clients.connections import cancellable


class LosesCancellations:
    """A connection whose sending loses a cancellation, as `asyncio.wait_for` of Python 3.11 may."""

    is_closed = False

    async def send_packed_command(self, *_):
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(60)

    async def disconnect(self, *, nowait):
        self.is_closed = True


async def test_a_deadline_that_passes_while_a_sentinel_is_asked_ends_the_verb():
    connection = cancellable(LosesCancellations)()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await connection.send_packed_command(b"PING")
            await asyncio.Event().wait()
    assert connection.is_closed
