"""What of Redis's protocol (RESP) is written here: commands are packed, and plain replies are read.

Plain are integers, strings, and a record as the scripts reply it: a 0, an integer and a string. redis-py reads
them with several times the instructions. What is not plain, or not whole yet, is left to who asked.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

__all__ = ["Argument", "bulk", "packed", "pieces", "plain"]

Argument: TypeAlias = str | bytes | int | tuple[bytes, ...]
"""One argument of a command. It may be in parts, so that a large one is not copied to stand behind another."""

_LARGE = 64 << 10
"""From so many bytes on, to send a part by itself costs less, here and on the server, than to copy it."""

_PLACE = b"$%d\r\n%b\r\n"
_NUMBER = rb":(-?[0-9]{1,18})\r\n"
_SIZE = rb"\$([0-9]{1,18})\r\n"
_PLAIN = re.compile(rb"\*3\r\n:0\r\n%b%b|%b|%b" % (_NUMBER, _SIZE, _NUMBER, _SIZE))


def packed(args: Sequence[Any]) -> bytes:
    """Return the command as it goes over the wire; redis-py's own packing takes more than twice as long."""
    flat: list[Any] = []
    for each in args:
        raw = _raw(each)
        flat += (len(raw), raw)
    return (b"*%d\r\n" % len(args)) + (_PLACE * len(args)) % tuple(flat)


def _raw(arg: Any) -> bytes:
    return str(arg).encode() if isinstance(arg, str | int) else arg


def pieces(commands: Iterable[Sequence[Argument]]) -> list[bytes]:
    """Return commands as they go over the wire one after the other, in pieces: what is large is not copied."""
    made: list[bytes] = []
    small: list[bytes] = []
    for command in commands:
        small.append(b"*%d\r\n" % len(command))
        for arg in command:
            parts = arg if isinstance(arg, tuple) else (_raw(arg),)
            small.append(b"$%d\r\n" % sum(map(len, parts)))
            for part in parts:
                if len(part) < _LARGE:
                    small.append(part)
                else:
                    made += b"".join(small), part
                    small.clear()
            small.append(b"\r\n")
    return [*made, b"".join(small)]


def bulk(text: str) -> str:
    """Return ASCII text as it stands in a command; other text is longer in bytes."""
    return f"${len(text)}\r\n{text}\r\n"


def plain(data: bytes | bytearray, start: int) -> tuple[Any, int] | None:
    """Return the plain reply that stands whole at the start, and where it ends; None for anything else."""
    head = _PLAIN.match(data, start)
    if head is None:
        return None
    remaining, length, number, size = head.groups()
    begin = head.end()
    if number is not None:
        return int(number), begin
    end = begin + int(length or size)
    if data[end : end + 2] != b"\r\n":
        return None
    text = data[begin:end] if isinstance(data, bytes) else bytes(data[begin:end])
    return (text if remaining is None else [0, int(remaining), text]), end + 2
