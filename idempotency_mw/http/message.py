"""Requests and responses as values. Headers keep their order and their repetitions: both mean something.

Those of a response, which is passed on, are pairs of bytes. Those of a request are only looked up, by their names.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

__all__ = ["Headers", "Lines", "Request", "Response", "grouped", "meta_variable", "split_list", "values"]

Headers = tuple[tuple[bytes, bytes], ...]
Lines = Mapping[bytes, list[bytes]]
"""The values of all lines of a header, in their order, by its name in lower case."""


class Request(NamedTuple):
    """A request without its body, and with those headers at least that the exchange reads."""

    method: str
    """In upper case."""
    path: str
    """Decoded, as the server gives it, with the prefix of a mount in front, once."""
    query: bytes
    lines: Lines

    def __repr__(self) -> str:
        return f"Request(method={self.method!r}, path={self.path!r})"


@dataclass(frozen=True, slots=True)
class Response:
    """A whole response. Hooks get it, and may have part of it replaced, as with any dataclass."""

    status: int
    headers: Headers = field(repr=False)
    body: bytes = field(repr=False)


def values(headers: Headers, name: bytes) -> list[bytes]:
    """Return the values of all lines of a header, in their order; the name is in lower case."""
    return [value for each, value in headers if each == name]


def grouped(headers: Iterable[tuple[bytes, bytes]], names: Collection[bytes]) -> Lines:
    """Return the lines of headers with these names, which are in lower case."""
    lines: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        if (known := name) in names or (known := name.lower()) in names:
            if known in lines:
                lines[known].append(value)
            else:
                lines[known] = [value]
    return lines


def meta_variable(name: bytes) -> str:
    """Return the name under which a gateway hands a header on (RFC 3875, sections 4.1.2, 4.1.3 and 4.1.18)."""
    variable = name.decode("ascii").upper().replace("-", "_")
    return variable if variable in ("CONTENT_TYPE", "CONTENT_LENGTH") else "HTTP_" + variable


def split_list(lines: list[bytes]) -> list[bytes]:
    """Return the members of a header that is a list (RFC 9110, section 5.6.1), trimmed, empty ones left out."""
    members = (member.strip(b" \t") for line in lines for member in line.split(b","))
    return [member for member in members if member]
