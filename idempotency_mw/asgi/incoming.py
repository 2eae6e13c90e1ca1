"""What the server has for one request: its head, its body, then word of its client.

Nothing that the server says is lost. A `receive` that was begun while a duplicate waited, and was not needed after
all, is never cancelled while somebody may still ask: it is what the next one who asks awaits.
"""

import asyncio
from functools import lru_cache

from idempotency_mw.asgi.types import Message, Receive, Scope
from idempotency_mw.aws import viewer_headers
from idempotency_mw.http.message import Request, grouped

__all__ = ["ClientGoneError", "Incoming", "request_of", "without_headers"]


class ClientGoneError(Exception):
    """Nobody is there to answer to."""


def request_of(scope: Scope, names: frozenset[bytes]) -> Request:
    """Return the request with its headers of these names."""
    path, root = scope["path"], scope.get("root_path", "")
    headers = ("aws.event" in scope and viewer_headers(scope["aws.event"])) or scope["headers"]
    # Servers differ: with some the path has the prefix of the mount, with others it does not.
    if root and path != root and not path.startswith(root.rstrip("/") + "/"):
        path = root.rstrip("/") + path
    return Request(scope["method"].upper(), path, scope.get("query_string", b""), grouped(headers, names))


@lru_cache
def without_headers(method: str) -> Request:
    """Return what is left of a request once it is known what it asks for: answers depend on its method alone."""
    return Request(method, "", b"", {})


class Incoming:
    """One request's messages: call it as the app calls `receive`. `close` it when all is over."""

    __slots__ = ("_begun", "_body", "_receive")

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
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGoneError
            chunk = message.get("body", b"")
            length += len(chunk)
            if length > limit:
                return None
            if not message.get("more_body", False):
                return b"".join([*chunks, chunk]) if chunks else chunk
            chunks.append(chunk)

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

    @property
    def is_listening(self) -> bool:
        """Whether a `receive` is under way that nobody has asked for: only then there is something to close."""
        return self._begun is not None

    async def close(self) -> None:
        """Leave no task behind: on Lambda the loop stands still after the call."""
        if self._begun is not None:
            self._begun.cancel()
            await asyncio.wait([self._begun], timeout=1)
