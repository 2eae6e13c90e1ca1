"""Compares the Lua scripts on real servers with `frame.py` and `verbs.py`, on records that were changed at random.

For an unreadable record the scripts must return an error and change nothing. For a readable one they must give the
answer that `verbs.py` gives.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from idempotency_mw.core.record import Claim, Existing, Lost, Operation
from idempotency_mw.errors import IdempotencyRecordError
from idempotency_mw.persistence import verbs
from idempotency_mw.persistence.base import VERBS
from idempotency_mw.persistence.frame import Frame
from idempotency_mw.persistence.redis import RedisPersistenceLayer
from idempotency_mw.persistence.verbs import StoredFrame
from proof.fuzz.inputs import inputs
from tests.servers import RedisServer, binaries

__all__ = ["VERBS", "disagreements"]

KEY = "fuzzed"
LONG_MS = 600_000


def disagreements(seed: int, count: int) -> Iterator[tuple[str, list[str]]]:
    """Yield each server, with the differences between its answers and the model's."""
    for name, binary in binaries().items():
        with (
            RedisServer(binary) as server,
            RedisPersistenceLayer.from_url(server.url, timeout_seconds=30) as layer,
            server.client() as store,
        ):
            yield name, list(_disagreements(layer, store, inputs("record", seed, count)))


def _disagreements(layer: RedisPersistenceLayer, store: Any, records: Iterator[bytes]) -> Iterator[str]:
    now_ms = store.time()[0] * 1000
    for data in records:
        for verb in VERBS:
            found = _compared(layer, store, data, verb, now_ms)
            if found is not None:
                yield f"{verb} {data!r}: {found}"


def _compared(layer: RedisPersistenceLayer, store: Any, data: bytes, verb: str, now_ms: int) -> str | None:
    claim = _claim_for(data)
    name = layer.key_prefix + KEY
    store.set(name, data, px=LONG_MS)
    wanted, changes = _modelled(verb, data, claim, now_ms)
    seen = _answer(lambda: getattr(layer, verb)(*_arguments(verb, claim)))
    if seen != wanted:
        return f"{seen}, and not {wanted}"
    if not changes and store.get(name) != data:
        return "it was changed"
    return None


def _claim_for(data: bytes) -> Claim:
    """Return the claim that would own this record: only then do the scripts get past comparing tokens."""
    token, fingerprint = data[2:34].decode("latin-1"), data[55:119].decode("latin-1")
    is_token, is_fingerprint = (set(text) <= set("0123456789abcdef") for text in (token, fingerprint))
    operation = Operation(KEY, fingerprint if is_fingerprint and len(fingerprint) == 64 else "0" * 64)
    return Claim(operation, token if is_token and len(token) == 32 else "0" * 32, LONG_MS, LONG_MS)


def _arguments(verb: str, claim: Claim) -> tuple[Any, ...]:
    return (claim, b"done") if verb == "complete" else (claim,)


def _modelled(verb: str, data: bytes, claim: Claim, now_ms: int) -> tuple[Any, bool]:
    """Return the model's answer, and whether the model changes the record."""
    try:
        standing = StoredFrame(Frame.decode(data), now_ms + LONG_MS)
    except IdempotencyRecordError:
        return IdempotencyRecordError, False
    if verb == "release":
        released = verbs.release(standing, claim)
        return released, released
    if verb == "extend":
        write = verbs.extend(standing, claim, now_ms)
        return write is not None, write is not None
    decided = verbs.acquire if verb == "acquire" else verbs.complete
    answer, write = decided(standing, *_arguments(verb, claim), now_ms)  # type: ignore[operator]
    return _timeless(answer), write is not None


def _answer(call: Any) -> Any:
    try:
        return _timeless(call())
    except IdempotencyRecordError as error:
        return type(error)


def _timeless(answer: Any) -> Any:
    """Return the answer without remaining times: server and model have different clocks."""
    if isinstance(answer, Existing | Lost) and answer.record is not None:
        return type(answer)(replace(answer.record, remaining_ms=0))
    return answer
