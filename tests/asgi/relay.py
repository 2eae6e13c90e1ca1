"""A relay to a server that loses the reply to one message, as a network can."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress


class Relay:
    """Passes bytes on in both directions. A message that contains `losing` loses its reply and its connection."""

    def __init__(self, port: int) -> None:
        self.upstream = port
        self.losing: bytes | None = None
        self.lost = 0
        self.port = 0
        self.serving: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.serving.add(task)
        with suppress(OSError, asyncio.CancelledError):
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self.upstream)
            try:
                await self._pass_on(reader, up_writer, up_reader, writer)
            finally:
                up_writer.close()
        writer.close()
        self.serving.discard(task)

    async def _pass_on(
        self,
        reader: asyncio.StreamReader,
        up_writer: asyncio.StreamWriter,
        up_reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        cutting = asyncio.Event()

        async def there() -> None:
            while data := await reader.read(65536):
                if self.losing is not None and self.losing in data:
                    self.losing = None
                    cutting.set()
                up_writer.write(data)

        async def back() -> None:
            while data := await up_reader.read(65536):
                if cutting.is_set():
                    self.lost += 1
                    return
                writer.write(data)

        ways = [asyncio.ensure_future(there()), asyncio.ensure_future(back())]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)


@asynccontextmanager
async def relay_to(port: int) -> AsyncIterator[Relay]:
    """Serve a relay to this port while the block runs."""
    relay = Relay(port)
    server = await asyncio.start_server(relay.serve, "127.0.0.1", 0)
    relay.port = server.sockets[0].getsockname()[1]
    try:
        yield relay
    finally:
        server.close()
        for task in relay.serving:
            task.cancel()
        await asyncio.gather(*relay.serving)
        await asyncio.sleep(0)  # the transports close in the next loop iteration
