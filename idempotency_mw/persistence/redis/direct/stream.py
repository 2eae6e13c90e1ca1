"""What has arrived on a connection, as redis-py's async parsers read it. No task waits in it.

A parser is a coroutine that is advanced when bytes have come in; where they do not suffice it yields.
"""

from collections.abc import Generator
from types import coroutine

__all__ = ["Stream"]


class Stream:
    """What has arrived, by those methods of `asyncio.StreamReader` with which redis-py's parsers read."""

    def __init__(self) -> None:
        self.arrived = bytearray()

    async def read(self, _size: int) -> bytes:
        """Return all that is there, once there is something."""
        while not self.arrived:
            await _more()
        return self._take(len(self.arrived))

    async def readexactly(self, size: int) -> bytes:
        """Return so many bytes."""
        while len(self.arrived) < size:
            await _more()
        return self._take(size)

    async def readline(self) -> bytes:
        """Return a line with its end."""
        while not (size := self.arrived.find(b"\n") + 1):
            await _more()
        return self._take(size)

    def _take(self, size: int) -> bytes:
        taken = bytes(self.arrived[:size])
        del self.arrived[:size]
        return taken


@coroutine
def _more() -> Generator[None]:
    yield
