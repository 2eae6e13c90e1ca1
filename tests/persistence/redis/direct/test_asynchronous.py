"""The async direct path: callers share a connection, and large commands and pipelines go on others."""

import asyncio
import gc
import os
import warnings
import weakref
from contextlib import suppress
from random import Random

import pytest
import redis
import redis.asyncio

from idempotency_mw.core.record import Acquired
from idempotency_mw.persistence.redis import AsyncRedisPersistenceLayer
from idempotency_mw.persistence.redis.commands import RAW
from tests.persistence.driven import a_claim
from tests.persistence.redis.direct.async_talk import connections, direct, echo, let_time_pass, timers
from tests.proxy import Proxy

LARGE = 10 << 20


async def test_a_thousand_callers_share_a_connection_and_each_gets_its_own_reply(server):
    async with direct(server.url) as client:
        for turn in range(3):
            await asyncio.gather(*(echo(client, f"{turn} {caller}") for caller in range(1000)))
        assert connections(client) == 1


async def test_what_callers_ask_at_a_time_goes_in_one_write(any_server):
    with Proxy(any_server.port) as proxy:
        async with direct(proxy.url) as client:
            await asyncio.gather(*(echo(client, f"first {caller}") for caller in range(50)))
            begun = len(proxy.requests)
            await asyncio.gather(*(echo(client, f"second {caller}") for caller in range(50)))
            assert len(proxy.requests) == begun + 1


@pytest.mark.parametrize("protocol", [2, 3])
async def test_no_reply_goes_astray_when_callers_are_cancelled_at_any_moment(server, protocol):
    random = Random(protocol)
    done = 0

    async def caller(client, number):
        nonlocal done
        for turn in range(20):
            size = random.choice([1, 100, 10_000, 100_000]) if turn % 5 == 0 else 1
            await echo(client, f"{number} {turn} " + "x" * size)
            done += 1

    async with direct(server.url, protocol=protocol) as client:
        for _ in range(3):
            callers = [asyncio.ensure_future(caller(client, number)) for number in range(200)]
            while not all(each.done() for each in callers):
                for each in random.sample(callers, 10):
                    each.cancel()
                await asyncio.sleep(random.choice([0, 0, 0.001, 0.003]))
            for each in await asyncio.gather(*callers, return_exceptions=True):
                assert each is None or isinstance(each, asyncio.CancelledError | redis.ConnectionError), each
        assert done > 100
        await asyncio.gather(*(echo(client, f"after {caller}") for caller in range(100)))
        assert connections(client) <= 17


@pytest.mark.fault(2)
@pytest.mark.parametrize("action", ["hang reply", "hang request", "drop reply", "cut reply", "cut request"])
async def test_a_connection_that_hangs_or_breaks_costs_no_caller_its_answer(any_server, action):
    with Proxy(any_server.port) as proxy:
        async with AsyncRedisPersistenceLayer.from_url(proxy.url, timeout_seconds=2.0, direct=True) as layer:
            await layer.acquire(a_claim())
            proxy.when(b"EVALSHA", action)
            assert await asyncio.gather(*(layer.acquire(a_claim()) for _ in range(20))) == [Acquired(1)] * 20


async def test_claims_of_callers_who_leave_one_by_one_are_released_though_their_connection_closes(any_server):
    with Proxy(any_server.port) as proxy:
        async with AsyncRedisPersistenceLayer.from_url(proxy.url, direct=True) as layer:
            known, claims = a_claim(), [a_claim() for _ in range(3)]
            await layer.acquire(known)
            await layer.release(known)
            proxy.when(b"EVALSHA", "delay reply", seconds=0.1)
            first = asyncio.ensure_future(layer.acquire(known))
            await asyncio.sleep(0)
            proxy.when(claims[0].token.encode(), "hang reply")
            others = [asyncio.ensure_future(layer.acquire(claim)) for claim in claims]
            await first
            while proxy.planned:
                await asyncio.sleep(0.01)
            for each in others:
                each.cancel()
                await asyncio.sleep(0.01)
            await layer.until_released(2.0)
            with any_server.client() as store:
                assert not any(store.exists(layer.key_prefix + claim.storage_key) for claim in claims)


async def test_closing_waits_for_its_own_loops_releases_while_another_loop_begins_one(any_server):
    class Elsewhere:
        """A release on another loop. Another one begins there when it is asked for its loop."""

        def get_loop(self):
            releases.add(object())

    async with AsyncRedisPersistenceLayer.from_url(any_server.url, direct=True) as layer:
        releases = layer._in_doubt  # the only way to make the other loop's thread add one in that moment
        releases.add(Elsewhere())
        await layer.until_released(2.0)
        assert len(releases) == 2
        releases.clear()


async def test_a_release_that_gets_no_answer_is_given_up_when_the_time_to_wait_for_it_is_over(any_server):
    with Proxy(any_server.port) as proxy:
        async with AsyncRedisPersistenceLayer.from_url(proxy.url, timeout_seconds=60, direct=True) as layer:
            await layer.extend(a_claim())
            proxy.when(b"EVALSHA", "hang reply")
            acquiring = asyncio.ensure_future(layer.acquire(a_claim()))
            while proxy.planned:
                await asyncio.sleep(0.01)
            proxy.when(b"", "hang request", times=None)
            acquiring.cancel()
            await asyncio.wait([acquiring])
            assert len(asyncio.all_tasks()) > 1
            async with asyncio.timeout(5):
                await layer.until_released(0.1)
            assert asyncio.all_tasks() == {asyncio.current_task()}
            assert timers() == []


async def test_a_large_command_or_reply_goes_beside_small_ones(any_server):
    body = os.urandom(LARGE)

    async def large(client):
        for _ in range(3):
            assert await client.execute_command("SET", "large", body, **RAW) == b"OK"
            assert await client.execute_command("GET", "large", **RAW) == body

    async def small(client, until):
        turn = 0
        while not until.done():
            await echo(client, f"small {turn}")
            turn += 1
        return turn

    async with direct(any_server.url) as client:
        sent = asyncio.gather(*(large(client) for _ in range(3)))
        assert await small(client, sent) > 3
        await sent
        assert connections(client) <= 4
        await client.execute_command("DEL", "large", **RAW)


async def test_large_commands_wait_in_line_for_sixteen_connections(any_server):
    async with direct(any_server.url) as client:
        await asyncio.gather(*(echo(client, f"{caller:02}" * 40_000) for caller in range(100)))
        assert connections(client) == 16


async def test_several_commands_together_are_one_message_and_an_error_among_them_is_a_value(any_server):
    with Proxy(any_server.port) as proxy:
        async with direct(proxy.url) as client:
            await client.send_pipeline([("PING",)])
            begun = len(proxy.requests)
            first, second, third = await client.send_pipeline(
                [("SET", "list", memoryview(b"text")), ("LPUSH", "list", "x"), ("GETDEL", "list")]
            )
            assert (first, third) == (b"OK", b"text")
            assert isinstance(second, redis.ResponseError)
            assert len(proxy.requests) == begun + 1


async def test_a_wait_keeps_nobody_else_waiting(any_server):
    async with direct(any_server.url) as client:
        replicated = asyncio.ensure_future(
            client.send_pipeline([("SET", "k", "v"), ("WAIT", 1, 1000), ("DEL", "k")])
        )
        await asyncio.gather(*(echo(client, f"{caller}") for caller in range(50)))
        assert not replicated.done()
        assert await replicated == [b"OK", 0, 1]


async def test_commands_together_whose_connection_breaks_are_an_error(any_server):
    with Proxy(any_server.port) as proxy:
        async with direct(proxy.url) as client:
            proxy.when(b"ECHO", "cut reply")
            with pytest.raises(redis.ConnectionError):
                await client.send_pipeline([("ECHO", "a"), ("ECHO", "b")])
            assert await client.send_pipeline([("ECHO", "a"), ("ECHO", "b")]) == [b"a", b"b"]


async def test_commands_together_that_are_cancelled_close_their_connection(any_server):
    async with direct(any_server.url) as client:
        for _ in range(3):
            waiting = asyncio.ensure_future(client.send_pipeline([("ECHO", "a"), ("WAIT", 1, 5000)]))
            await asyncio.sleep(0.05)
            waiting.cancel()
            with suppress(asyncio.CancelledError):
                await waiting
            assert connections(client) == 0
        assert await client.send_pipeline([("ECHO", "b")]) == [b"b"]


async def test_a_connection_that_was_idle_so_long_that_a_firewall_may_have_forgotten_it_is_not_used(any_server):
    with Proxy(any_server.port) as proxy:
        async with direct(proxy.url) as client:
            await asyncio.gather(*(client.send_pipeline([("ECHO", "a")]) for _ in range(3)))
            let_time_pass(31)
            proxy.freeze()
            async with asyncio.timeout(2):
                assert await client.send_pipeline([("ECHO", "b")]) == [b"b"]
            assert connections(client) == 1


def loops():
    """Return what makes event loops here."""
    found = {"asyncio": asyncio.new_event_loop}
    with suppress(ImportError):
        import uvloop

        found["uvloop"] = uvloop.new_event_loop
    return found


@pytest.mark.parametrize("loop", loops())
def test_it_runs_on_every_event_loop(any_server, loop):
    async def all_of_it():
        async with direct(any_server.url) as client:
            await asyncio.gather(*(echo(client, f"{caller}") for caller in range(200)))
            await echo(client, "x" * LARGE)
            cancelled = asyncio.ensure_future(client.send_pipeline([("WAIT", 1, 5000)]))
            await asyncio.sleep(0.05)
            cancelled.cancel()
            await asyncio.wait([cancelled])
            await echo(client, "after")

    with asyncio.Runner(loop_factory=loops()[loop]) as runner:
        runner.run(all_of_it())


def test_a_loop_that_is_closed_while_clients_are_open_causes_no_warning(any_server):
    layer = AsyncRedisPersistenceLayer.from_url(any_server.url, direct=True)

    async def ask_and_leave(*, under_way):
        await asyncio.gather(*(layer.acquire(a_claim()) for _ in range(5)))
        left = [asyncio.ensure_future(layer.extend(a_claim())) for _ in range(under_way)]
        await asyncio.sleep(0)
        return left

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for under_way in (0, 5, 0):
            asyncio.run(ask_and_leave(under_way=under_way))
            gc.collect()
        asyncio.run(used_and_closed(layer))
        gc.collect()


def test_loops_on_which_callers_waited_in_line_are_forgotten_once_they_are_closed(any_server):
    layer = AsyncRedisPersistenceLayer.from_url(any_server.url, direct=True)
    loops_used = []

    async def wait_in_line():
        loops_used.append(weakref.ref(asyncio.get_running_loop()))
        async with layer:
            claims = [a_claim() for _ in range(20)]
            await asyncio.gather(*(layer.complete(claim, b"x" * 10_000) for claim in claims))

    with asyncio.Runner() as open_yet:
        open_yet.run(wait_in_line())
        for _ in range(3):
            asyncio.run(wait_in_line())
        open_yet.run(wait_in_line())
        gc.collect()
        _, *closed, _, _ = loops_used
        assert [each() for each in closed] == [None, None]  # the last one is forgotten when the next loop comes


async def used_and_closed(layer):
    async with layer:
        assert await layer.acquire(a_claim()) == Acquired(1)
