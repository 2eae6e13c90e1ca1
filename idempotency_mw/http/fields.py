"""Which header fields of an answer are kept, and what makes two queries equal."""

from collections.abc import Collection
from urllib.parse import parse_qsl

from idempotency_mw.core.identity import joined, text
from idempotency_mw.http.message import Headers, split_list, values

__all__ = ["KeptHeaders", "canonical_query"]

# Of the connection, not of the answer: RFC 9110, section 7.6.1, and the fields of its predecessors.
_CONNECTION = frozenset((b"connection", b"keep-alive", b"te", b"trailer", b"transfer-encoding", b"upgrade"))
_CONNECTION_PREFIX = b"proxy-"


class KeptHeaders:
    """What is stored of an answer's headers. A name that ends in `*` drops all names that begin so."""

    def __init__(self, dropped: Collection[str], replay_header: bytes) -> None:
        names = [name.encode("ascii") for name in dropped]
        self._names = _CONNECTION | {name for name in names if not name.endswith(b"*")} | {replay_header}
        self._names_and_length = self._names | {b"content-length"}
        self._prefixes = (_CONNECTION_PREFIX, *(name[:-1] for name in names if name.endswith(b"*")))

    def of(self, headers: Headers, *, keeps_length: bool = False) -> Headers:
        """Return the kept lines in their order. A replay counts the length anew, unless `keeps_length`."""
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


def canonical_query(query: bytes) -> bytes:
    """Return the same bytes for queries with the same members: decoded, sorted by name, in order of values."""
    if not query:
        return b""
    pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True, encoding="latin-1")
    pairs.sort(key=lambda pair: pair[0])
    return joined([text(each) for pair in pairs for each in pair])
