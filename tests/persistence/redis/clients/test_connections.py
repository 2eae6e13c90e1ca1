"""redis-py's connections as the layers' clients use them."""

import asyncio
from contextlib import closing, suppress

import pytest
import redis
import redis.asyncio

from idempotency_mw.persistence.redis import RedisConnection
from idempotency_mw.persistence.redis.clients.blocking import blocking_client
from idempotency_mw.persistence.redis.clients.connections import cancellable
from idempotency_mw.persistence.redis.commands import RAW
from idempotency_mw.persistence.redis.direct.deadline import Deadline


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


async def test_sending_in_a_task_that_was_cancelled_before_leaves_the_connection_open(any_server):
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


@pytest.mark.parametrize("commands", [1, 2])
def test_a_connection_on_which_replies_are_due_is_not_used_again(any_server, monkeypatch, commands):
    deadline = Deadline()
    deadline.start(10)
    client = blocking_client(RedisConnection(url=any_server.url), deadline, direct=False)

    def interrupted(*_args, **_options):
        raise KeyboardInterrupt

    def ask(text):
        pipeline = client.pipeline(transaction=False)
        for _ in range(commands):
            pipeline.execute_command("ECHO", text, **RAW)
        return pipeline.execute() if commands > 1 else [client.execute_command("ECHO", text, **RAW)]

    with closing(client.connection_pool):
        assert ask("before") == [b"before"] * commands
        with monkeypatch.context() as patched:
            patched.setattr(redis.Redis, "parse_response", interrupted)
            patched.setattr(redis.client.Pipeline, "parse_response", interrupted)
            with pytest.raises(KeyboardInterrupt):
                ask("interrupted")
        assert ask("after") == [b"after"] * commands
        connections = client.client_list()
        assert ask("again") == [b"again"] * commands
        assert [each["id"] for each in client.client_list()] == [each["id"] for each in connections]
