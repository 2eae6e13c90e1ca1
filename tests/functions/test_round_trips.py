"""How often a function's store is asked: two round trips for a first call, one for a replay."""

import pytest

from idempotency_mw.persistence.redis import AsyncRedisPersistenceLayer, RedisPersistenceLayer
from tests.functions.conftest import Surface
from tests.proxy import Proxy


@pytest.fixture
async def counted(kind, any_server):
    with Proxy(any_server.port) as proxy:
        kinds = {"async": AsyncRedisPersistenceLayer, "plain": RedisPersistenceLayer}
        layer = kinds[kind].from_url(proxy.url)
        yield Surface(kind, layer), proxy
        await layer.aclose() if kind == "async" else layer.close()


async def test_a_first_call_takes_two_round_trips_and_a_replay_one(counted):
    surface, proxy = counted
    function = surface.function()
    await surface.call(function, "warm")  # connected, and the scripts are known from here on
    taken = []
    for _ in range(3):
        before = len(proxy.requests)
        await surface.call(function, "counted")
        taken.append(len(proxy.requests) - before)
    assert taken == [2, 1, 1]
