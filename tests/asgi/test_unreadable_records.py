"""Row 52: unreadable records."""

import pytest

from idempotency_mw import IdempotencyConfig
from idempotency_mw.core.record import Acquired
from tests.asgi.layers import AroundLayer
from tests.asgi.scenario import record_of


@pytest.mark.row(52)
@pytest.mark.fault(22)
@pytest.mark.parametrize("policy", ["refuse", "pass"])
@pytest.mark.parametrize(
    "value", [b"", b"9" * 150, b"hello", b"1P" + b"z" * 117], ids=["empty", "version", "short", "mangled"]
)
async def test_an_unreadable_record_is_refused_and_left_unchanged(surface, any_server, value, policy):
    from idempotency_mw.persistence.redis import AsyncRedisPersistenceLayer

    async with AsyncRedisPersistenceLayer.from_url(any_server.url, key_prefix="unreadable:") as layer:
        around = AroundLayer(layer)
        service = surface(around, config=IdempotencyConfig(on_store_failure=policy))
        await service.request()
        name = "unreadable:" + around.claims[0].storage_key
        with any_server.client() as client:
            client.set(name, value)
            answer = (await service.request()).ok()
            assert (answer.status, answer.slug, service.runs) == (503, "record-unreadable", 1)
            assert client.get(name) == value
            client.delete(name)


@pytest.mark.row(52)
async def test_a_key_of_another_redis_type_is_refused_and_left_unchanged(surface, any_server):
    from idempotency_mw.persistence.redis import AsyncRedisPersistenceLayer

    async with AsyncRedisPersistenceLayer.from_url(any_server.url, key_prefix="wrong-type:") as layer:
        around = AroundLayer(layer)
        service = surface(around)
        await service.request()
        name = "wrong-type:" + around.claims[0].storage_key
        with any_server.client() as client:
            client.delete(name)
            client.rpush(name, "x")
            assert (await service.request()).slug == "record-unreadable"
            assert client.lrange(name, 0, -1) == [b"x"]
            client.delete(name)
        assert service.runs == 1


@pytest.mark.row(52)
@pytest.mark.fault(22)
async def test_a_readable_record_with_an_unreadable_response_is_refused_and_reported(surface, memory, caplog):
    layer = AroundLayer(memory)
    service = surface(layer)
    await service.request()
    claim = layer.claims[0]
    memory.close()
    assert memory.acquire(claim) == Acquired(1)
    memory.complete(claim, b"2 a response of tomorrow")
    caplog.clear()
    answer = (await service.request()).ok()
    assert (answer.status, answer.slug, service.runs) == (503, "record-unreadable", 1)
    assert "refused" in caplog.text
    assert record_of(memory, claim).result == b"2 a response of tomorrow"
