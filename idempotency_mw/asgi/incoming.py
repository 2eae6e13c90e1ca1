"""What the server sends for one request: its head, its body, then the news that the client has gone.

No message of the server is lost. While a duplicate waits, it begins a `receive` to learn whether the client
goes. If the waiting ends first, that `receive` is not cancelled: the next caller awaits it.
"""

import asyncio
from functools import lru_cache

from idempotency_mw.asgi.types import Message, Receive, Scope
from idempotency_mw.aws import viewer_headers
from idempotency_mw.http.message import Request, grouped

__all__ = ["ClientGoneError", "Incoming", "request_of", "without_headers"]


class ClientGoneError(Exception):
    """The client has gone, and there is nobody to answer."""


def request_of(scope: Scope, names: frozenset[bytes]) -> Request:
    """Return the request with the headers of these names."""
    path, root = scope["path"], scope.get("root_path", "")
    headers = ("aws.event" in scope and viewer_headers(scope["aws.event"])) or scope["headers"]
    # Servers differ: some include the prefix of the mount in the path, others do not.
    if root and path != root and not path.startswith(root.rstrip("/") + "/"):
        path = root.rstrip("/") + path
    return Request(scope["method"].upper(), path, scope.get("query_string", b""), grouped(headers, names))


@lru_cache
def without_headers(method: str) -> Request:
    """Return a request with its method only: once the operation is known, replies depend on nothing else."""
    return Request(method, "", b"", {})


class Incoming:
    """The messages of one request. Call it as the app calls `receive`; `close` it at the end."""

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
        """Return the whole body, or None if it exceeds the limit in bytes. Raises `ClientGoneError`."""
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
        """Give a body that was read already once more, before the server's next message."""
        self._body = body

    async def pause(self, seconds: float) -> None:
        """Let time pass after the body was read. Raises `ClientGoneError` if the client goes meanwhile."""
        if self._begun is None:
            self._begun = asyncio.ensure_future(self._receive())
        done, _ = await asyncio.wait([self._begun], timeout=seconds)
        if not done:
            return
        message = await self()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        # No server sends another message here. If one does, the store must still not be asked without a pause.
        await asyncio.sleep(seconds)

    @property
    def is_listening(self) -> bool:
        """Whether a `receive` is under way that nobody awaits; only then is there something to close."""
        return self._begun is not None

    async def close(self) -> None:
        """Leave no task behind: on Lambda the loop is frozen after the call."""
        if self._begun is not None:
            self._begun.cancel()
            await asyncio.wait([self._begun], timeout=1)
