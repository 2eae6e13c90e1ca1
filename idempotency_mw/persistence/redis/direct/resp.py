"""Redis's protocol (RESP 2 and 3) without I/O: commands are packed to bytes, and bytes are read as replies.

The specification: https://redis.io/docs/latest/develop/reference/protocol-spec/.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, Literal, TypeAlias

from redis.exceptions import InvalidResponse

from idempotency_mw.persistence.redis.direct.simple_values import SIMPLE, size_of, without_format

__all__ = ["Argument", "Push", "Reader", "Reply", "bulk", "packed", "pieces", "plain"]

Argument: TypeAlias = str | bytes | int | tuple[bytes, ...]
"""One argument of a command. It may come in parts, so that a large part is not copied behind a small one."""

Reply: TypeAlias = int | float | bytes | Exception | Sequence["Reply"] | Mapping["Reply", "Reply"] | None
"""What a server replies. Text is bytes, an error is an exception as a value, a set is a list."""

_LARGE: Final = 64 << 10
"""A part of at least 64 KiB is sent by itself. Copying it costs more than another `send`, here and on the server:
measured with `benchmarks/redis_cpu.py`."""

_MOST_BYTES: Final = 512 << 20
"""The longest string: the default of the server's `proto-max-bulk-len`."""

_MOST_ITEMS: Final = 1 << 20
"""The most elements of one array, set or map: what servers before Redis 7.0 took in one command."""

_LONGEST_LINE: Final = 64 << 10
"""The longest line: the server's own limit for one (`PROTO_INLINE_MAX_SIZE`)."""

_DEEPEST: Final = 16
"""How deep arrays may lie in each other. Replies of our scripts are one array deep."""


# Commands.


def packed(args: Sequence[Argument]) -> bytes:
    """Return one command as it goes over the wire."""
    return b"".join(pieces((args,)))


def pieces(commands: Iterable[Sequence[Argument]]) -> list[bytes]:
    """Return commands as they go over the wire one after the other, in pieces: a large part is not copied."""
    made: list[bytes] = []
    small: list[bytes] = []
    for command in commands:
        small.append(b"*%d\r\n" % len(command))
        for arg in command:
            if not isinstance(arg, tuple):
                raw = str(arg).encode() if isinstance(arg, str | int) else arg
                if len(raw) < _LARGE:
                    small.append(b"$%d\r\n%b\r\n" % (len(raw), raw))
                    continue
                arg = (raw,)  # noqa: PLW2901 - one part
            small.append(b"$%d\r\n" % sum(map(len, arg)))
            for part in arg:
                if len(part) < _LARGE:
                    small.append(part)
                else:
                    made += b"".join(small), part
                    small.clear()
            small.append(b"\r\n")
    return [*made, b"".join(small)]


def bulk(text: str) -> str:
    """Return ASCII text as it stands in a command. Other text is longer in bytes than `len` says."""
    return f"${len(text)}\r\n{text}\r\n"


# Replies.


@dataclass(frozen=True, slots=True)
class Push:
    """A message that is the reply to no command (RESP 3)."""

    items: Sequence[Reply] = field(repr=False)


class _Nothing(Enum):
    """The type of `_MISSING`: one of its own, which no reply has."""

    MISSING = "MISSING"


_Missing: TypeAlias = Literal[_Nothing.MISSING]
_MISSING: Final = _Nothing.MISSING
"""What takes the place of a reply, or of an element of one, that is not whole yet."""

_INTEGER: Final = rb":(-?[0-9]{1,18})\r\n"
_STRING: Final = rb"\$([0-9]{1,18})\r\n"
_PLAIN: Final = re.compile(rb"\*3\r\n:0\r\n%b%b|%b|%b" % (_INTEGER, _STRING, _INTEGER, _STRING))


def plain(data: bytes | bytearray, start: int) -> tuple[Reply, int] | None:
    """Return the plain reply that stands whole at the start, and where it ends; `None` for anything else.

    An integer, a string, and a record as our scripts reply it (a 0, an integer, a string) are plain: the replies
    of a good day. This reads them with a fraction of the instructions that an element at a time takes.
    """
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
    text = data[begin:end] if type(data) is bytes else bytes(data[begin:end])
    return (text if remaining is None else [0, int(remaining), text]), end + 2


class Reader:
    """Reads the replies on one connection, however their bytes are cut.

    `make_error` makes the text of an error reply an exception, or raises `InvalidResponse`.
    """

    __slots__ = ("_at", "_data", "_make_error", "_open")

    def __init__(self, make_error: Callable[[str], Exception]) -> None:
        self._make_error = make_error
        self._data: bytes | bytearray = b""
        self._at = 0  # everything before it has been read
        self._open: list[_Aggregate] = []  # those that have begun; each is an element of the one before

    def read(self, data: bytes) -> list[Reply | Push]:
        """Take bytes that came on the connection, and return the replies and pushes that are whole by them.

        If something can't be read, the last of these is redis-py's `InvalidResponse`, and nothing after it can
        be read, because the start of the next reply is unknown. Its text never quotes what came: that may be a
        stored response.
        """
        if self._data or self._open:
            return self._read_on(data)
        found = plain(data, 0)
        if found is not None and found[1] == len(data):  # most of the time
            return [found[0]]
        return self._read_on(data)

    @property
    def is_between_replies(self) -> bool:
        """Tell whether everything that came has been read, and no reply has begun."""
        return not self._data and not self._open

    def _read_on(self, data: bytes) -> list[Reply | Push]:
        if self._data:
            self._data += data
        else:
            self._data = data
        events: list[Reply | Push] = []
        try:
            while self._read_plain(events) and (event := self._next()) is not _MISSING:
                events.append(event)
        except InvalidResponse as error:
            events.append(error)
        if self._at == len(self._data):
            self._data = b""
        else:
            self._data = bytearray(self._data) if isinstance(self._data, bytes) else self._data
            del self._data[: self._at]
        self._at = 0
        return events

    def _read_plain(self, events: list[Reply | Push]) -> bool:
        """Add plain replies for as long as there are any. Return whether there is more to read."""
        while not self._open and (found := plain(self._data, self._at)) is not None:
            reply, self._at = found
            events.append(reply)
        return self._at < len(self._data)

    def _next(self) -> Reply | Push | _Missing:
        """Return the next reply that is whole. `_open` keeps the elements of one that has begun."""
        while (element := self._element()) is not _MISSING:
            if (event := self._placed(element)) is not _MISSING:
                return event
        return _MISSING

    def _element(self) -> "Reply | _Aggregate | _Missing":
        """Read a simple value, or the head of an aggregate."""
        at = self._at
        if at == len(self._data):
            return _MISSING
        kind = bytes(self._data[at : at + 1])
        if kind not in _KINDS:
            raise InvalidResponse("a reply begins with what no type has")
        end = self._data.find(b"\r\n", at, at + _LONGEST_LINE)
        if end < 0:
            if len(self._data) - at >= _LONGEST_LINE:
                raise InvalidResponse("a line of a reply is too long")
            return _MISSING
        text = bytes(self._data[at + 1 : end])
        if kind in _STRINGS:
            return self._string(kind, text, end + 2)
        self._at = end + 2
        if kind in _AGGREGATES:
            return self._aggregate(kind, text)
        return self._error(text) if kind == b"-" else SIMPLE[kind](text)

    def _string(self, kind: bytes, length: bytes, begin: int) -> Reply | _Missing:
        if length == b"-1" and kind == b"$":  # null, in RESP 2
            self._at = begin
            return None
        end = begin + size_of(length, _MOST_BYTES)
        if self._data[end : end + 2] != b"\r\n":
            if not b"\r\n".startswith(self._data[end : end + 2]):
                raise InvalidResponse("a string of a reply is longer than it says")
            return _MISSING
        self._at = end + 2
        text = bytes(self._data[begin:end])
        if kind == b"!":
            return self._error(text)
        return without_format(text) if kind == b"=" else text

    def _error(self, text: bytes) -> Exception:
        return self._make_error(text.decode(errors="replace"))

    def _aggregate(self, kind: bytes, length: bytes) -> "_Aggregate | None":
        if length == b"-1" and kind == b"*":  # null, in RESP 2
            return None
        if len(self._open) == _DEEPEST or (kind == b">" and self._open):
            raise InvalidResponse("a reply nests what can't be nested, or too deep")
        return _Aggregate(kind, size_of(length, _MOST_ITEMS) * (2 if kind in b"%|" else 1))

    def _placed(self, element: "Reply | _Aggregate") -> Reply | Push | _Missing:
        """Put an element where it belongs. Return the reply that becomes whole by it, or `_MISSING`."""
        if isinstance(element, _Aggregate):
            self._open.append(element)
        elif self._open:
            self._open[-1].items.append(element)
        else:
            return element
        while len((last := self._open[-1]).items) == last.wants:
            self._open.pop()
            if last.kind == b"|":  # attributes, which are dropped: the element that they are about follows
                self._open.append(_Aggregate(_ATTRIBUTED, 1))
                return _MISSING
            value = last.value()
            if not self._open or isinstance(value, Push):
                return value
            self._open[-1].items.append(value)
        return _MISSING


@dataclass(slots=True)
class _Aggregate:
    """An array, a set, a map, a push, or attributes, of which elements may be missing yet."""

    kind: bytes
    wants: int
    """How many elements it has; a pair of a map is two."""
    items: list[Reply] = field(default_factory=list[Reply])

    def value(self) -> Reply | Push:
        """Return it, with all its elements."""
        if self.kind == _ATTRIBUTED:
            return self.items[0]
        if self.kind == b">":
            return Push(self.items)
        if self.kind != b"%":
            return self.items
        try:
            return dict(zip(self.items[::2], self.items[1::2], strict=True))
        except TypeError:  # unhashable; the error would quote it
            raise InvalidResponse("a map of a reply has a key that can't be one") from None


_ATTRIBUTED: Final = b""
"""The kind of what has attributes: it wants one element, and is that element."""

_STRINGS: Final = frozenset((b"$", b"=", b"!"))
_AGGREGATES: Final = frozenset((b"*", b"~", b"%", b">", b"|"))
_KINDS: Final = frozenset((b"-", *_STRINGS, *_AGGREGATES, *SIMPLE))
