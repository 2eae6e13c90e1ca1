"""The values in a reply that are one line (numbers, booleans, null, a status), and the lengths of others."""

import re
from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

from redis.exceptions import InvalidResponse

__all__ = ["SIMPLE", "Simple", "size_of", "without_format"]

Simple: TypeAlias = int | float | bytes | None

_DIGITS: Final = re.compile(rb"[0-9]{1,18}")
_NUMBER: Final = re.compile(rb"[+-]?[0-9]{1,4000}")  # `int` refuses more than 4,300 digits
_FRACTION: Final = re.compile(rb"[+-]?([0-9]+(\.[0-9]*)?(e[+-]?[0-9]+)?|inf)|nan", re.IGNORECASE)


def size_of(text: bytes, most: int) -> int:
    """Return the length that a reply states. Raises `InvalidResponse` for none, and for more than is read."""
    if not _DIGITS.fullmatch(text) or int(text) > most:
        raise InvalidResponse("a length in a reply is not a number, or too large")
    return int(text)


def without_format(text: bytes) -> bytes:
    """Return a verbatim string without its format, three letters and a colon."""
    if text[3:4] != b":":
        raise InvalidResponse("a verbatim string has no format")
    return text[4:]


def _matching(pattern: re.Pattern[bytes], read: Callable[[bytes], Simple]) -> Callable[[bytes], Simple]:
    def simple(text: bytes) -> Simple:
        if not pattern.fullmatch(text):
            raise InvalidResponse("a value of a reply is not of its type")
        return read(text)

    return simple


SIMPLE: Final[Mapping[bytes, Callable[[bytes], Simple]]] = {
    b":": _matching(_NUMBER, int),
    b"(": _matching(_NUMBER, int),
    b",": _matching(_FRACTION, float),
    b"#": _matching(re.compile(rb"[tf]"), b"t".__eq__),
    b"_": _matching(re.compile(rb""), lambda _: None),
    b"+": bytes,
}
