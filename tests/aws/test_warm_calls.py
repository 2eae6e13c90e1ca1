"""Warm calls of one environment: its event loop, its connection, and a loop that was closed or replaced."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest

from idempotency_mw import IdempotencyConfig
from idempotency_mw.testing.harness import a_claim
from tests.aws.invoking import Orders, invoke, keyed, mangum

LIFESPANS = ["off", "auto", "on"]


@pytest.mark.row(109)
@pytest.mark.parametrize("lifespan", LIFESPANS)
@pytest.mark.parametrize("use_local_cache", [False, True], ids=["plain", "cached"])
def test_warm_calls_run_and_replay_in_every_lifespan_mode(store, lifespan, use_local_cache, silence):
    app = Orders()
    handler = mangum(app, store, lifespan=lifespan, config=IdempotencyConfig(use_local_cache=use_local_cache))
    first, again, other = (invoke(handler, keyed(key)) for key in ("a", "a", "b"))
    assert [first.status, again.status, other.status] == [201, 201, 201]
    assert [first.is_replay, again.is_replay, other.is_replay] == [False, True, False]
    assert again.body == first.body
    assert len(app.runs) == 2
    assert len(app.lifespans) == (0 if lifespan == "off" else 6)


@pytest.mark.row(109)
@pytest.mark.parametrize("lifespan", LIFESPANS)
def test_three_warm_calls_use_one_connection_made_by_the_first(valkey, any_server, lifespan):
    handler = mangum(Orders(), valkey, lifespan=lifespan)
    made = [valkey.connections(any_server)]
    for key in ("a", "a", "b"):
        invoke(handler, keyed(key))
        made.append(valkey.connections(any_server))
    assert made[0] == []
    assert len(made[1]) == 1
    assert made[1] == made[2] == made[3]


@pytest.mark.row(109)
def test_a_lifespan_that_closes_the_store_costs_one_connection_for_each_call(valkey, any_server, silence):
    async def close_at_shutdown(stage):
        if stage == "shutdown":
            await valkey.aclose()

    app = Orders(on_lifespan=close_at_shutdown)
    handler = mangum(app, valkey, lifespan="on")
    for _ in range(3):
        assert invoke(handler, keyed("a")).status == 201
        assert valkey.connections(any_server) == []
    assert len(app.runs) == 1


@pytest.mark.row(109)
def test_a_connection_cut_while_the_environment_was_frozen_is_replaced(valkey, any_server, silence):
    handler = mangum(Orders(), valkey)
    invoke(handler, keyed("a"))
    [cut] = valkey.connections(any_server)
    with any_server.client() as client:
        client.client_kill_filter(_id=cut)
    assert invoke(handler, keyed("a")).is_replay
    [made] = valkey.connections(any_server)
    assert made != cut


def closed(loop):
    loop.close()
    asyncio.set_event_loop(asyncio.new_event_loop())


def closed_by_asyncio_run(loop):
    asyncio.run(asyncio.sleep(0))
    closed(loop)


def replaced(loop):
    asyncio.set_event_loop(asyncio.new_event_loop())


@pytest.mark.row(110)
@pytest.mark.parametrize("change", [closed, closed_by_asyncio_run, replaced])
def test_every_store_still_replays_after_the_loop_was_closed_or_replaced(store, change, silence):
    app = Orders()
    handler = mangum(app, store)
    for _ in range(3):
        loop = asyncio.get_event_loop()
        assert invoke(handler, keyed("a")).status == 201
        change(loop)
        asyncio.get_event_loop().run_until_complete(asyncio.sleep(0))
        loop.close()
    assert len(app.runs) == 1
    asyncio.get_event_loop().close()


@pytest.mark.row(110)
@pytest.mark.parametrize("change", [closed, closed_by_asyncio_run, replaced])
def test_after_its_loop_is_gone_a_call_gets_a_new_connection_and_the_old_one_causes_no_warning(
    valkey, any_server, change, silence
):
    app = Orders()
    handler = mangum(app, valkey)
    seen = []
    loops = [asyncio.get_event_loop()]
    for _ in range(3):
        assert invoke(handler, keyed("a")).status == 201
        seen += valkey.connections(any_server)
        change(asyncio.get_event_loop())
        loops.append(asyncio.get_event_loop())
    assert len(seen) == len(set(seen)) == 3
    assert len(app.runs) == 1
    for loop in loops:
        loop.close()


@pytest.mark.row(110)
def test_a_handler_with_one_asyncio_run_per_call_leaves_at_most_one_connection(valkey, any_server, silence):
    for _ in range(3):
        with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:  # what asyncio.run does, in steps
            runner.run(valkey.acquire(a_claim()))
        assert len(valkey.connections(any_server)) == 1


@pytest.mark.row(110)
def test_a_loop_that_runs_again_after_another_one_gets_a_new_connection(valkey, any_server, silence):
    first, second = asyncio.new_event_loop(), asyncio.new_event_loop()
    for loop in (first, second, first, second):
        loop.run_until_complete(valkey.acquire(a_claim()))
        assert len(valkey.connections(any_server)) == 1
    first.close()
    second.close()


@pytest.mark.row(110)
def test_closing_the_layer_closes_the_connections_of_closed_loops(valkey, any_server, silence):
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        runner.run(valkey.acquire(a_claim()))
    assert len(valkey.connections(any_server)) == 1
    asyncio.run(valkey.aclose())
    assert valkey.connections(any_server) == []


@pytest.mark.row(109, 110)
def test_the_idle_loop_of_another_thread_keeps_its_connection(valkey, any_server, loop):
    with ThreadPoolExecutor(1) as thread:
        other = asyncio.new_event_loop()
        thread.submit(other.run_until_complete, valkey.acquire(a_claim())).result()
        before = valkey.connections(any_server)
        loop.run_until_complete(valkey.acquire(a_claim()))
        assert set(before) < set(valkey.connections(any_server))
        thread.submit(other.run_until_complete, valkey.aclose()).result()
        other.close()


def test_a_verb_on_a_dropped_connection_is_retried_when_its_loop_runs_again(valkey, any_server, silence):
    waiting, other = asyncio.new_event_loop(), asyncio.new_event_loop()
    waiting.run_until_complete(valkey.acquire(a_claim()))
    [stuck] = valkey.connections(any_server)
    with any_server.client() as client:
        client.client_pause(300, all=True)
    task = waiting.create_task(valkey.acquire(a_claim()))
    waiting.run_until_complete(asyncio.sleep(0.05))  # the command is sent, its reply is missing
    other.run_until_complete(valkey.acquire(a_claim()))
    assert stuck not in valkey.connections(any_server)
    waiting.run_until_complete(task)  # it is sent again on a new connection
    other.close()
    waiting.run_until_complete(valkey.aclose())
    waiting.close()
