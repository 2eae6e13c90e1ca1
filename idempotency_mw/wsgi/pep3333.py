"""The environ, the headers and the types of PEP 3333, and our values for them.

PEP 3333 passes bytes as text in Latin-1; our values are bytes.
"""

import io
from collections.abc import Callable, Iterable
from http.client import responses
from types import TracebackType
from typing import Any

from idempotency_mw.http.message import Headers, Request, Response

__all__ = [
    "Environ",
    "ExcInfo",
    "HeaderList",
    "StartResponse",
    "WSGIApp",
    "Write",
    "head_of",
    "lines_of",
    "request_of",
    "respond",
    "with_body",
]

Environ = dict[str, Any]
Write = Callable[[bytes], object]
StartResponse = Callable[..., Write]
WSGIApp = Callable[[Environ, StartResponse], Iterable[bytes]]
HeaderList = list[tuple[str, str]]
ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]

_STATUS_LINES = {int(status): f"{status:d} {phrase}" for status, phrase in responses.items()}


def request_of(environ: Environ, variables: Iterable[tuple[bytes, str]]) -> Request:
    """Return the request with the headers that stand in these variables."""
    path: str = environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")
    query: str = environ.get("QUERY_STRING", "")
    lines = {
        name: [environ[variable].encode("latin-1")]
        for name, variable in variables
        # For CONTENT_TYPE and CONTENT_LENGTH, PEP 3333 lets an empty text mean "absent". A variable in HTTP_
        # that is empty is a header that was sent empty.
        if variable in environ and (environ[variable] or variable.startswith("HTTP_"))
    }
    # PEP 3333 passes the path's bytes as Latin-1; ASGI servers decode the same bytes as UTF-8.
    decoded = path if path.isascii() else path.encode("latin-1").decode("utf-8", "replace")
    return Request(environ["REQUEST_METHOD"].upper(), decoded, query.encode("latin-1"), lines)


def with_body(environ: Environ, body: bytes) -> Environ:
    """Return a copy of the environ for the app, with a body that was already read."""
    return environ | {
        "wsgi.input": io.BytesIO(body),
        "wsgi.input_terminated": True,
        "CONTENT_LENGTH": str(len(body)),
    }


def respond(response: Response, start_response: StartResponse) -> list[bytes]:
    """Start a whole response, and return its body as the iterable for the server."""
    start_response(*head_of(response))
    return [response.body]


def lines_of(headers: HeaderList) -> Headers:
    """Return an app's headers as bytes, names in lower case. Raises `TypeError` if one is not text."""
    try:
        return tuple([(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers])
    except AttributeError:
        raise TypeError("names and values of headers must be str") from None


def head_of(response: Response) -> tuple[str, HeaderList]:
    """Return the status line and the headers of a response."""
    headers = [(name.decode("latin-1").title(), value.decode("latin-1")) for name, value in response.headers]
    return _STATUS_LINES.get(response.status) or f"{response.status} Unknown", headers
