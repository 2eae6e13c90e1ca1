"""Request bodies: what they are declared to be, JSON that is read strictly, and parts of multipart forms."""

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

# At most 70 characters (RFC 2046, section 5.1.1). A longer one is none, and not the first 70 of them.
_BOUNDARY = re.compile(rb';[ \t]*boundary=(?:"([^"]{1,70})"|([^\s;",]{1,70})(?![^\s;]))', re.IGNORECASE)

MAX_SEGMENTS = 10_000
"""Ten times what frameworks accept of parts. A body of more is meant to be slow to take apart."""


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
    """Return the number in the lines of `Content-Length`; None where there is none that can be trusted."""
    if len(lines) != 1 or not lines[0].isdigit() or len(lines[0]) > 18:
        return None
    return int(lines[0])


@dataclass(frozen=True, slots=True)
class Document:
    """The data of a JSON body; null is data too."""

    data: Any = field(repr=False)


def document_in(body: bytes) -> Document | None:
    """Return what `parse_json` reads; None where the body does not parse. Raises `DuplicateMemberError`."""
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
        # Its message would quote the body; so would a chain to it.
        raise NotJSONError(type(error).__name__) from None


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)


def segments(body: bytes, content_type: bytes) -> list[bytes]:
    """Return the body, split at the declared multipart boundary, which a retry may choose anew.

    In place of a boundary that is replaced by a constant: parts that are told apart by their lengths can't be
    confused with a body that happens to hold the constant. A boundary is one at the start of a line only: what
    stands in a line is content, and content that differs is another request. A body with more than
    `MAX_SEGMENTS` is left whole, and its retry has to have the same boundary.
    """
    declared = _BOUNDARY.search(content_type) if is_multipart(media_type(content_type)) else None
    if declared is None:
        return [body]
    delimiter = b"\n--" + (declared[1] or declared[2])
    lines = b"\n" + body
    return [body] if lines.count(delimiter) > MAX_SEGMENTS else lines.split(delimiter)
