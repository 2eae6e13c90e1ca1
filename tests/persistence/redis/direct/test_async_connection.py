"""A shared connection: each reply goes to its caller, whatever happens, and each deadline is kept."""

import asyncio
import math
import time

import pytest
import redis
import redis.asyncio

from idempotency_mw.persistence.redis import AsyncRedisPersistenceLayer
from idempotency_mw.persistence.redis.commands import RAW
from idempotency_mw.persistence.redis.direct.resp import packed
from tests.persistence.driven import a_claim
from tests.persistence.redis.direct.async_talk import connections, direct, echo, relay, timers
from tests.proxy import Proxy


async def test_a_reply_that_comes_slowly_is_not_taken_for_silence(any_server):
    patience = 0.2
    async with (
        relay(any_server.port, pause=patience / 4) as (port, _),
        direct(f"redis://127.0.0.1:{port}", timeout=2 * patience) as client,
    ):
        await echo(client, "first")
        connection = client._shared
        await echo(client, "slow" * 150)  # seven pieces, which take longer than the patience
        assert client._shared is connection


async def test_a_reply_that_is_lost_never_makes_the_next_one_pass_for_it(any_server):
    def without_the_seventh(reply):
        return reply.replace(b"$2\r\n07\r\n", b"")

    async with (
        relay(any_server.port, without_the_seventh) as (port, _),
        direct(f"redis://127.0.0.1:{port}", timeout=0.4) as client,
    ):
        await echo(client, "connected")
        callers = (echo(client, f"{caller:02}") for caller in range(20))
        replies = await asyncio.gather(*callers, return_exceptions=True)
        assert replies[7] is not None
        assert all(each is None or isinstance(each, redis.ConnectionError) for each in replies)


@pytest.mark.parametrize("more", [b"+OK\r\n", b"?\r\n"])
async def test_a_connection_on_which_the_server_says_more_than_it_was_asked_is_not_used_again(any_server, more):
    async with relay(any_server.port) as (port, clients), direct(f"redis://127.0.0.1:{port}") as client:
        await echo(client, "before")
        clients[0].write(more)
        while connections(client):
            await asyncio.sleep(0.01)
        await echo(client, "after")


@pytest.mark.parametrize("protocol", [2, 3])
async def test_an_error_that_ends_the_connection_goes_to_the_caller_whose_reply_it_is(any_server, protocol):
    async with (
        relay(any_server.port, lambda reply: reply.replace(b"$3\r\nbad", b"-NOAUTH Authentication required.")) as (
            port,
            _,
        ),
        direct(f"redis://127.0.0.1:{port}", protocol=protocol) as client,
    ):
        await echo(client, "good")
        asked = [echo(client, "good"), echo(client, "bad"), echo(client, "good")]
        first, refused, last = await asyncio.gather(*asked, return_exceptions=True)
        assert first is None
        assert type(refused) is redis.AuthenticationError
        assert type(last) is redis.ConnectionError
        await echo(client, "good")


async def test_an_unreadable_reply_is_an_error_and_the_next_call_goes_on_another_connection(any_server):
    async with (
        relay(any_server.port, lambda reply: reply.replace(b"$3\r\nbad", b"?3\r\nbad")) as (port, _),
        direct(f"redis://127.0.0.1:{port}") as client,
    ):
        await echo(client, "good")
        with pytest.raises(redis.RedisError):
            await echo(client, "bad")
        await echo(client, "good")


async def test_a_slow_answer_is_waited_for(any_server):
    with Proxy(any_server.port) as proxy:
        async with direct(proxy.url, timeout=2.0) as client:  # a second may pass in silence
            await echo(client, "connected")
            await asyncio.sleep(0.6)
            proxy.when(b"slow", "delay reply", seconds=0.6)
            await asyncio.gather(echo(client, "slow"), *(echo(client, f"{caller}") for caller in range(20)))
            assert connections(client) == 1


async def test_a_connection_whose_callers_are_all_gone_is_closed(any_server):
    with Proxy(any_server.port) as proxy:
        async with direct(proxy.url) as client:
            await echo(client, "connected")
            proxy.when(b"ECHO", "hang reply")
            caller = asyncio.ensure_future(echo(client, "nobody waits for this"))
            await asyncio.sleep(0.05)
            later = asyncio.ensure_future(echo(client, "waits for its turn"))
            await asyncio.sleep(0)
            caller.cancel()
            with pytest.raises(redis.ConnectionError, match="nobody"):
                await later
            assert connections(client) == 0
            await echo(client, "after")


async def test_a_caller_whose_turn_has_not_come_when_the_connection_ends_gets_an_error(any_server):
    async with direct(any_server.url) as client:
        await asyncio.gather(*(echo(client, f"{caller}") for caller in range(3)))
        answer = client._shared.ask(packed(("PING",)))
        client._shared.end("for the test")
        assert isinstance(await answer, redis.ConnectionError)
        await echo(client, "after")


@pytest.mark.parametrize("were_many", [False, True])
async def test_a_caller_that_asks_before_the_end_of_the_connection_is_reported_gets_an_error(
    any_server, were_many
):
    async with direct(any_server.url) as client:
        await asyncio.gather(*(echo(client, f"{caller}") for caller in range(3 if were_many else 1)))
        connection = client._shared
        connection._transport.close()  # as asyncio does when it reads the end
        answer = connection.ask(packed(("PING",)), asyncio.get_running_loop().time() + 60)
        if were_many:
            connection._begin()
        assert answer.done()
        assert isinstance(await answer, redis.ConnectionError)
        assert timers() == []
        await echo(client, "after")


async def test_each_caller_waits_until_its_own_deadline_on_a_connection_that_goes_on(any_server):
    clock = asyncio.get_running_loop().time
    with Proxy(any_server.port) as proxy:
        async with direct(proxy.url) as client:
            await asyncio.gather(*(echo(client, f"{caller}") for caller in range(3)))
            connection = client._shared
            proxy.when(b"", "delay reply", seconds=1.0)
            command, begun = packed(("ECHO", "late")), clock()
            late, early, waits, gone = (
                connection.ask(command, begun + seconds) for seconds in (5.0, 0.1, 0.6, 0.1)
            )
            gone.cancel()
            assert isinstance(await early, TimeoutError)
            assert clock() >= begun + 0.1
            assert not waits.done()
            assert connection._alarm.when > begun + 0.1  # and does not look again and again
            assert isinstance(await waits, TimeoutError)
            assert clock() >= begun + 0.6
            assert (await late, connection.is_open) == (b"late", True)
            assert connection._exchanges.next_deadline == math.inf


async def test_a_deadline_that_ends_as_an_earlier_reply_comes_leaves_later_deadlines(any_server):
    clock = asyncio.get_running_loop().time
    with Proxy(any_server.port) as proxy:
        async with direct(proxy.url) as client:
            await echo(client, "connected")
            connection, command = client._shared, packed(("ECHO", "x"))
            first, second = connection.ask(command, clock() + 5.0), connection.ask(command, clock() + 0.05)
            time.sleep(0.1)  # whose code keeps the loop finds both at once: the reply, and the second's deadline
            proxy.freeze()
            assert (await first, type(await second)) == (b"x", TimeoutError)
            async with asyncio.timeout(2):
                assert isinstance(await connection.ask(command, clock() + 0.1), TimeoutError)


async def test_a_connection_closes_when_the_deadlines_of_all_callers_are_over(any_server):
    with Proxy(any_server.port) as proxy:
        async with direct(proxy.url) as client:
            await echo(client, "connected")
            proxy.when(b"ECHO", "hang reply")
            command = packed(("ECHO", "x"))
            asking = client.connection_for(command).ask(command, asyncio.get_running_loop().time() + 0.1)
            assert isinstance(await asking, TimeoutError)
            assert connections(client) == 0
            assert timers() == []


async def test_a_process_that_is_frozen_while_nobody_asks_has_no_timer_on_its_loop(any_server):
    async with AsyncRedisPersistenceLayer.from_url(any_server.url, direct=True) as layer:
        await asyncio.gather(*(layer.extend(a_claim()) for _ in range(5)))
        await layer.extend(a_claim())
        await layer.until_released(1)
        assert timers() == []
        assert await layer.extend(a_claim()) is False


async def test_a_connection_that_is_told_to_rest_keeps_its_timer_while_somebody_waits(any_server):
    async with direct(any_server.url) as client:
        client.rest()  # before it is connected
        await echo(client, "connected")
        client.rest()
        assert timers() == []
        asking = asyncio.ensure_future(echo(client, "asked"))
        await asyncio.sleep(0)
        client.rest()
        assert len(timers()) == 1
        await asking


async def test_a_connection_that_rests_has_one_timer_which_is_gone_after_a_moment(any_server):
    async with direct(any_server.url, timeout=0.2) as client:
        for number in range(5):
            await echo(client, f"{number}")
        assert len(timers()) == 1
        await asyncio.sleep(0.15)
        assert timers() == []
        await echo(client, "after")
        assert connections(client) == 1


@pytest.mark.parametrize("were_many", [False, True])
async def test_a_connection_that_rested_for_longer_than_its_patience_is_not_silent(any_server, were_many):
    clock = asyncio.get_running_loop().time
    async with direct(any_server.url, timeout=0.1) as client:
        await asyncio.gather(*(echo(client, f"{caller}") for caller in range(3 if were_many else 1)))
        connection = client._shared
        connection._heard -= 60
        answer = connection.ask(packed(("ECHO", "x")), clock() + 5)
        connection._look()  # as a timer does that was set before
        assert len(timers()) == 1
        assert (await answer, connection.is_open) == (b"x", True)


async def test_an_error_reply_is_raised_where_it_belongs(server):
    async with direct(server.url) as client:
        asked = [client.execute_command("EVALSHA", "0" * 40, 0, **RAW), echo(client, "fine")]
        missing, fine = await asyncio.gather(*asked, return_exceptions=True)
        assert isinstance(missing, redis.exceptions.NoScriptError)
        assert fine is None
        assert connections(client) == 1


READONLY = b"-READONLY You can't write against a read only replica.\r\n"


@pytest.mark.parametrize("is_together", [False, True], ids=["shared", "alone"])
async def test_a_connection_to_a_server_that_became_a_replica_is_closed_and_later_calls_use_another(
    any_server, is_together
):
    with Proxy(any_server.port) as proxy:
        async with direct(proxy.url) as client:
            await echo(client, "connected")
            if is_together:
                await client.send_pipeline([("ECHO", "x")])
            before = connections(client)
            proxy.when(b"ECHO", "answer request", reply=READONLY)
            if is_together:
                assert [type(each) for each in await client.send_pipeline([("ECHO", "x")])] == [
                    redis.ReadOnlyError
                ]
            else:
                with pytest.raises(redis.ReadOnlyError):
                    await echo(client, "refused")
            assert connections(client) == before - 1
            await echo(client, "after")
