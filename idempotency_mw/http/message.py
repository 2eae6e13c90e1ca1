"""Requests and responses as values. Headers are ordered pairs of bytes: order and repetition mean something."""

from typing import NamedTuple

__all__ = ["Headers", "Request", "Response", "grouped", "split_list", "values"]

Headers = tuple[tuple[bytes, bytes], ...]


class Request(NamedTuple):
    """A request without its body, and with those headers at least that the exchange reads."""

    method: str
    """In upper case."""
    path: str
    """Decoded, as the server gives it, with the prefix of a mount in front, once."""
    query: bytes
    headers: Headers
    """Names in lower case."""

    def __repr__(self) -> str:
        return f"Request(method={self.method!r}, path={self.path!r})"


class Response(NamedTuple):
    """A whole response."""

    status: int
    headers: Headers
    body: bytes

    def __repr__(self) -> str:
        return f"Response(status={self.status})"


def values(headers: Headers, name: bytes) -> list[bytes]:
    """Return the values of all lines of a header, in their order; the name is in lower case."""
    return [value for each, value in headers if each == name]


def grouped(headers: Headers) -> dict[bytes, list[bytes]]:
    """Return the values of all lines by name, in their order."""
    lines: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        if name in lines:
            lines[name].append(value)
        else:
            lines[name] = [value]
    return lines


def split_list(lines: list[bytes]) -> list[bytes]:
    """Return the members of a header that is a list (RFC 9110, section 5.6.1), trimmed, empty ones left out."""
    members = (member.strip(b" \t") for line in lines for member in line.split(b","))
    return [member for member in members if member]
