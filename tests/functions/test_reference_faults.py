"""The 25 faults of the system that this one descends from: each is absent here, over every store it concerns.

`broken_builds.py` has for each fault a build of the package that has it; there these tests must fail.
"""

import asyncio
import logging
import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from idempotency_mw import IdempotencyConfig, current_execution, idempotent, idempotent_function
from idempotency_mw.core.record import Acquired, Claim, Operation
from idempotency_mw.errors import (
    IdempotencyAlreadyInProgressError,
    IdempotencyConfigurationError,
    IdempotencyPersistenceConnectionError,
    IdempotencyPersistenceLayerError,
    IdempotencyRecordError,
    IdempotencyResponseNotKeptError,
    IdempotencyValidationError,
)
from idempotency_mw.persistence.local_cache import AsyncLocalCache, LocalCache
from idempotency_mw.persistence.memory import MemoryPersistenceLayer
from idempotency_mw.persistence.redis import AsyncRedisPersistenceLayer, RedisConnection, RedisPersistenceLayer
from tests.functions.bodies import Context, DeclinedError, returning
from tests.functions.conftest import Surface, closed


@pytest.mark.reference_fault(1)
async def test_payload_validation_accepts_a_replay_of_the_same_payload(surface):
    config = IdempotencyConfig(event_key_jmespath="id", payload_validation_jmespath="amount")
    function = surface.function(config=config)
    for _ in range(3):
        assert await surface.call(function, {"id": 1, "amount": 2}) == {"id": 1, "amount": 2}
    with pytest.raises(IdempotencyValidationError):
        await surface.call(function, {"id": 1, "amount": 3})
    assert len(surface.runs) == 1


@pytest.mark.reference_fault(2)
async def test_a_late_owner_overwrites_nothing_and_returns_the_winners_result(surface):
    async def body(payload):
        if len(surface.runs) > 1:
            return "winner"
        surface.advance(31)
        assert await surface.call(function, 1) == "winner"
        return "late"

    function = surface.function(body)
    assert await surface.call(function, 1) == "winner"
    assert await surface.call(function, 1) == "winner"


@pytest.mark.reference_fault(3)
async def test_a_late_owner_that_fails_does_not_delete_its_successors_record(surface):
    async def body(payload):
        if len(surface.runs) == 1:
            surface.advance(31)
            with pytest.raises(KeyboardInterrupt):
                await surface.call(function, 1)
            raise DeclinedError
        if len(surface.runs) == 2:
            raise KeyboardInterrupt
        return "a third run"

    function = surface.function(body)
    with pytest.raises(DeclinedError):
        await surface.call(function, 1)
    with pytest.raises(IdempotencyAlreadyInProgressError):
        await surface.call(function, 1)
    assert len(surface.runs) == 2


@pytest.mark.reference_fault(4)
async def test_every_record_has_an_expiry_from_its_first_write(surface):
    lifetimes = []

    async def body(payload):
        lifetimes.extend(surface.store.lifetimes())

    function = surface.function(body, config=IdempotencyConfig(expires_after_seconds=60))
    await surface.call(function, 1)
    lifetimes += surface.store.lifetimes()
    assert len(lifetimes) == 2
    assert all(50_000 < lifetime <= 60_000 for lifetime in lifetimes)


@pytest.mark.reference_fault(5)
async def test_one_of_many_calls_that_find_a_lapsed_claim_runs(surface):
    attempts, start = [], threading.Barrier(8)

    async def body(payload):
        attempts.append(current_execution().attempt)
        raise KeyboardInterrupt  # the claim stays in progress

    async def contend(number):
        if not surface.is_async:
            start.wait(10)
        with suppress(KeyboardInterrupt, IdempotencyAlreadyInProgressError):
            await surface.call(function, 1)

    function = surface.function(body)
    with pytest.raises(KeyboardInterrupt):
        await surface.call(function, 1)
    surface.advance(31)
    await surface.at_once(contend, 8)
    assert attempts == [1, 2]


@pytest.mark.reference_fault(6)
async def test_after_each_crash_the_key_is_free_at_the_end_of_that_lease(surface):
    async def body(payload):
        if len(surface.runs) < 4:
            raise KeyboardInterrupt
        return current_execution().attempt

    function = surface.function(body, config=IdempotencyConfig(lease_seconds=1))
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            await surface.call(function, 1)
        surface.advance(1.1)
    assert await surface.call(function, 1) == 4


@pytest.mark.reference_fault(7)
async def test_an_acquire_brings_the_record_which_may_expire_right_after_that(surface):
    await surface.call(surface.function(key_prefix="one"), "kept")
    asked = []

    def vanish(verb, claim, outcome):
        asked.append(verb)
        surface.advance(90_000)

    surface.watch(vanish)
    assert await surface.call(surface.function(key_prefix="one"), "kept") == "kept"
    assert asked == ["acquire"]
    assert surface.store.lifetimes() == []
    assert len(surface.runs) == 1


@pytest.mark.reference_fault(8)
async def test_two_functions_on_one_layer_nested_complete_their_own_records(surface):
    async def inner_body(payload):
        return f"inner {payload}"

    async def outer_body(payload):
        return f"outer of {await surface.call(inner, payload)}"

    inner, outer = surface.function(inner_body), surface.function(outer_body)
    for _ in range(2):
        assert await surface.call(outer, 1) == "outer of inner 1"
        assert await surface.call(inner, 1) == "inner 1"
    assert len(surface.runs) == 2


CALLS = 3_000
AT_ONCE = 32


@pytest.mark.reference_fault(8)
async def test_two_functions_on_one_layer_in_32_threads_or_tasks_never_get_each_others_results(surface):
    async def inner_body(payload):
        return ["inner", payload, current_execution().key]

    async def outer_body(payload):
        return ["outer", payload, current_execution().key, await surface.call(inner, payload % 50)]

    async def is_own(number):
        # Most payloads of the outer function come twice; the inner one, called by it, gets 50 different ones.
        if number % 3 == 0:
            payload = 1000 + number
            return await surface.patiently(inner, payload) == ["inner", payload, str(payload)]
        payload, nested = number % 1500, number % 50
        expected = ["outer", payload, str(payload), ["inner", nested, str(nested)]]
        return await surface.patiently(outer, payload) == expected

    async def work(_):
        answers.extend([await is_own(number) for number in numbers])

    numbers, answers = iter(range(CALLS)), []
    inner, outer = surface.function(inner_body), surface.function(outer_body)
    await surface.at_once(work, AT_ONCE)
    assert answers == [True] * CALLS


@pytest.mark.reference_fault(9)
async def test_each_function_has_its_own_configuration_on_one_layer(surface):
    strict = surface.function(config=IdempotencyConfig(expires_after_seconds=1000))
    short = surface.function(config=IdempotencyConfig(expires_after_seconds=60, event_key_jmespath="id"))
    for trace in range(3):
        await surface.call(strict, {"id": 1, "trace": trace})
        await surface.call(short, {"id": 1, "trace": trace})
    assert len(surface.runs) == 4
    surface.advance(61)
    await surface.call(strict, {"id": 1, "trace": 0})
    await surface.call(short, {"id": 1, "trace": 0})
    assert len(surface.runs) == 5


@pytest.mark.reference_fault(10)
async def test_each_lambda_invocation_has_its_own_deadline(surface):
    leases, both = {}, threading.Barrier(2)
    surface.watch(lambda verb, claim, outcome: leases.setdefault(verb, []).append(claim.lease_ms))
    config = IdempotencyConfig()

    def plain(event, context):
        both.wait(10)

    async def asynchronous(event, context):
        await asyncio.sleep(0)

    body = asynchronous if surface.is_async else plain
    handler = idempotent(body, persistence_store=surface.layer, config=config, key_prefix="handler")
    if surface.is_async:
        await asyncio.gather(*[handler(seconds, Context(seconds)) for seconds in (5, 50)])
    else:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda seconds: handler(seconds, Context(seconds)), (5, 50)))
    assert sorted(leases["acquire"]) == [5000, 50000]


@pytest.mark.reference_fault(11)
@pytest.mark.parametrize("error", [IdempotencyPersistenceLayerError, IdempotencyRecordError])
async def test_a_function_that_raises_the_stores_own_error_runs_once(surface, error):
    async def body(payload):
        raise error("its own")

    function = surface.function(body, config=IdempotencyConfig(on_store_failure="pass"))
    with pytest.raises(error, match="its own"):
        await surface.call(function, 1)
    assert len(surface.runs) == 1


@pytest.mark.reference_fault(12)
@pytest.mark.parametrize("stop", [KeyboardInterrupt, asyncio.CancelledError, SystemExit])
async def test_an_interrupted_call_blocks_its_key_for_its_lease_only(surface, stop):
    async def body(payload):
        if len(surface.runs) == 1:
            raise stop
        return "done"

    function = surface.function(body, config=IdempotencyConfig(on_error="store"))
    with pytest.raises(stop):
        await surface.call(function, 1)
    surface.advance(20)
    with pytest.raises(IdempotencyAlreadyInProgressError):
        await surface.call(function, 1)
    surface.advance(11)
    assert await surface.call(function, 1) == "done"
    assert len(surface.runs) == 2


@pytest.mark.reference_fault(13)
async def test_a_caller_gets_its_result_even_if_it_can_not_be_stored(surface, caplog):
    layer = surface.failing()
    result = {1, 2}
    function = surface.function(returning(result))
    assert await surface.call(function, 1) is result
    with pytest.raises(IdempotencyResponseNotKeptError):
        await surface.call(function, 1)
    for error in (None, RuntimeError("card 4111")):
        layer.fail_before("complete", error)
        assert await surface.call(function, str(error)) is result
    reported = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert len(reported) == 5
    assert "card 4111" not in caplog.text


SOON = 5
"""Seconds within which a heartbeat of 0.2 s comes on a busy machine."""


@pytest.mark.reference_fault(14)
async def test_the_lease_of_a_slow_function_is_extended_while_it_runs(surface):
    extended = threading.Event()
    surface.watch(lambda verb, claim, outcome: extended.set() if (verb, outcome) == ("extend", True) else None)

    # On a real server time goes on by itself too. The next beat comes a third of the lease after the one before,
    # so each advance leaves 0.37 of the lease: 0.9 s by which a busy machine may be late.
    lease = 2.4 if surface.store.time_goes_on else 0.6

    async def body(payload):
        for _ in range(4):
            extended.clear()
            await surface.seen(extended, within=SOON)
            surface.advance(0.3 * lease)
        with pytest.raises(IdempotencyAlreadyInProgressError):
            await surface.call(function, 1)
        return "done"

    function = surface.function(body, config=IdempotencyConfig(lease_seconds=lease))
    assert await surface.call(function, 1) == "done"
    assert len(surface.runs) == 1


@pytest.mark.reference_fault(15)
async def test_the_apps_clock_does_not_matter(surface, monkeypatch):
    async def body(payload):
        if len(surface.runs) > 1:
            return "done"
        for now in (4e9, 0.0):
            monkeypatch.setattr("time.time", lambda now=now: now)
            with pytest.raises(IdempotencyAlreadyInProgressError):
                await surface.call(function, 1)
        raise KeyboardInterrupt

    function = surface.function(body)
    with pytest.raises(KeyboardInterrupt):
        await surface.call(function, 1)
    surface.advance(31)
    for _ in range(2):
        assert await surface.call(function, 1) == "done"
    monkeypatch.setattr("time.time", lambda: 4e9)
    assert await surface.call(function, 1) == "done"
    assert len(surface.runs) == 2


@pytest.mark.reference_fault(16)
async def test_an_owner_whose_acquire_had_no_reply_can_acquire_again(surface):
    layer = surface.failing()
    layer.lose_reply("acquire")
    claim = Claim(Operation("a" * 64, "b" * 64), "c" * 32, 30_000, 60_000)
    with pytest.raises(IdempotencyPersistenceConnectionError):
        await surface.call(layer.acquire, claim)
    assert await surface.call(layer.acquire, claim) == Acquired(1)


@pytest.mark.reference_fault(16)
async def test_a_call_runs_although_the_reply_to_its_acquire_was_lost(proxied):
    surface, proxy = proxied
    function = surface.function()
    before = len(proxy.requests)
    proxy.when(b"EVALSHA", "cut reply")
    assert await surface.call(function, 1) == 1
    assert len(surface.runs) == 1
    assert sum(b"EVALSHA" in request for request in proxy.requests[before:]) == 3


@pytest.mark.reference_fault(17)
async def test_a_cached_copy_expires_with_its_record(surface):
    caches = {"plain": LocalCache, "async": AsyncLocalCache}
    surface.layer = caches[surface.kind](surface.layer, 10, clock=surface.store.clock)
    function = surface.function(config=IdempotencyConfig(expires_after_seconds=60))
    for _ in range(3):
        await surface.call(function, 1)
    assert len(surface.runs) == 1
    surface.advance(61)
    await surface.call(function, 1)
    assert len(surface.runs) == 2


@pytest.mark.reference_fault(18)
async def test_an_expiry_below_one_second_is_respected(surface):
    lives = []

    def look(verb, claim, outcome):
        if verb == "complete":
            lives.extend(surface.store.lifetimes())

    surface.watch(look)
    function = surface.function(config=IdempotencyConfig(expires_after_seconds=0.5))
    assert await surface.call(function, 1) == 1
    assert all(life <= 500 for life in lives)
    assert lives == [500] or surface.store.time_goes_on
    surface.advance(0.6)
    assert await surface.call(function, 1) == 1
    assert len(surface.runs) == 2
    with pytest.raises(IdempotencyConfigurationError):
        IdempotencyConfig(expires_after_seconds=0)


@pytest.mark.reference_fault(19)
async def test_the_result_none_is_replayed_as_none(surface):
    function = surface.function(returning(None))
    for _ in range(2):
        assert await surface.call(function, 1) is None
    assert len(surface.runs) == 1


@pytest.mark.reference_fault(20)
async def test_falsy_results_are_replayed_as_they_were(surface):
    results = [{}, [], 0, False, ""]

    async def body(payload):
        return results[payload]

    function = surface.function(body)
    for _ in range(2):
        assert repr([await surface.call(function, number) for number in range(5)]) == repr(results)
    assert len(surface.runs) == 5


@pytest.mark.reference_fault(21)
async def test_bytes_that_are_no_record_are_a_record_error_and_not_a_free_key(holding_bytes):
    function = holding_bytes.function(config=IdempotencyConfig(on_store_failure="pass"))
    await holding_bytes.call(function, 1)
    holding_bytes.store.plant(b'{"status": "COMPLETED"}')
    for _ in range(2):
        with pytest.raises(IdempotencyRecordError):
            await holding_bytes.call(function, 1)
    assert holding_bytes.store.raw() == [b'{"status": "COMPLETED"}']
    assert len(holding_bytes.runs) == 1


@pytest.mark.reference_fault(22)
def test_the_local_cache_is_thread_safe():
    inside, evicted = threading.Event(), threading.Event()

    def clock():
        # Called between finding a copy and marking it as used: then another thread could evict the copy.
        if threading.current_thread().name.startswith("reader"):
            inside.set()
            evicted.wait(0.2)
        return 0.0

    @idempotent_function(persistence_store=LocalCache(MemoryPersistenceLayer(), 1, clock=clock))
    def work(payload):
        return payload

    def evict():
        inside.wait(10)
        assert [work(2), work(2)] == [2, 2]
        evicted.set()

    assert [work(1), work(1)] == [1, 1]
    with ThreadPoolExecutor(1, thread_name_prefix="reader") as reader, ThreadPoolExecutor(1) as other:
        done = other.submit(evict)
        assert reader.submit(work, 1).result() == 1
        done.result()


@pytest.mark.reference_fault(23)
async def test_an_async_layer_protects_async_functions_and_is_refused_with_plain_ones(server_store):
    async with server_store.open("async") as layer:
        with pytest.raises(IdempotencyConfigurationError, match="async"):
            idempotent_function(lambda payload: payload, persistence_store=layer)
        surface = Surface("async", layer)
        function = surface.function()
        assert [await function(1), await function(1)] == [1, 1]
        assert len(surface.runs) == 1


@pytest.mark.reference_fault(23)
async def test_an_async_function_is_protected_by_a_blocking_layer_too(store):
    layer, runs = store.open("plain"), []

    @idempotent_function(persistence_store=layer)
    async def work(payload):
        runs.append(payload)
        return payload

    assert [await work(1), await work(1)] == [1, 1]
    assert runs == [1]
    layer.close()


@pytest.mark.reference_fault(24)
async def test_an_unreachable_server_and_tls_on_a_plain_port_are_connection_errors_in_time(kind, server_store):
    kinds = {"async": AsyncRedisPersistenceLayer, "plain": RedisPersistenceLayer}
    for url in ("redis://127.0.0.1:1/0", server_store.server.url.replace("redis://", "rediss://")):
        layer = kinds[kind].from_url(url, timeout_seconds=0.3)
        surface = Surface(kind, layer)
        began = time.monotonic()
        with pytest.raises(IdempotencyPersistenceConnectionError) as caught:
            await surface.call(surface.function(), 1)
        assert time.monotonic() - began < 5
        assert caught.value.__cause__ is not None
        assert surface.runs == []
        await closed(layer)


@pytest.mark.reference_fault(24)
def test_a_url_and_arguments_that_could_contradict_it_are_an_error():
    options = {"host": "b", "port": 2, "db_index": 1, "ssl": True, "password": "x", "username": "x"}
    for name, value in options.items():
        with pytest.raises(IdempotencyConfigurationError, match=name):
            RedisConnection(url="redis://a:1/0", **{name: value})


@pytest.mark.reference_fault(25)
async def test_nan_and_infinity_are_replayed(surface):
    function = surface.function(returning([math.nan, math.inf]))
    for _ in range(2):
        nan, infinity = await surface.call(function, 1)
        assert math.isnan(nan)
        assert infinity == math.inf
    assert len(surface.runs) == 1


def test_every_fault_has_its_test(request):
    here = [item for item in request.session.items if item.path == request.path]
    if len(here) < 26:
        pytest.skip("only a part of this module is run")
    shown = {number for item in here for mark in item.iter_markers("reference_fault") for number in mark.args}
    assert shown == set(range(1, 26))
