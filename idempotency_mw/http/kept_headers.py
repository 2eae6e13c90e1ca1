"""Which headers of an answer are stored with it."""

from collections.abc import Collection

from idempotency_mw.http.message import Headers, split_list, values

__all__ = ["KeptHeaders"]

# These belong to the connection, not to the answer: RFC 9110, section 7.6.1, and the fields of its predecessors.
_CONNECTION = frozenset((b"connection", b"keep-alive", b"te", b"trailer", b"transfer-encoding", b"upgrade"))
_CONNECTION_PREFIX = b"proxy-"


class KeptHeaders:
    """Selects the headers that are stored. A dropped name that ends in `*` drops every name with that prefix."""

    def __init__(self, dropped: Collection[str], replay_header: bytes) -> None:
        names = [name.encode("ascii") for name in dropped]
        self._names = _CONNECTION | {name for name in names if not name.endswith(b"*")} | {replay_header}
        self._names_and_length = self._names | {b"content-length"}
        self._prefixes = (_CONNECTION_PREFIX, *(name[:-1] for name in names if name.endswith(b"*")))

    def kept(self, headers: Headers, *, keeps_length: bool = False) -> Headers:
        """Return the lines to store, in their order. `Content-Length` is left out unless `keeps_length` is set."""
        dropped = self._names if keeps_length else self._names_and_length
        connection = values(headers, b"connection")
        if connection:
            dropped = dropped.union([name.lower() for name in split_list(connection)])
        return tuple(
            [
                line
                for line in headers
                if (lower := line[0].lower()) not in dropped and not lower.startswith(self._prefixes)
            ]
        )
