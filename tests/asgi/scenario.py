"""Helpers of the scenarios: reading a record, common configurations and plays, apps made of single messages."""

from typing import Any

from idempotency_mw import IdempotencyConfig
from idempotency_mw.core.record import Claim, Existing, Operation
from tests.asgi.driver import ASGISurface, Play
from tests.asgi.layers import AroundLayer

BROKEN = RuntimeError("the app broke")
KEY = ("Idempotency-Key", "k-1")

STORE_ERRORS = IdempotencyConfig(on_error="store")
NO_HEARTBEAT = IdempotencyConfig(lease_seconds=30, heartbeat=False)


def record_of(layer: Any, claim: Claim) -> Any:
    """Return the record under the claim's key, or `None` if the key is free. The store is unchanged."""
    probe = Claim(Operation(claim.storage_key, "0" * 64), "f" * 32, 1000, 1000, may_take_over=False)
    found = layer.acquire(probe)
    if isinstance(found, Existing):
        return found.record
    layer.release(probe)
    return None


async def arecord_of(layer: AroundLayer) -> Any:
    """As `record_of`, for the key of the layer's first claim."""
    claim = layer.claims[0]
    probe = Claim(Operation(claim.storage_key, "0" * 64), "f" * 32, 1000, 1000, may_take_over=False)
    found = await layer.inner.acquire(probe)
    if isinstance(found, Existing):
        return found.record
    await layer.inner.release(probe)
    return None


START = {"type": "http.response.start", "status": 200, "headers": []}


def part(body: bytes) -> dict:
    return {"type": "http.response.body", "body": body, "more_body": True}


def last(body: bytes = b"") -> dict:
    return {"type": "http.response.body", "body": body, "more_body": False}


def started(*headers: tuple[bytes, bytes]) -> dict:
    return {**START, "headers": list(headers)}


async def send_stream(send, *chunks: bytes) -> None:
    """Send a response of no declared length: a start, the chunks, and an empty last message."""
    await send(started())
    for chunk in chunks:
        await send(part(chunk))
    await send(last())


def surface_of(app, store, **options) -> ASGISurface:
    """Return a surface over an ASGI app instead of a play."""
    service = ASGISurface(store, **options)

    async def counted(scope, receive, send):
        service.runs += 1
        await app(scope, receive, send)

    service.app.app = counted
    return service


STREAM = Play(200, (), tuple(b"%d" % number for number in range(6)))


DECLARED = Play(200, ((b"content-length", b"6"),), STREAM.chunks)


STORABLE = [
    Play(200),
    Play(201, ((b"content-length", b"4"),)),
    Play(204, (), (b"",)),
    Play(303, ((b"location", b"/other"),), (b"",)),
    Play(200, ((b"content-type", b"application/octet-stream"),), (b"\x00\xff", b"\x80", b"")),
    Play(200, ((b"content-length", b"0"),), (b"",)),
    Play(200, (), (b"",)),
    Play(399, (), (b"", b"", b"x")),
]
