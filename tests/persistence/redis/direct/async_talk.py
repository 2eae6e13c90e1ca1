"""Helpers of the tests of the async direct path: a client, a relay before its server, its open timers."""

import asyncio
from contextlib import asynccontextmanager, suppress

from idempotency_mw.persistence.redis import RedisConnection
from idempotency_mw.persistence.redis.clients.asynchronous import async_client
from idempotency_mw.persistence.redis.clients.closing import closers
from idempotency_mw.persistence.redis.commands import RAW
from idempotency_mw.persistence.redis.direct.asynchronous import DirectRedis


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
    """Ask for the text back; a reply that is another's is no reply."""
    reply = await client.execute_command("ECHO", text, **RAW)
    assert reply == text.encode()


def connections(client):
    return len(client.connection_pool._in_use_connections)


@asynccontextmanager
async def relay(port, edit=lambda reply: reply, pause=0.0, **options):
    """Stand before a port, and pass each reply through `edit`. Yields where it listens, and who is connected.

    With a pause a long reply comes in pieces.
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
    """Return the timers that are armed on this loop."""
    return [timer for timer in asyncio.get_running_loop()._scheduled if not timer.cancelled()]
