"""The 25 faults of the system that this one descends from, each shown absent."""

import asyncio
import logging
import math
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from idempotency_mw import IdempotencyConfig, current_execution, idempotent, idempotent_function
from idempotency_mw.core.record import Claim, Operation
from idempotency_mw.errors import (
    IdempotencyAlreadyInProgressError,
    IdempotencyConfigurationError,
    IdempotencyPersistenceConnectionError,
    IdempotencyPersistenceLayerError,
    IdempotencyRecordError,
    IdempotencyResponseNotKeptError,
    IdempotencyValidationError,
)
from idempotency_mw.persistence.local_cache import LocalCache
from idempotency_mw.persistence.memory import MemoryPersistenceLayer
from idempotency_mw.persistence.redis import AsyncRedisPersistenceLayer, RedisConnection, RedisPersistenceLayer
from tests.functions.conftest import FailingInPlace, Surface


class BrokenError(Exception):
    pass


@pytest.mark.reference_fault(1)
async def test_validation_passes_honest_replays(stored):
    config = IdempotencyConfig(event_key_jmespath="id", payload_validation_jmespath="amount")
    function = stored.function(config=config)
    for _ in range(3):
        assert await stored.call(function, {"id": 1, "amount": 2}) == {"id": 1, "amount": 2}
    with pytest.raises(IdempotencyValidationError):
        await stored.call(function, {"id": 1, "amount": 3})
    assert len(stored.runs) == 1


@pytest.mark.reference_fault(2)
async def test_a_slow_owner_that_ends_late_overwrites_nothing_and_returns_the_winners_result(surface):
    async def body(payload):
        if len(surface.runs) > 1:
            return "winner"
        surface.clock.advance(31)
        assert await surface.call(function, 1) == "winner"
        return "late"

    function = surface.function(body)
    assert await surface.call(function, 1) == "winner"
    assert await surface.call(function, 1) == "winner"


@pytest.mark.reference_fault(3)
async def test_a_slow_owner_that_fails_late_deletes_nothing_of_its_successors(surface):
    async def body(payload):
        if len(surface.runs) == 1:
            surface.clock.advance(31)
            with pytest.raises(KeyboardInterrupt):
                await surface.call(function, 1)
            raise BrokenError
        if len(surface.runs) == 2:
            raise KeyboardInterrupt
        return "a third run"

    function = surface.function(body)
    with pytest.raises(BrokenError):
        await surface.call(function, 1)
    with pytest.raises(IdempotencyAlreadyInProgressError):
        await surface.call(function, 1)
    assert len(surface.runs) == 2


@pytest.mark.reference_fault(4)
async def test_every_record_has_a_deadline_from_its_first_write(valkey, any_server):
    async def body(payload):
        with any_server.client() as client:
            (key,) = client.scan_iter(f"{valkey.prefix}*")
            assert client.pttl(key) > 0

    function = valkey.function(body)
    await valkey.call(function, 1)
    assert len(valkey.runs) == 1


@pytest.mark.reference_fault(5)
async def test_of_many_that_find_a_lapsed_claim_one_runs(clock):
    layer = MemoryPersistenceLayer(clock=clock)
    surface = Surface("plain", layer)

    async def die(payload):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        surface.function(die, key_prefix="one")(1)
    clock.advance(31)
    start, end, taken = threading.Barrier(8), threading.Barrier(8), []

    @idempotent_function(persistence_store=layer, key_prefix="one", config=IdempotencyConfig(heartbeat=False))
    def work(payload):
        taken.append(current_execution().attempt)
        end.wait(10)

    def contend():
        start.wait(10)
        try:
            work(1)
        except IdempotencyAlreadyInProgressError:
            end.wait(10)

    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(contend) for _ in range(8)]:
            done.result()
    assert taken == [2]


@pytest.mark.reference_fault(6)
async def test_after_a_second_crash_the_key_is_free_at_the_end_of_that_lease_too(surface):
    async def body(payload):
        if len(surface.runs) < 4:
            raise KeyboardInterrupt
        return current_execution().attempt

    function = surface.function(body, config=IdempotencyConfig(lease_seconds=1))
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            await surface.call(function, 1)
        surface.clock.advance(1)
    assert await surface.call(function, 1) == 4


@pytest.mark.reference_fault(7)
async def test_a_refusal_brings_its_record_so_that_nothing_is_read_twice(kind):
    layer = FailingInPlace(MemoryPersistenceLayer())
    surface = Surface(kind, layer)
    function = surface.function()
    await surface.call(function, 1)
    layer.calls.clear()
    await surface.call(function, 1)
    assert layer.calls == ["acquire"]


@pytest.mark.reference_fault(8)
async def test_two_functions_on_one_layer_nested_complete_their_own_records(stored):
    async def inner_body(payload):
        return f"inner {payload}"

    async def outer_body(payload):
        return f"outer of {await stored.call(inner, payload)}"

    inner, outer = stored.function(inner_body), stored.function(outer_body)
    for _ in range(2):
        assert await stored.call(outer, 1) == "outer of inner 1"
        assert await stored.call(inner, 1) == "inner 1"
    assert len(stored.runs) == 2


@pytest.mark.reference_fault(8)
def test_two_functions_on_one_layer_in_32_threads_never_get_each_others_results():
    layer = MemoryPersistenceLayer()

    @idempotent_function(persistence_store=layer)
    def inner(payload):
        return ["inner", payload, current_execution().key]

    @idempotent_function(persistence_store=layer)
    def outer(payload):
        return ["outer", payload, current_execution().key, inner(payload % 50)]

    def call(number):
        # Each key but the inner ones is called twice, in one thread after the other.
        function, payload = (outer, number // 2) if number % 3 else (inner, 1000 + number)
        result = function(payload)
        kind = "outer" if number % 3 else "inner"
        nested = [["inner", payload % 50, str(payload % 50)]] if number % 3 else []
        return result == [kind, payload, str(payload), *nested]

    def called(number):
        while True:
            with suppress(IdempotencyAlreadyInProgressError):
                return call(number)

    with ThreadPoolExecutor(32) as pool:
        assert sum(pool.map(called, range(3000))) == 3000


@pytest.mark.reference_fault(8)
async def test_two_async_functions_on_one_layer_in_many_tasks_never_get_each_others_results():
    layer = MemoryPersistenceLayer()
    patient = IdempotencyConfig(wait_seconds=30)

    @idempotent_function(persistence_store=layer, config=patient)
    async def inner(payload):
        await asyncio.sleep(0)
        return ["inner", payload, current_execution().key]

    @idempotent_function(persistence_store=layer, config=patient)
    async def outer(payload):
        nested = await inner(payload % 50)
        return ["outer", payload, current_execution().key, nested]

    async def call(number):
        payload = number // 2
        assert await outer(payload) == ["outer", payload, str(payload), ["inner", payload % 50, str(payload % 50)]]

    for start in range(0, 1000, 100):
        await asyncio.gather(*[call(number) for number in range(start, start + 100)])


@pytest.mark.reference_fault(9)
async def test_each_function_has_its_own_configuration_on_one_layer(surface):
    strict = surface.function(config=IdempotencyConfig(expires_after_seconds=100))
    short = surface.function(config=IdempotencyConfig(expires_after_seconds=1, event_key_jmespath="id"))
    for trace in range(3):
        await surface.call(strict, {"id": 1, "trace": trace})
        await surface.call(short, {"id": 1, "trace": trace})
    assert len(surface.runs) == 4
    surface.clock.advance(2)
    await surface.call(strict, {"id": 1, "trace": 0})
    await surface.call(short, {"id": 1, "trace": 0})
    assert len(surface.runs) == 5


class Context:
    def __init__(self, seconds):
        self.seconds = seconds

    def get_remaining_time_in_millis(self):
        return self.seconds * 1000


@pytest.mark.reference_fault(10)
def test_each_invocation_has_its_own_deadline():
    leases = {}

    class Layer(MemoryPersistenceLayer):
        def acquire(self, claim):
            leases[threading.current_thread().name] = claim.lease_ms
            return super().acquire(claim)

    both = threading.Barrier(2)

    @idempotent(persistence_store=Layer())
    def handler(event, context):
        both.wait(10)

    threads = [
        threading.Thread(target=handler, args=(seconds, Context(seconds)), name=str(seconds))
        for seconds in (5, 50)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert leases == {"5": 5000, "50": 50000}


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
async def test_an_interrupted_call_blocks_for_its_lease_and_not_for_its_records_life(surface, stop):
    async def body(payload):
        if len(surface.runs) == 1:
            raise stop
        return "done"

    function = surface.function(body, config=IdempotencyConfig(on_error="store"))
    with pytest.raises(stop):
        await surface.call(function, 1)
    surface.clock.advance(29.9)
    with pytest.raises(IdempotencyAlreadyInProgressError):
        await surface.call(function, 1)
    surface.clock.advance(0.1)
    assert await surface.call(function, 1) == "done"


@pytest.mark.reference_fault(13)
async def test_a_result_that_can_not_be_saved_is_not_lost_to_its_caller(kind, caplog):
    layer = FailingInPlace(MemoryPersistenceLayer())
    surface = Surface(kind, layer)
    result = {1, 2}

    async def body(payload):
        return result

    function = surface.function(body)
    assert await surface.call(function, 1) is result
    with pytest.raises(IdempotencyResponseNotKeptError):
        await surface.call(function, 1)
    for error in (None, RuntimeError("4111")):
        layer.fail_before("complete", error)
        assert await surface.call(function, str(error)) is result
    reported = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert len(reported) == 5
    assert "4111" not in caplog.text


@pytest.mark.reference_fault(14)
def test_a_slow_functions_lease_is_extended_while_it_runs():
    class Layer(MemoryPersistenceLayer):
        extended = threading.Event()

        def extend(self, claim):
            self.extended.set()
            return super().extend(claim)

    @idempotent_function(persistence_store=Layer(), config=IdempotencyConfig(lease_seconds=0.3))
    def slow(payload):
        return Layer.extended.wait(10)

    assert slow(1) is True


@pytest.mark.reference_fault(14)
async def test_a_slow_async_functions_lease_is_extended_while_it_runs():
    extended = asyncio.Event()

    class Layer(MemoryPersistenceLayer):
        def extend(self, claim):
            extended.set()
            return super().extend(claim)

    @idempotent_function(persistence_store=Layer(), config=IdempotencyConfig(lease_seconds=0.3))
    async def slow(payload):
        await asyncio.wait_for(extended.wait(), 10)
        return "done"

    assert await slow(1) == "done"


@pytest.mark.reference_fault(15)
async def test_the_apps_clock_decides_nothing(valkey, monkeypatch):
    async def body(payload):
        monkeypatch.setattr("time.time", lambda: 4e9)
        with pytest.raises(IdempotencyAlreadyInProgressError):
            await valkey.call(function, 1)
        monkeypatch.undo()
        return "done"

    function = valkey.function(body)
    assert await valkey.call(function, 1) == "done"


@pytest.mark.reference_fault(16)
def test_an_owner_whose_acquire_had_no_reply_is_not_locked_out_by_its_own_record():
    layer = FailingInPlace(MemoryPersistenceLayer())
    layer.lose_reply("acquire")
    claim = Claim(Operation("a" * 64, "b" * 64), "c" * 32, 30_000, 60_000)
    with pytest.raises(IdempotencyPersistenceConnectionError):
        layer.acquire(claim)
    assert layer.acquire(claim).attempt == 1


@pytest.mark.reference_fault(17)
async def test_a_cached_record_expires_with_its_record(surface):
    surface.layer = LocalCache(surface.layer, 10, clock=surface.clock)
    if surface.is_async:
        surface.layer.runs_in_place = True
    function = surface.function(config=IdempotencyConfig(expires_after_seconds=5))
    for _ in range(3):
        await surface.call(function, 1)
    assert len(surface.runs) == 1
    surface.clock.advance(5)
    await surface.call(function, 1)
    assert len(surface.runs) == 2


@pytest.mark.reference_fault(18)
async def test_expiry_below_a_second_is_meant(stored):
    function = stored.function(config=IdempotencyConfig(expires_after_seconds=0.5))
    for _ in range(2):
        assert await stored.call(function, 1) == 1
    with pytest.raises(IdempotencyConfigurationError):
        IdempotencyConfig(expires_after_seconds=0)


@pytest.mark.reference_fault(19)
async def test_none_comes_back_as_none(stored):
    async def body(payload):
        return None

    function = stored.function(body)
    for _ in range(2):
        assert await stored.call(function, 1) is None
    assert len(stored.runs) == 1


@pytest.mark.reference_fault(20)
@pytest.mark.parametrize("result", [{}, [], 0, False, ""], ids=repr)
async def test_falsy_results_come_back_as_they_were(surface, result):
    async def body(payload):
        return result

    function = surface.function(body)
    for _ in range(2):
        assert repr(await surface.call(function, 1)) == repr(result)


@pytest.mark.reference_fault(21)
async def test_what_is_no_record_is_a_typed_error_and_never_free(valkey, any_server):
    function = valkey.function(config=IdempotencyConfig(on_store_failure="pass"))
    await valkey.call(function, 1)
    with any_server.client() as client:
        (key,) = client.scan_iter(f"{valkey.prefix}*")
        client.set(key, '{"status": "COMPLETED"}')
        for _ in range(2):
            with pytest.raises(IdempotencyRecordError):
                await valkey.call(function, 1)
        assert client.get(key) == b'{"status": "COMPLETED"}'
    assert len(valkey.runs) == 1


@pytest.mark.reference_fault(22)
def test_the_local_cache_is_safe_between_threads():
    inside, evicted = threading.Event(), threading.Event()

    def clock():
        # Asked between finding a copy and marking it as used: the moment at which another thread could evict it.
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

    assert [work(1), work(1)] == [1, 1]  # the second one brings the copy
    with ThreadPoolExecutor(1, thread_name_prefix="reader") as reader, ThreadPoolExecutor(1) as other:
        done = other.submit(evict)
        assert reader.submit(work, 1).result() == 1
        done.result()


@pytest.mark.reference_fault(23)
async def test_an_async_layer_and_an_async_function_are_protected_or_refused(any_server):
    async with AsyncRedisPersistenceLayer.from_url(any_server.url) as layer:
        with pytest.raises(IdempotencyConfigurationError, match="async"):
            Surface("plain", layer).function()
        surface = Surface("async", layer)
        function = surface.function()
        assert [await function(1), await function(1)] == [1, 1]
        assert len(surface.runs) == 1


@pytest.mark.reference_fault(24)
async def test_an_unreachable_server_and_tls_on_a_plain_port_are_connection_errors_in_time(kind, any_server):
    kinds = {"async": AsyncRedisPersistenceLayer, "plain": RedisPersistenceLayer}
    for url in ("redis://127.0.0.1:1/0", any_server.url.replace("redis://", "rediss://")):
        layer = kinds[kind].from_url(url, timeout_seconds=0.5)
        surface = Surface(kind, layer)
        with pytest.raises(IdempotencyPersistenceConnectionError) as caught:
            await surface.call(surface.function(), 1)
        assert caught.value.__cause__ is not None
        assert surface.runs == []
        await layer.aclose() if kind == "async" else layer.close()
    with pytest.raises(IdempotencyConfigurationError):
        RedisConnection(url="redis://a:1/0", host="b")


@pytest.mark.reference_fault(25)
async def test_not_a_number_comes_back_as_it_was(stored):
    async def body(payload):
        return [math.nan, math.inf]

    function = stored.function(body)
    for _ in range(2):
        nan, infinity = await stored.call(function, 1)
        assert math.isnan(nan)
        assert infinity == math.inf
    assert len(stored.runs) == 1


def test_every_fault_has_its_test(request):
    here = [item for item in request.session.items if item.path == request.path]
    if len(here) < 26:
        pytest.skip("only a part of this module is run")
    shown = {number for item in here for mark in item.iter_markers("reference_fault") for number in mark.args}
    assert shown == set(range(1, 26))
