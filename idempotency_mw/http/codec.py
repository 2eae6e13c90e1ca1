"""A response as bytes, for a store that knows no HTTP.

    offset  width
         0      1  version, "1"
         1      3  status, decimal
         4      6  length of the header block, decimal
        10      …  header block: name ":" value LF, for each line, in its order
         …      …  body

A name has no colon, and neither a name nor a value has CR, LF or NUL (RFC 9110, section 5.5), so that nothing
needs escaping. What has them is refused on both ways, and so is a status that no final response has.
"""

import re
from typing import cast

from idempotency_mw.errors import IdempotencyRecordError
from idempotency_mw.http.message import Headers, Response

__all__ = ["decode", "encode"]

_PREFIX = re.compile(rb"1([2-5][0-9]{2})([0-9]{6})")
_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):([^\r\n\x00]*)\n")


def encode(response: Response) -> bytes | None:
    """Return the bytes; None for a response that no server could send as it is."""
    block = b"".join([b"%b:%b\n" % line for line in response.headers])
    is_plain = 200 <= response.status <= 599 and len(block) < 10**6
    if not is_plain or _lines(block) != response.headers:
        return None
    return b"1%d%06d%b%b" % (response.status, len(block), block, response.body)


def decode(data: bytes) -> Response:
    """Read a response; raises `IdempotencyRecordError` for anything that `encode` would not have written."""
    prefix = _PREFIX.match(data)
    if prefix is None:
        raise IdempotencyRecordError("the record holds no response of this version")
    start, end = prefix.end(), prefix.end() + int(prefix[2])
    block = data[start:end]
    headers = _lines(block)
    if len(block) != end - start or headers is None:
        raise IdempotencyRecordError("the record holds a response that is mangled")
    return Response(int(prefix[1]), headers, data[end:])


def _lines(block: bytes) -> Headers | None:
    """Return the lines of a block; None where anything in it is no line."""
    lines: list[tuple[bytes, bytes]] = []
    end = 0
    while end < len(block):
        line = _LINE.match(block, end)
        if line is None:
            return None
        lines.append(cast("tuple[bytes, bytes]", line.groups()))
        end = line.end()
    return tuple(lines)
