"""What the server has for one request: its body, then word of its client.

Nothing that the server says is lost. A `receive` that was begun while a duplicate waited, and was not needed after
all, is never cancelled while somebody may still ask: it is what the next one who asks awaits.
"""

import asyncio

from idempotency_mw.asgi_run import Message, Receive

__all__ = ["ClientGoneError", "Incoming"]


class ClientGoneError(Exception):
    """Nobody is there to answer to."""


class Incoming:
    """One request's messages: call it as the app calls `receive`. `close` it when the request is over."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._begun: asyncio.Future[Message] | None = None
        self._body: bytes | None = None

    async def __call__(self) -> Message:
        """Return the next message."""
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        if self._begun is None:
            return await self._receive()
        begun, self._begun = self._begun, None
        return await begun

    async def body(self, limit: int) -> bytes | None:
        """Return the whole body, or None where it exceeds the limit. Raises `ClientGoneError`."""
        chunks: list[bytes] = []
        length = 0
        more = True
        while more:
            message = await self()
            if message["type"] == "http.disconnect":
                raise ClientGoneError
            chunks.append(message.get("body", b""))
            length += len(chunks[-1])
            if length > limit:
                return None
            more = message.get("more_body", False)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def again(self, body: bytes) -> None:
        """Give a body that was read once more, before what the server says next."""
        self._body = body

    async def pause(self, seconds: float) -> None:
        """Let time pass, once the body was read. Raises `ClientGoneError` when the client goes meanwhile."""
        if self._begun is None:
            self._begun = asyncio.ensure_future(self._receive())
        done, _ = await asyncio.wait([self._begun], timeout=seconds)
        if not done:
            return
        message = await self()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        # Not a message to expect here; but it must not make us ask the store without a pause.
        await asyncio.sleep(seconds)

    def close(self) -> None:
        """Leave nothing behind."""
        if self._begun is not None:
            self._begun.cancel()
