"""What of Redis's protocol (RESP) is written here: commands are packed, and plain replies are read.

Plain are integers from 0 on, strings, and arrays of those: whatever the scripts reply but an error. redis-py reads
them with several times the instructions; it gets what is not plain, not whole yet, or not expected.
"""

import re
from collections.abc import Sequence
from typing import Any

__all__ = ["packed", "plain", "template"]

_PLACE = b"$%d\r\n%b\r\n"
_HEAD = re.compile(rb"([:$*])([0-9]{1,18})\r\n")


def packed(args: Sequence[Any]) -> bytes:
    """Return the command as it goes over the wire; redis-py's own packing takes more than twice as long."""
    flat: list[Any] = []
    for each in args:
        raw = str(each).encode() if isinstance(each, str | int) else each
        flat += (len(raw), raw)
    return (b"*%d\r\n" % len(args)) + (_PLACE * len(args)) % tuple(flat)


def template(first: Sequence[Any], places: int) -> bytes:
    """Return a command that begins so, with places for the length of each further argument, and for itself."""
    _, _, begin = packed(first).partition(b"\r\n")
    return (b"*%d\r\n" % (len(first) + places)) + begin.replace(b"%", b"%%") + _PLACE * places


def plain(data: bytes | bytearray, start: int) -> tuple[Any, int] | None:
    """Return the plain reply that stands whole at the start, and where it ends; None for anything else."""
    head = _HEAD.match(data, start)
    if head is None or head[1] != b"*":
        return _single(data, head)
    items: list[Any] = []
    end = head.end()
    for _ in range(int(head[2])):
        item = _single(data, _HEAD.match(data, end))
        if item is None:
            return None
        items.append(item[0])
        end = item[1]
    return items, end


def _single(data: bytes | bytearray, head: re.Match[bytes] | None) -> tuple[Any, int] | None:
    if head is None or head[1] == b"*":
        return None
    begin, number = head.end(), int(head[2])
    if head[1] == b":":
        return number, begin
    end = begin + number
    return (bytes(data[begin:end]), end + 2) if data[end : end + 2] == b"\r\n" else None
