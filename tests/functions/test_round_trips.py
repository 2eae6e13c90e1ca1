"""How many round trips a call costs: two for a first call, one for a replay or a refusal."""

import pytest

from idempotency_mw import IdempotencyConfig
from idempotency_mw.errors import IdempotencyAlreadyInProgressError


async def test_a_first_call_takes_two_round_trips_and_a_replay_one(proxied):
    surface, proxy = proxied
    function = surface.function()
    taken = []
    for _ in range(3):
        before = len(proxy.requests)
        await surface.call(function, "counted")
        taken.append(len(proxy.requests) - before)
    assert taken == [2, 1, 1]


async def test_a_failed_call_takes_two_a_refused_one_takes_one_and_a_cached_one_none(proxied):
    surface, proxy = proxied
    taken = []

    async def body(payload):
        before = len(proxy.requests)
        with pytest.raises(IdempotencyAlreadyInProgressError):
            await surface.call(function, payload)
        taken.append(len(proxy.requests) - before)
        raise ValueError

    function = surface.function(body)
    before = len(proxy.requests)
    with pytest.raises(ValueError):
        await surface.call(function, "fails")
    taken.append(len(proxy.requests) - before - taken[0])
    cached = surface.function(config=IdempotencyConfig(use_local_cache=True))
    for _ in range(3):
        before = len(proxy.requests)
        await surface.call(cached, "cached")
        taken.append(len(proxy.requests) - before)
    assert taken == [1, 2, 2, 0, 0]
