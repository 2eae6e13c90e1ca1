"""A response as bytes, for stores, which know no HTTP.

    offset  width
         0      1  version, "1"
         1      3  status, decimal
         4      6  length of the header block, decimal
        10      …  header block: name ":" value LF, for each line, in its order
         …      …  body

Nothing needs escaping: a name has no colon, and neither a name nor a value has CR, LF or NUL (RFC 9110, section
5.5). Both `encode` and `decode` refuse what breaks this, and a status that is not final (200 to 599).
"""

import re

from idempotency_mw.errors import IdempotencyRecordError
from idempotency_mw.http.message import Headers

__all__ = ["Parts", "decode", "encode"]

Parts = tuple[int, Headers, bytes]
"""Status, headers and body, in the order in which a `Response` takes them."""

_PREFIX_LENGTH = 10
# Anything that is not a line matches as a whole, without a name: searching for the next line could take very long.
_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]++):([^\r\n\x00]*+)\n|[\s\S]+")


def encode(status: int, headers: Headers, body: bytes) -> bytes | None:
    """Return the bytes, or None for a response that no server could send as it is."""
    block = b"".join([b"%b:%b\n" % line for line in headers])
    is_plain = 200 <= status <= 599 and len(block) < 10**6
    if not is_plain or _lines(block, 0, len(block)) != headers:
        return None
    return b"1%d%06d%b%b" % (status, len(block), block, body)


def decode(data: bytes) -> Parts:
    """Read a response. Raises `IdempotencyRecordError` for bytes that `encode` would not have written."""
    prefix = data[:_PREFIX_LENGTH]
    if not prefix.isdigit() or not b"1200" <= prefix < b"1600":
        raise IdempotencyRecordError("the record holds no response of this version")
    status, length = divmod(int(prefix[1:]), 10**6)
    end = _PREFIX_LENGTH + length
    headers = _lines(data, _PREFIX_LENGTH, end)
    if headers is None or end > len(data):
        raise IdempotencyRecordError("the record holds a response that is mangled")
    return status, headers, data[end:]


def _lines(data: bytes, start: int, end: int) -> Headers | None:
    """Return the lines of a block, or None if something in it is not a line."""
    lines = tuple(_LINE.findall(data, start, end))
    return None if lines and not lines[-1][0] else lines
