"""A hundred thousand inputs each for the header, the record and the JSON of a body: no surprise, and none is slow.

What is tried is made from good input by random changes, from a fixed seed: a failure is found again.
"""

import random
import time
from collections.abc import Callable, Iterator

import pytest

from idempotency_mw.core.config import IdempotencyConfig
from idempotency_mw.core.record import Operation
from idempotency_mw.errors import IdempotencyRecordError
from idempotency_mw.http import codec
from idempotency_mw.http.config import HTTPConfig
from idempotency_mw.http.exchange import Exchange, Keyed, Pass, Refuse, Wanted
from idempotency_mw.http.key import header_key
from idempotency_mw.http.message import Request
from idempotency_mw.http.problem import Problem, Refusal
from idempotency_mw.persistence.frame import Frame

TIMES = 100_000
SLOWEST_SECONDS = 0.05

HEADERS = [
    b'"8e03978e-40d5-43dd-bc93-6894a57f9324"',
    b"8e03978e-40d5-43dd-bc93-6894a57f9324",
    rb'"a\"b\\c";p=1;q="x;y\"";r=?0;s=:YWJj:;t=%"f%c3%bc";u=@1659578233;v=a/b:*;w=-1.5',
    b'"' + b"a" * 255 + b'"',
    b'"a", "b"',
]

RESULT = b"1201000045location:../orders/7\nX-A:1\nx-a:\nx-b: \xe9:;=\t\xff \nbody\r\n\x00\xff:\n"
RECORDS = [
    b"1C" + b"0" * 32 + b"000001" + b"0" * 15 + b"f" * 64 + RESULT,
    b"1P" + b"0" * 32 + b"000002" + b"9" * 15 + b"e" * 64,
    b"1N" + b"a" * 32 + b"999999" + b"0" * 15 + b"d" * 64,
]

BODIES = [
    b'{"tenant": "t", "order": {"id": 7}, "amount": 12.5, "items": [{"id": 1}, {"id": "b"}]}',
    b'{"tenant": "\\u00fc\\ud83d\\ude00", "order": {"id": "7"}, "amount": -1e300, "items": []}',
    b'{"tenant": null, "order": {"id": true}, "amount": NaN, "items": [[[[{"id": {}}]]]]}',
    b'{"tenant": "t", "order": {"id": 1, "id": 2}, "a": ' + b"[" * 40 + b"]" * 40 + b"}",
]
INTERESTING = [
    *(bytes([byte]) for byte in b'"\\;,:=%@?*-.{}[]0e\n\r\t\x00\x7f\xff '),
    b"\\u",
    b"\xed\xa0\x80",
    b"9" * 400,
]


def changed(corpus: list[bytes], seed: int) -> Iterator[bytes]:
    chance = random.Random(seed)
    for _ in range(TIMES):
        data = bytearray(chance.choice(corpus))
        for _ in range(chance.randint(1, 4)):
            at = chance.randint(0, len(data))
            match chance.randint(0, 4):
                case 0:
                    data[at : at + 1] = bytes([chance.randint(0, 255)])
                case 1:
                    data[at:at] = chance.choice(INTERESTING)
                case 2:
                    del data[at : at + chance.randint(1, 8)]
                case 3:
                    data[at:at] = data[chance.randint(0, len(data)) :][: chance.randint(1, 16)]
                case _:
                    del data[at:]
        yield bytes(data)


def tried(read: Callable[[bytes], object], inputs: Iterator[bytes]) -> float:
    """Try them all, and return the processor time of the slowest; one that seems slow is tried again."""

    def seconds(data: bytes) -> float:
        before = time.thread_time()
        read(data)
        return time.thread_time() - before

    slowest = 0.0
    for data in inputs:
        took = seconds(data)
        if took > SLOWEST_SECONDS:  # or a garbage collection fell into it
            took = min(seconds(data) for _ in range(3))
        slowest = max(slowest, took)
    return slowest


SYNTAXES = [HTTPConfig(), HTTPConfig(key_syntax="strict"), HTTPConfig(key_syntax="opaque")]


@pytest.mark.row(12, 15)
def test_any_header_is_a_key_or_a_refusal() -> None:
    def read(line: bytes) -> None:
        for http in SYNTAXES:
            key = header_key([line], http)
            if isinstance(key, Refusal):
                assert key.problem is Problem.KEY_INVALID
            else:
                assert 1 <= len(key) <= 255
                assert key.isascii()
                assert key.isprintable()

    assert tried(read, changed(HEADERS, seed=1)) < SLOWEST_SECONDS


@pytest.mark.row(52, 72)
@pytest.mark.fault(22)
def test_any_record_is_read_or_unreadable() -> None:
    def read(data: bytes) -> None:
        try:
            frame = Frame.decode(data)
            response = codec.decode(frame.result)
        except IdempotencyRecordError:
            return
        assert frame.encode() == data
        assert codec.encode(response) == frame.result

    assert tried(read, changed(RECORDS, seed=2)) < SLOWEST_SECONDS


@pytest.mark.row(28, 30, 31)
def test_any_body_gives_an_operation_or_a_refusal_or_passes() -> None:
    config = IdempotencyConfig(
        event_key_jmespath="[tenant, order.id]", payload_validation_jmespath="{a: abs(amount), i: items[].id}"
    )
    ours = Exchange(config, HTTPConfig())
    asked = Request("POST", "/orders", b"", ((b"content-type", b"application/json"),))
    refusals = {Problem.BODY_INVALID, Problem.KEY_INVALID}

    def read(body: bytes) -> None:
        wanted = ours.head(asked)
        assert isinstance(wanted, Wanted)
        found = ours.keyed(asked, wanted, body)
        if isinstance(found, Keyed):
            assert isinstance(ours.operation(asked, found), Operation)
        elif isinstance(found, Refuse):
            assert found.refusal.problem in refusals
        else:
            assert isinstance(found, Pass)

    assert tried(read, changed(BODIES, seed=3)) < SLOWEST_SECONDS
