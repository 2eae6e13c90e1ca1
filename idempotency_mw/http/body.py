"""Request bodies: their declared type and length, JSON that is read strictly, and parts of multipart forms."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from idempotency_mw.core.members import DuplicateMemberError, distinct

__all__ = [
    "Document",
    "NotJSONError",
    "declared_length",
    "document_in",
    "is_json",
    "is_multipart",
    "media_type",
    "parse_json",
    "segments",
]

# A boundary has at most 70 characters (RFC 2046, section 5.1.1). A longer one is invalid, and must not match by
# its first 70.
_BOUNDARY = re.compile(rb';[ \t]*boundary=(?:"([^"]{1,70})"|([^\s;",]{1,70})(?![^\s;]))', re.IGNORECASE)

MAX_SEGMENTS = 10_000
"""Ten times the parts that Starlette (max_files=1000, max_fields=1000) and Werkzeug (max_form_parts=1000)
accept. A body with more is an attempt to make splitting slow."""


class NotJSONError(ValueError):
    """The body does not parse."""


def media_type(content_type: bytes) -> bytes:
    """Return the media type in lower case, without parameters; empty where none is declared."""
    return content_type.partition(b";")[0].strip(b" \t").lower()


def is_json(media: bytes) -> bool:
    """Tell whether a media type, in lower case, is JSON (RFC 8259, or a suffix of RFC 6839)."""
    return media == b"application/json" or media.endswith(b"+json")


def is_multipart(media: bytes) -> bool:
    """Tell whether a media type, in lower case, is one of parts (RFC 2046, section 5.1)."""
    return media.startswith(b"multipart/")


def declared_length(lines: Sequence[bytes]) -> int | None:
    """Return the number in `Content-Length`, or None if it is absent, repeated, or no number below 10**18."""
    if len(lines) != 1 or not lines[0].isdigit() or len(lines[0]) > 18:
        return None
    return int(lines[0])


@dataclass(frozen=True, slots=True)
class Document:
    """The data of a JSON body. It wraps the data because null is data too."""

    data: Any = field(repr=False)


def document_in(body: bytes) -> Document | None:
    """Return the document, or None if the body is not JSON. Raises `DuplicateMemberError`."""
    try:
        return Document(parse_json(body))
    except NotJSONError:
        return None


def parse_json(body: bytes) -> Any:
    """Return the data. UTF-8 only, without NaN and infinities (RFC 8259, section 8.1 and 6).

    Raises `NotJSONError`, or `DuplicateMemberError`.
    """
    try:
        return json.loads(body.decode("utf-8"), object_pairs_hook=distinct, parse_constant=_refuse)
    except DuplicateMemberError:
        raise
    except (ValueError, RecursionError) as error:
        # The error's message quotes the body, so it is neither repeated nor chained.
        raise NotJSONError(type(error).__name__) from None


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)


def segments(body: bytes, content_type: bytes) -> list[bytes]:
    """Return the body, split at its declared multipart boundary, because a retry may use another boundary.

    Splitting is safer than replacing the boundary by a constant: a body can't imitate the split by containing that
    constant. Only a boundary at the start of a line counts; elsewhere it is content, and other content is another
    request. A body with more than `MAX_SEGMENTS` parts is left whole, so its retry needs the same boundary.
    """
    declared = _BOUNDARY.search(content_type) if is_multipart(media_type(content_type)) else None
    if declared is None:
        return [body]
    delimiter = b"\n--" + (declared[1] or declared[2])
    lines = b"\n" + body
    return [body] if lines.count(delimiter) > MAX_SEGMENTS else lines.split(delimiter)
