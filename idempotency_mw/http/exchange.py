"""The HTTP side of one request, as decisions without I/O.

There are three steps, because only the surface can read the body and ask for the caller in between:

    head(request) ──> Pass | Refuse | Wanted
    (the surface reads the body)
    keyed(wanted, body) ──> Pass | Refuse | Keyed
    (the surface asks for the caller)
    operation(request, keyed, caller) ──> Refuse | Operation

The replies are made in `replies.py`.
"""

from dataclasses import dataclass
from typing import NamedTuple

from idempotency_mw.core.config import IdempotencyConfig
from idempotency_mw.core.digests import digest, joined, text
from idempotency_mw.core.members import DuplicateMemberError
from idempotency_mw.core.record import Operation
from idempotency_mw.core.selection import Selection
from idempotency_mw.errors import IdempotencyConfigurationError, IdempotencyKeyError
from idempotency_mw.http.body import Document, declared_length, document_in, is_json, media_type
from idempotency_mw.http.config import HTTPConfig
from idempotency_mw.http.fingerprint import fingerprint, payload_of
from idempotency_mw.http.key import body_key, header_key
from idempotency_mw.http.message import Request, meta_variable
from idempotency_mw.http.prefer import preferred_wait
from idempotency_mw.http.problem import Problem, Refusal
from idempotency_mw.http.replies import Replies
from idempotency_mw.http.sender import Sender

__all__ = ["Exchange", "Keyed", "Pass", "Refuse", "Wanted"]

_NO_LINES = [b""]
"""The lines of a header that is absent."""


@dataclass(frozen=True, slots=True)
class Pass:
    """Not protected: the app gets the request as if the middleware were absent."""


@dataclass(frozen=True, slots=True)
class Refuse:
    """Answered without the app."""

    refusal: Refusal


class Wanted(NamedTuple):
    """The body is needed: for the fingerprint, and for the key if the header has none."""

    header_key: str | None
    content_type: bytes
    content_length: int | None

    def __repr__(self) -> str:
        return "Wanted()"


class Keyed(NamedTuple):
    """The request has a key. Media type and payload must be equal in a retry."""

    key: str
    media: bytes
    payload: list[bytes]

    def __repr__(self) -> str:
        return "Keyed()"


class Exchange:
    """The decisions of one pair of configurations. Computes in advance what does not depend on a request."""

    def __init__(self, config: IdempotencyConfig, http: HTTPConfig) -> None:
        if http.header is None and config.event_key_jmespath is None:
            raise IdempotencyConfigurationError(
                "header is None: then event_key_jmespath must say where the key is"
            )
        self.config = config
        self.http = http
        self._methods = frozenset(http.methods)
        self._sender = Sender(http)
        self._header = (http.header or "").lower().encode("ascii")
        options = config.jmespath_options
        self._event_key = Selection.of_option(config.event_key_jmespath, options)
        self._validation = Selection.of_option(config.payload_validation_jmespath, options)
        self._looks_into_bodies = self._event_key is not None or self._validation is not None
        self._namespace = joined(map(text, self._shared_identity()))
        self.read_headers = self._read_headers()
        """The names, in lower case, of the request headers that decide anything. The others are not looked at."""
        self.read_variables = tuple([(name, meta_variable(name)) for name in sorted(self.read_headers)])
        """The same names, each with the meta-variable that holds its lines in CGI and WSGI."""
        self.replies = Replies(config, http)

    def protects(self, method: str) -> bool:
        """Tell whether requests of this method are protected."""
        return method.upper() in self._methods

    @property
    def sought_header(self) -> bytes | None:
        """The header, in lower case, without which a request passes; None if it may be protected even so."""
        is_sought = not self.http.required and self._event_key is None
        return self._header if is_sought else None

    def head(self, request: Request) -> Pass | Refuse | Wanted:
        """Decide from the request's head. Requests whose method is not protected never get here."""
        lines = request.lines
        key = header_key(lines[self._header], self.http) if self._header in lines else None
        if isinstance(key, Refusal):
            return Refuse(key)
        content_type = lines.get(b"content-type", _NO_LINES)[0]
        if key is None and not (self._event_key and is_json(media_type(content_type))):
            return self._unkeyed(body_is_fit=self._event_key is None)
        length = declared_length(lines.get(b"content-length", _NO_LINES))
        if length is not None and length > self.http.max_request_body:
            return self.body_too_large()
        return Wanted(key, content_type, length)

    def body_too_large(self) -> Refuse:
        """Refuse a body that exceeds the limit, by its declared length or while the surface reads it."""
        limit = self.http.max_request_body
        return Refuse(Refusal(Problem.BODY_TOO_LARGE, f"The body exceeds {limit} bytes."))

    def body_cut_short(self) -> Refuse:
        """Refuse a body that ended before its declared length."""
        return _invalid_body("It is shorter than its Content-Length.")

    def keyed(self, wanted: Wanted, body: bytes) -> Pass | Refuse | Keyed:
        """Decide once the body was read."""
        key = wanted.header_key
        media, document = media_type(wanted.content_type), None
        try:
            if self._looks_into_bodies and is_json(media):
                document = document_in(body)
                found = _one_of(wanted.header_key, self._key_in_body(document))
                if isinstance(found, Refusal):
                    return Refuse(found)
                key = found
            if key is None:
                return self._unkeyed(body_is_fit=document is not None)
            return Keyed(key, media, payload_of(body, wanted.content_type, media, document, self._validation))
        except DuplicateMemberError:
            return _invalid_body("It has a member twice in one object.")
        except IdempotencyKeyError:
            return _invalid_body("What identifies the request can't be selected from it.")

    def operation(self, request: Request, keyed: Keyed, caller: object = None) -> Operation | Refuse:
        """Return the operation that must run once, or a refusal. `caller` is what the configured hook returned.

        Raises `IdempotencyConfigurationError` if that is not a string.
        """
        identity = [text(request.method), text(request.path), text(keyed.key)]
        if self._sender.has_caller:
            known = self._sender.caller(caller)
            if isinstance(known, Refusal):
                return Refuse(known)
            identity.insert(0, text(known))
        return Operation(
            digest(identity, behind=self._namespace),
            fingerprint(request.query, keyed.media, keyed.payload, self._sender.parts(request.lines)),
        )

    def wait(self, request: Request) -> int | None:
        """Return the seconds that the client prefers to wait (RFC 7240), capped; None if none are honoured."""
        longest = self.http.max_wait_seconds
        if not longest:
            return None
        preferred = preferred_wait(request.lines.get(b"prefer", ()))
        return None if preferred is None else min(preferred, int(longest))

    def _shared_identity(self) -> tuple[str, ...]:
        """Return what all identities begin with. Those without a caller are in a space of their own."""
        space = ("caller",) if self._sender.has_caller else ("", "")
        return "http", self.config.key_prefix, *space

    def _read_headers(self) -> frozenset[bytes]:
        names = {b"content-type", b"content-length", *self._sender.bound}
        if self._header:
            names.add(self._header)
        if self.http.max_wait_seconds:
            names.add(b"prefer")
        return frozenset(names)

    def _unkeyed(self, *, body_is_fit: bool) -> Pass | Refuse:
        if not self.http.required:
            return Pass()
        if not body_is_fit:
            return _invalid_body("Its idempotency key is expected in a JSON document.")
        where = f"the header {self.http.header}" if self._header else "the body"
        return Refuse(Refusal(Problem.KEY_MISSING, f"Send an idempotency key in {where}."))

    def _key_in_body(self, document: Document | None) -> str | Refusal | None:
        if document is None or self._event_key is None:
            return None
        return body_key(self._event_key.select(document.data), self.http)


def _one_of(in_header: str | None, in_body: str | Refusal | None) -> str | Refusal | None:
    if isinstance(in_body, Refusal) or in_header is None:
        return in_body
    if in_body not in (None, in_header):
        return Refusal(Problem.KEY_CONFLICT, "The header and the body hold different keys.")
    return in_header


def _invalid_body(why: str) -> Refuse:
    return Refuse(Refusal(Problem.BODY_INVALID, f"The body can't be used. {why}"))
