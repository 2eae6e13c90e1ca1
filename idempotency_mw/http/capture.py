"""Collects an app's response while it passes through, and tells whether it is whole."""

from idempotency_mw.http.body import declared_length
from idempotency_mw.http.message import Headers, values

__all__ = ["Capture"]

BODILESS_STATUSES = (204, 205, 304)


class Capture:
    """One response: `start`, any number of `add`, and `finish` when the app says that it has ended.

    A response is whole if its `Content-Length` was reached exactly, or if it has none and the app finished it.
    A body over `max_body` bytes is counted, but no longer collected.
    """

    __slots__ = (
        "_chunks",
        "_declared",
        "_finished",
        "_is_head",
        "_max_body",
        "_received",
        "headers",
        "is_bodiless",
        "is_started",
        "status",
    )

    def __init__(self, max_body: int, *, is_head: bool) -> None:
        self._max_body = max_body
        self._is_head = is_head
        self.status = 0
        self.is_started = False
        self.is_bodiless = is_head
        """Whether the client gets no body, whatever the app sends (RFC 9110, sections 9.3.2 and 6.4.1)."""
        self.headers: Headers = ()
        self._declared: int | None = None
        self._chunks: list[bytes] = []
        self._received = 0
        self._finished = False

    def start(self, status: int, headers: Headers) -> None:
        """Take status and headers, names in lower case. A second call replaces the first."""
        self.status = status
        self.is_started = True
        self.is_bodiless = self._is_head or status in BODILESS_STATUSES
        self.headers = headers
        self._declared = declared_length(values(headers, b"content-length"))

    def add(self, chunk: bytes | bytearray | memoryview) -> None:
        """Take a chunk of the body. Raises `TypeError` for what is no bytes."""
        if not isinstance(chunk, bytes):
            # Copied, because the app may reuse the buffer. Not by bytes(), which also accepts a number or a list.
            chunk = memoryview(chunk).tobytes()
        if not chunk:
            return
        self._received += len(chunk)
        if self.is_bodiless or self.is_too_large:
            self._chunks.clear()
        else:
            self._chunks.append(chunk)

    def finish(self) -> None:
        """Note that the app says that the response has ended."""
        self._finished = True

    @property
    def has_length(self) -> bool:
        """Whether the end of the body is known from the headers."""
        return self._declared is not None or self.is_bodiless

    @property
    def is_empty(self) -> bool:
        """Whether no byte of a body has come."""
        return self._received == 0

    @property
    def is_whole(self) -> bool:
        """Whether the response is complete."""
        if not self.is_started:
            return False
        if self.is_bodiless or self._declared is None:
            return self._finished
        return self._received == self._declared

    @property
    def is_too_large(self) -> bool:
        """Whether the body exceeds what may be kept."""
        return self._received > self._max_body and not self.is_bodiless

    def body(self) -> bytes:
        """Return the collected body."""
        return b"" if self.is_bodiless else b"".join(self._chunks)
