"""Requests and responses as values.

A response's headers are pairs of bytes that keep their order and repetitions, because both are passed on. A
request's headers are only looked up, by name.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

__all__ = ["Headers", "Lines", "Request", "Response", "grouped", "meta_variable", "split_list", "values"]

Headers = tuple[tuple[bytes, bytes], ...]
Lines = Mapping[bytes, list[bytes]]
"""The values of all lines of a header, in their order, by its name in lower case."""


class Request(NamedTuple):
    """A request without its body, and with at least the headers that the exchange reads."""

    method: str
    """In upper case."""
    path: str
    """Decoded, as the server gives it, including the prefix of a mount, once."""
    query: bytes
    lines: Lines

    def __repr__(self) -> str:
        return f"Request(method={self.method!r}, path={self.path!r})"


@dataclass(frozen=True, slots=True)
class Response:
    """A whole response. `response_hook` gets one, and may return a changed copy (`dataclasses.replace`)."""

    status: int
    headers: Headers = field(repr=False)
    body: bytes = field(repr=False)


def values(headers: Headers, name: bytes) -> list[bytes]:
    """Return the values of all lines of a header, in their order. The name is in lower case."""
    return [value for each, value in headers if each == name]


def grouped(headers: Iterable[tuple[bytes, bytes]], names: Collection[bytes]) -> Lines:
    """Return the lines of the headers with these names, which are in lower case."""
    lines: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        if (known := name) in names or (known := name.lower()) in names:
            if known in lines:
                lines[known].append(value)
            else:
                lines[known] = [value]
    return lines


def meta_variable(name: bytes) -> str:
    """Return the meta-variable of a header in CGI and WSGI (RFC 3875, sections 4.1.2, 4.1.3 and 4.1.18)."""
    variable = name.decode("ascii").upper().replace("-", "_")
    return variable if variable in ("CONTENT_TYPE", "CONTENT_LENGTH") else "HTTP_" + variable


def split_list(lines: list[bytes]) -> list[bytes]:
    """Return the members of a list header (RFC 9110, section 5.6.1), trimmed, without empty ones."""
    members = (member.strip(b" \t") for line in lines for member in line.split(b","))
    return [member for member in members if member]
