"""Helpers of the tests of the async direct path: a client, its connections, a relay, and the loop's timers."""

import asyncio
from contextlib import asynccontextmanager, suppress

from idempotency_mw.persistence.redis import RedisConnection
from idempotency_mw.persistence.redis.clients.asynchronous import async_client
from idempotency_mw.persistence.redis.clients.closing import closers
from idempotency_mw.persistence.redis.commands import RAW
from idempotency_mw.persistence.redis.direct.asynchronous import DirectRedis
from idempotency_mw.persistence.redis.redis_py import lent_by


@asynccontextmanager
async def direct(url, timeout=10.0, **options):
    """Yield a direct client for this loop, and close it."""
    client = async_client(RedisConnection(url=url), timeout, direct=True, **options)
    assert isinstance(client, DirectRedis)
    try:
        yield client
    finally:
        for close in closers(client):
            await close()


async def echo(client, text):
    """Send ECHO, and check that the reply is this text and not the reply to another caller."""
    reply = await client.execute_command("ECHO", text, **RAW)
    assert reply == text.encode()


def connections(client):
    """Return how many connections the client has open."""
    return len(lent_by(client.connection_pool))


def shared(client):
    """Return the connection that callers share. It must be open."""
    connection = client.connection_for(b"")
    assert connection is not None
    return connection


def let_time_pass(seconds):
    """Put the loop's clock forward, as it is after the process was frozen for so long."""
    loop = asyncio.get_running_loop()
    usual = loop.time
    loop.time = lambda: usual() + seconds


@asynccontextmanager
async def relay(port, edit=lambda reply: reply, pause=0.0, **options):
    """Relay the connections to a port, and pass what the server sends through `edit`.

    Yields the relay's port, and a list of the writers to its clients. With a pause, a long reply comes in pieces.
    """
    clients = []

    async def serve(reader, writer):
        clients.append(writer)
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", port)
        back = asyncio.ensure_future(pump(server_reader, writer, edit, pause))
        await pump(reader, server_writer, lambda request: request)
        await back

    listener = await asyncio.start_server(serve, "127.0.0.1", 0, **options)
    try:
        yield listener.sockets[0].getsockname()[1], clients
    finally:
        listener.close()
        for writer in clients:
            writer.transport.abort()
        await asyncio.sleep(0.05)


async def pump(reader, writer, edit, pause=0.0):
    """Copy a stream to its end, and close the other side then."""
    with suppress(OSError):
        while came := await reader.read(1 << 20):
            data = edit(came)
            size = 100 if pause and len(data) > 500 else max(len(data), 1)
            for start in range(0, len(data), size):
                writer.write(data[start : start + size])
                await writer.drain()
                await asyncio.sleep(pause if size < len(data) else 0)
    writer.transport.abort()


def timers():
    """Return the timers that are armed on this loop, for which asyncio has no public name."""
    return [timer for timer in asyncio.get_running_loop()._scheduled if not timer.cancelled()]
