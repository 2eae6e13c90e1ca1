"""Calls the functions that read bytes from outside: from a client, or from anyone who can write into the store.

Each reader accepts any bytes. A failed assertion or an undeclared exception is a violation.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from idempotency_mw.core.config import IdempotencyConfig
from idempotency_mw.core.record import Operation
from idempotency_mw.errors import IdempotencyRecordError
from idempotency_mw.functions.serializers import DataclassSerializer, StoredValue, decode, encode_value
from idempotency_mw.http import codec
from idempotency_mw.http.config import HTTPConfig
from idempotency_mw.http.exchange import Exchange, Keyed, Pass, Refuse, Wanted
from idempotency_mw.http.key import header_key
from idempotency_mw.http.message import Request
from idempotency_mw.http.problem import Problem, Refusal, problem_response
from idempotency_mw.persistence.frame import Frame

__all__ = ["READERS"]

SYNTAXES = (HTTPConfig(), HTTPConfig(key_syntax="strict"), HTTPConfig(key_syntax="opaque"))
JSON_HEAD = Request("POST", "/orders", b"", {b"content-type": [b"application/json"]})
REFUSED_BODIES = {Problem.BODY_INVALID, Problem.KEY_INVALID}


def header(line: bytes) -> None:
    """A header is a key, or a refusal that does not repeat the header."""
    for http in SYNTAXES:
        key = header_key([line], http)
        if isinstance(key, Refusal):
            assert key.problem is Problem.KEY_INVALID
            assert len(key.detail) < 200
        else:
            assert 1 <= len(key) <= 255
            assert key.isascii()
            assert key.isprintable()
            assert header_key([_quoted(key)], SYNTAXES[1]) == key


def _quoted(key: str) -> bytes:
    return b'"' + key.encode("ascii").replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'


def record(data: bytes) -> None:
    """A record is exactly what `encode` writes, or it is unreadable; so is the response in it."""
    try:
        frame = Frame.decode(data)
        assert frame.encode() == data
        assert frame.record(0).attempt >= 1
        read = codec.decode(frame.result)
    except IdempotencyRecordError as error:
        _check_short(error)
        return
    assert codec.encode(*read) == frame.result


def _check_short(error: Exception) -> None:
    """The message of an error must not repeat the data."""
    assert len(str(error)) < 300


def response(data: bytes) -> None:
    """A stored response is exactly what `encode` writes, or it is unreadable."""
    try:
        read = codec.decode(data)
    except IdempotencyRecordError:
        return
    assert 200 <= read[0] <= 599
    assert codec.encode(*read) == data


@dataclass
class _Line:
    sku: str
    count: int


@dataclass
class _Order:
    id: int
    paid: float
    at: datetime
    lines: list[_Line]
    note: str | None


SERIALIZERS: tuple[Any, ...] = (None, DataclassSerializer(_Order))


def result(data: bytes) -> None:
    """A stored result is a value, a failure, or unreadable."""
    for serializer in SERIALIZERS:
        try:
            stored = decode(data, serializer)
        except IdempotencyRecordError as error:
            _check_short(error)
            continue
        if isinstance(stored, StoredValue):
            encoded = encode_value(stored.value, None)
            assert serializer is not None or encoded is not None


EXPRESSIONS = (
    ("[tenant, order.id]", "{a: abs(amount), i: items[].id}"),
    ("order.id || tenant", "items[?id > `0`] | [0]"),
    ("powertools_json(body).tenant", "powertools_base64(data)"),
    ("join('-', items[*].id)", "to_string(@)"),
    ("tenant", "sort_by(items, &id)"),
)
EXCHANGES = tuple(
    Exchange(IdempotencyConfig(event_key_jmespath=key, payload_validation_jmespath=validated), HTTPConfig())
    for key, validated in EXPRESSIONS
)


def body(data: bytes) -> None:
    """A body gives an operation, a refusal, or passes; the same one each time."""
    exchange = EXCHANGES[len(data) % len(EXCHANGES)]
    found = _operation(exchange, JSON_HEAD, data)
    if isinstance(found, Refusal):
        assert found.problem in REFUSED_BODIES
        assert len(problem_response(found).body) < 600
    elif found is not None:
        assert len(found.storage_key) == 64
        assert found == _operation(exchange, JSON_HEAD, data)


def _operation(exchange: Exchange, head: Request, data: bytes) -> Operation | Refusal | None:
    wanted = exchange.head(head)
    if isinstance(wanted, Refuse):
        return wanted.refusal
    assert isinstance(wanted, Wanted)
    found = exchange.keyed(wanted, data)
    if isinstance(found, Refuse):
        return found.refusal
    if isinstance(found, Pass):
        return None
    assert isinstance(found, Keyed)
    operation = exchange.operation(head, found)
    assert isinstance(operation, Operation)
    return operation


PLAIN = Exchange(IdempotencyConfig(), HTTPConfig(max_wait_seconds=30))


def request(data: bytes) -> None:
    """A request with a key gives an operation, whatever its query, preference, media type and body are."""
    query, prefer, media, content = [*data.split(b"\n", 3), b"", b"", b""][:4]
    lines = {b"idempotency-key": [b"k"], b"prefer": [prefer], b"content-type": [media], b"cookie": [prefer]}
    head = Request("POST", query.decode("utf-8", "replace"), query, lines)
    waited = PLAIN.wait(head)
    assert waited is None or 0 <= waited <= 30
    assert isinstance(_operation(PLAIN, head, content), Operation)


READERS: dict[str, Callable[[bytes], None]] = {
    "header": header,
    "record": record,
    "body": body,
    "response": response,
    "result": result,
    "request": request,
}
