"""A shared connection: each reply goes to its caller, whatever happens, and each deadline is kept."""

import asyncio
import time

import pytest
import redis
import redis.asyncio

from idempotency_mw.persistence.redis import AsyncRedisPersistenceLayer
from idempotency_mw.persistence.redis.commands import RAW
from idempotency_mw.persistence.redis.direct.resp import packed
from idempotency_mw.persistence.redis.redis_py import lent_by, transport_of
from tests.persistence.driven import a_claim
from tests.persistence.redis.direct.async_talk import (
    connections,
    direct,
    echo,
    let_time_pass,
    relay,
    shared,
    timers,
)
from tests.proxy import Proxy


async def test_a_reply_that_comes_slowly_is_not_taken_for_silence(any_server):
    patience = 0.2
    async with (
        relay(any_server.port, pause=patience / 4) as (port, _),
        direct(f"redis://127.0.0.1:{port}", timeout=2 * patience) as client,
    ):
        await echo(client, "first")
        connection = shared(client)
        await echo(client, "slow" * 150)  # seven pieces, which take longer than the patience
        assert shared(client) is connection


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


@pytest.mark.parametrize("more", [b"+OK\r\n", b"?\r\n", b">2\r\n+invalidate\r\n*0\r\n"])
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
        answer = shared(client).ask(packed(("PING",)))
        shared(client).end("for the test")
        assert isinstance(await answer, redis.ConnectionError)
        await echo(client, "after")


@pytest.mark.parametrize("were_many", [False, True])
async def test_a_caller_that_asks_before_the_end_of_the_connection_is_reported_gets_an_error(
    any_server, were_many
):
    loop, was_done = asyncio.get_running_loop(), []
    async with direct(any_server.url) as client:
        await asyncio.gather(*(echo(client, f"{caller}") for caller in range(3 if were_many else 1)))
        (made,) = lent_by(client.connection_pool)
        if not were_many:  # else the command is sent in the loop's next turn
            transport_of(made).close()  # as asyncio does when it reads the end
        answer = shared(client).ask(packed(("PING",)), loop.time() + 60)
        if were_many:
            loop.call_soon(lambda: was_done.append(answer.done()))
            transport_of(made).close()
        else:
            was_done.append(answer.done())
        assert isinstance(await answer, redis.ConnectionError)
        assert was_done == [True]
        assert timers() == []
        await echo(client, "after")


async def test_each_caller_waits_until_its_own_deadline_on_a_connection_that_goes_on(any_server):
    clock = asyncio.get_running_loop().time
    with Proxy(any_server.port) as proxy:
        async with direct(proxy.url) as client:
            await asyncio.gather(*(echo(client, f"{caller}") for caller in range(3)))
            connection = shared(client)
            proxy.when(b"", "delay reply", seconds=1.0)
            command, begun = packed(("ECHO", "late")), clock()
            late, early, waits, gone = (
                connection.ask(command, begun + seconds) for seconds in (60.0, 0.1, 0.6, 0.1)
            )
            gone.cancel()
            assert isinstance(await early, TimeoutError)
            assert clock() >= begun + 0.1
            assert not waits.done()
            assert [timer.when() > begun + 0.1 for timer in timers()] == [True]  # and does not look all the time
            assert isinstance(await waits, TimeoutError)
            assert clock() >= begun + 0.6
            assert (await late, connection.is_open) == (b"late", True)
            let_time_pass(6)  # until the timer has rung that was set while replies were due
            await asyncio.sleep(0.01)
            assert timers() == []  # none for the deadline of a caller that has its reply


async def test_a_deadline_that_ends_as_an_earlier_reply_comes_leaves_later_deadlines(any_server):
    clock = asyncio.get_running_loop().time
    with Proxy(any_server.port) as proxy:
        async with direct(proxy.url) as client:
            await echo(client, "connected")
            connection, command = shared(client), packed(("ECHO", "x"))
            first, second = connection.ask(command, clock() + 5.0), connection.ask(command, clock() + 0.05)
            time.sleep(0.1)  # the loop is busy, and finds the reply and the end of the second deadline together
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
    async with direct(any_server.url, timeout=0.1) as client:
        await asyncio.gather(*(echo(client, f"{caller}") for caller in range(3 if were_many else 1)))
        connection = shared(client)
        let_time_pass(60)
        await asyncio.sleep(0)  # from here on the timer that was set before rings in this turn of the loop
        answer = connection.ask(packed(("ECHO", "x")), asyncio.get_running_loop().time() + 5)
        await asyncio.sleep(0)
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


async def test_what_a_server_says_after_it_became_a_replica_goes_to_nobody(any_server):
    async with (
        relay(any_server.port, lambda reply: reply.replace(b"$3\r\nbad\r\n", READONLY + b"$5\r\nstale\r\n")) as (
            port,
            _,
        ),
        direct(f"redis://127.0.0.1:{port}") as client,
    ):
        await echo(client, "good")
        refused, later = await asyncio.gather(echo(client, "bad"), echo(client, "good"), return_exceptions=True)
        assert isinstance(refused, redis.ReadOnlyError)
        assert isinstance(later, redis.ConnectionError)
        await echo(client, "after")


async def test_a_push_message_is_not_taken_for_the_reply_that_is_due(any_server):
    push = b">2\r\n+invalidate\r\n*0\r\n"
    async with (
        relay(any_server.port, lambda reply: reply.replace(b"$3\r\nbad", push + b"$3\r\nbad")) as (port, _),
        direct(f"redis://127.0.0.1:{port}") as client,
    ):
        await echo(client, "good")
        with pytest.raises(redis.ConnectionError, match="nobody had asked for"):
            await echo(client, "bad")
        await echo(client, "after")
