"""What must be equal for a retry to be the same request: query, media type and payload, and the sender's part."""

from urllib.parse import parse_qsl

from idempotency_mw.core.digests import canonical, digest, joined, text
from idempotency_mw.core.selection import Selection
from idempotency_mw.http.body import Document, is_multipart, segments

__all__ = ["canonical_query", "fingerprint", "payload_of"]


def fingerprint(query: bytes, media: bytes, payload: list[bytes], sender: list[bytes]) -> str:
    """Return the digest that a retry must have too."""
    return digest([canonical_query(query) if query else b"", media, *sender, *payload])


def payload_of(
    body: bytes, content_type: bytes, media: bytes, document: Document | None, validation: Selection | None
) -> list[bytes]:
    """Return what must be equal of the body: what `validation` selects from its document, its parts, or all of it.

    Raises `IdempotencyKeyError` if the selection fails, or has no canonical form.
    """
    if document is not None and validation is not None:
        return [b"selected", canonical(validation.select(document.data))]
    if is_multipart(media):
        return [b"body", *segments(body, content_type)]
    return [b"body", body]


def canonical_query(query: bytes) -> bytes:
    """Return the same bytes for queries with the same members: decoded, sorted by name, values in their order."""
    pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True, encoding="latin-1")
    pairs.sort(key=lambda pair: pair[0])
    return joined([text(each) for pair in pairs for each in pair])
