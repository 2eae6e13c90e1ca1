"""Requests as values, and helpers to ask an exchange about them."""

from typing import Any, assert_never

from idempotency_mw.core.config import IdempotencyConfig
from idempotency_mw.core.machine import Answered, Kept
from idempotency_mw.core.record import Operation, Record, Status
from idempotency_mw.http.config import HTTPConfig
from idempotency_mw.http.exchange import Exchange, Keyed, Pass, Refuse, Wanted
from idempotency_mw.http.message import Headers, Request, Response, grouped

JSON = (b"content-type", b"application/json")
KEY = (b"idempotency-key", b'"k"')
SECRETS = ("s3cr3t", "4111")


def exchange(http: HTTPConfig | None = None, **options: Any) -> Exchange:
    return Exchange(IdempotencyConfig(**options), http or HTTPConfig())


def request(
    *headers: tuple[bytes, bytes], method: str = "POST", path: str = "/orders", query: bytes = b""
) -> Request:
    return Request(method, path, query, grouped(headers, {name for name, _ in headers}))


def reached(ours: Exchange, asked: Request, body: bytes = b"", caller: object = None) -> Operation | str:
    """Return the operation. Without one: `pass`, `pass, body unread`, or the slug of the refusal."""
    wanted = ours.head(asked)
    match wanted:
        case Pass():
            return "pass, body unread"
        case Refuse(refusal):
            return refusal.problem.slug
        case Wanted():
            keyed = ours.keyed(wanted, body)
        case _:
            assert_never(wanted)
    match keyed:
        case Pass():
            return "pass"
        case Refuse(refusal):
            return refusal.problem.slug
        case Keyed():
            operation = ours.operation(asked, keyed, caller)
        case _:
            assert_never(keyed)
    return operation.refusal.problem.slug if isinstance(operation, Refuse) else operation


def operation(ours: Exchange, asked: Request, body: bytes = b"", caller: object = None) -> Operation:
    found = reached(ours, asked, body, caller)
    assert isinstance(found, Operation), found
    return found


def key_of(ours: Exchange, asked: Request, body: bytes = b"") -> str:
    """Return the key. Without one: `pass`, `pass, body unread`, or the slug of the refusal."""
    wanted = ours.head(asked)
    keyed = ours.keyed(wanted, body) if isinstance(wanted, Wanted) else wanted
    if isinstance(keyed, Keyed):
        return keyed.key
    found = reached(ours, asked, body)
    assert isinstance(found, str)
    return found


BASE = request(KEY, (b"content-type", b"text/plain"), (b"host", b"a.example"), query=b"a=1")


OURS = exchange()


FIRST = operation(OURS, BASE, b"body")


def answered(ours: Exchange, asked: Request, status: int, headers: Headers, *chunks: bytes) -> bytes:
    """Return the bytes that the store gets for a whole answer."""
    capture = ours.replies.capture(asked)
    capture.start(status, headers)
    for chunk in chunks:
        capture.add(chunk)
    capture.finish()
    assert isinstance(ours.replies.verdict(capture, discarded=False), Answered)
    result = ours.replies.encode(Kept.ANSWER, capture)
    assert result is not None
    return result


def replayed(ours: Exchange, asked: Request, result: bytes | None, waited: int | None = None) -> Response:
    record = Record(Status.COMPLETED, 1, FIRST.fingerprint, 1000, result)
    return ours.replies.replay(asked, FIRST, record, waited=waited)


def there_and_back(
    status: int, headers: Headers, *chunks: bytes, method: str = "POST", **options: Any
) -> Response:
    ours = exchange(HTTPConfig(methods=[method], **options))
    asked = BASE._replace(method=method)
    return replayed(ours, asked, answered(ours, asked, status, headers, *chunks))


MARKER = (b"idempotent-replayed", b"true")


def length(of: int) -> tuple[bytes, bytes]:
    return (b"content-length", b"%d" % of)


def lines(text: str) -> Headers:
    pairs = (line.strip().partition(":") for line in text.strip().splitlines())
    return tuple((name.encode(), value.strip().encode()) for name, _, value in pairs)
