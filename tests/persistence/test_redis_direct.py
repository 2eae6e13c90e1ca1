"""The direct path to a standalone server: each reply goes to its caller, whatever happens to the connection."""

import asyncio
import gc
import math
import os
import ssl
import time
import warnings
from contextlib import asynccontextmanager, suppress
from random import Random

import pytest
import redis
import redis.asyncio
from redis.backoff import NoBackoff
from redis.credentials import UsernamePasswordCredentialProvider
from redis.retry import Retry

from idempotency_mw.core.record import Acquired
from idempotency_mw.errors import IdempotencyPersistenceLayerError
from idempotency_mw.persistence.redis import AsyncRedisPersistenceLayer, RedisConnection
from idempotency_mw.persistence.redis.clients.asynchronous import async_client
from idempotency_mw.persistence.redis.clients.closing import closers
from idempotency_mw.persistence.redis.commands import RAW
from idempotency_mw.persistence.redis.direct.async_connection import Connection
from idempotency_mw.persistence.redis.direct.asynchronous import DirectRedis, can_be_direct
from idempotency_mw.persistence.redis.direct.resp import packed
from tests.persistence.driven import a_claim
from tests.proxy import Proxy
from tests.servers import RedisServer

LARGE = 10 << 20


@asynccontextmanager
async def direct(url, timeout=10.0, **options):
    """Yield a direct client for this loop, and close it."""
    client = async_client(RedisConnection(url=url), timeout, direct=True, **options)
    assert isinstance(client, DirectRedis)
    try:
        yield client
    finally:
        for close in closers(client):
            await close()


async def echo(client, text):
    """Ask for the text back; a reply that is another's is no reply."""
    reply = await client.execute_command("ECHO", text, **RAW)
    assert reply == text.encode()


def connections(client):
    return len(client.connection_pool._in_use_connections)


@asynccontextmanager
async def relay(port, edit=lambda reply: reply, pause=0.0, **options):
    """Stand before a port, and pass each reply through `edit`. Yields where it listens, and who is connected.

    With a pause a long reply comes in pieces.
    """
    clients = []

    async def serve(reader, writer):
        clients.append(writer)
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", port)
        back = asyncio.ensure_future(pump(server_reader, writer, edit, pause))
        await pump(reader, server_writer, lambda request: request)
        await back

    listener = await asyncio.start_server(serve, "127.0.0.1", 0, **options)
    try:
        yield listener.sockets[0].getsockname()[1], clients
    finally:
        listener.close()
        for writer in clients:
            writer.transport.abort()
        await asyncio.sleep(0.05)


async def pump(reader, writer, edit, pause=0.0):
    with suppress(OSError):
        while came := await reader.read(1 << 20):
            data = edit(came)
            size = 100 if pause and len(data) > 500 else max(len(data), 1)
            for start in range(0, len(data), size):
                writer.write(data[start : start + size])
                await writer.drain()
                await asyncio.sleep(pause if size < len(data) else 0)
    writer.transport.abort()


async def test_a_thousand_callers_share_a_connection_and_each_gets_its_own_reply(server):
    async with direct(server.url) as client:
        for turn in range(3):
            await asyncio.gather(*(echo(client, f"{turn} {caller}") for caller in range(1000)))
        assert connections(client) == 1


async def test_a_reply_that_comes_slowly_is_no_silence(any_server):
    patience = 0.2
    async with (
        relay(any_server.port, pause=patience / 4) as (port, _),
        direct(f"redis://127.0.0.1:{port}", timeout=2 * patience) as client,
    ):
        await echo(client, "first")
        wire = client._shared
        await echo(client, "slow" * 150)  # seven pieces, which take longer than the patience
        assert client._shared is wire


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
async def test_an_error_that_ends_the_connection_is_that_of_the_caller_whom_it_concerns(any_server, protocol):
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


async def test_what_is_no_reply_is_an_error_and_the_next_call_goes_on_another_connection(any_server):
    async with (
        relay(any_server.port, lambda reply: reply.replace(b"$3\r\nbad", b"?3\r\nbad")) as (port, _),
        direct(f"redis://127.0.0.1:{port}") as client,
    ):
        await echo(client, "good")
        with pytest.raises(redis.RedisError):
            await echo(client, "bad")
        await echo(client, "good")


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
                assert not any(store.exists(layer._key(claim)) for claim in claims)


async def test_closing_waits_for_its_own_loops_releases_while_another_loop_begins_one(any_server):
    class Elsewhere:
        """A release on another loop; just now there comes the next."""

        def get_loop(self):
            layer._in_doubt.add(object())

    async with AsyncRedisPersistenceLayer.from_url(any_server.url, direct=True) as layer:
        layer._in_doubt.add(Elsewhere())
        await layer.until_released(2.0)
        layer._in_doubt.clear()


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


async def test_who_waits_for_a_connection_that_ends_before_its_turn_gets_an_error(any_server):
    async with direct(any_server.url) as client:
        await asyncio.gather(*(echo(client, f"{caller}") for caller in range(3)))
        answer = client._shared.ask(packed(("PING",)))
        client._shared.end("for the test")
        assert isinstance(await answer, redis.ConnectionError)
        await echo(client, "after")


@pytest.mark.parametrize("were_many", [False, True])
async def test_who_asks_between_the_end_of_a_connection_and_the_word_of_it_gets_an_error(any_server, were_many):
    async with direct(any_server.url) as client:
        await asyncio.gather(*(echo(client, f"{caller}") for caller in range(3 if were_many else 1)))
        wire = client._shared
        wire._transport.close()  # as asyncio does when it reads the end
        answer = wire.ask(packed(("PING",)), asyncio.get_running_loop().time() + 60)
        if were_many:
            wire._begin()
        assert answer.done()
        assert isinstance(await answer, redis.ConnectionError)
        assert timers() == []
        await echo(client, "after")


def timers():
    """Return the timers that are armed on this loop."""
    return [timer for timer in asyncio.get_running_loop()._scheduled if not timer.cancelled()]


async def test_each_caller_waits_until_its_own_deadline_on_a_connection_that_goes_on(any_server):
    clock = asyncio.get_running_loop().time
    with Proxy(any_server.port) as proxy:
        async with direct(proxy.url) as client:
            await asyncio.gather(*(echo(client, f"{caller}") for caller in range(3)))
            wire = client._shared
            proxy.when(b"", "delay reply", seconds=0.3)
            command, begun = packed(("ECHO", "late")), clock()
            late, early, waits, gone = (wire.ask(command, begun + seconds) for seconds in (5.0, 0.1, 0.2, 0.1))
            gone.cancel()
            assert isinstance(await early, TimeoutError)
            assert clock() >= begun + 0.1
            assert not waits.done()
            assert wire._alarm.when > begun + 0.1  # and does not look again and again
            assert isinstance(await waits, TimeoutError)
            assert clock() >= begun + 0.2
            assert (await late, wire.is_open) == (b"late", True)
            assert wire._exchanges.next_deadline == math.inf


async def test_a_deadline_that_is_over_as_the_reply_before_it_comes_leaves_those_of_later_callers(any_server):
    clock = asyncio.get_running_loop().time
    with Proxy(any_server.port) as proxy:
        async with direct(proxy.url) as client:
            await echo(client, "connected")
            wire, command = client._shared, packed(("ECHO", "x"))
            first, second = wire.ask(command, clock() + 5.0), wire.ask(command, clock() + 0.05)
            time.sleep(0.1)  # whose code keeps the loop finds both at once: the reply, and the second's deadline
            proxy.freeze()
            assert (await first, type(await second)) == (b"x", TimeoutError)
            async with asyncio.timeout(2):
                assert isinstance(await wire.ask(command, clock() + 0.1), TimeoutError)


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


async def test_a_process_that_is_frozen_while_nobody_asks_has_nothing_on_its_loop(any_server):
    async with AsyncRedisPersistenceLayer.from_url(any_server.url, direct=True) as layer:
        await asyncio.gather(*(layer.extend(a_claim()) for _ in range(5)))
        await layer.extend(a_claim())
        await layer.until_released(1)
        assert timers() == []
        assert await layer.extend(a_claim()) is False


async def test_who_is_to_rest_goes_on_while_somebody_waits(any_server):
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


async def test_the_timer_of_a_connection_that_rests_is_one_and_is_gone_in_a_moment(any_server):
    async with direct(any_server.url, timeout=0.2) as client:
        for number in range(5):
            await echo(client, f"{number}")
        assert len(timers()) == 1
        await asyncio.sleep(0.15)
        assert timers() == []
        await echo(client, "after")
        assert connections(client) == 1


@pytest.mark.parametrize("were_many", [False, True])
async def test_a_rest_that_was_longer_than_the_patience_is_no_silence(any_server, were_many):
    clock = asyncio.get_running_loop().time
    async with direct(any_server.url, timeout=0.1) as client:
        await asyncio.gather(*(echo(client, f"{caller}") for caller in range(3 if were_many else 1)))
        wire = client._shared
        wire._heard -= 60
        answer = wire.ask(packed(("ECHO", "x")), clock() + 5)
        wire._look()  # as a timer does that was set before
        assert len(timers()) == 1
        assert (await answer, wire.is_open) == (b"x", True)


async def test_a_caller_that_is_cancelled_while_it_connects_leaves_the_others_to_connect(any_server):
    with Proxy(any_server.port) as proxy:
        proxy.when(b"", "delay request", seconds=0.1)
        async with direct(proxy.url) as client:
            first = asyncio.ensure_future(echo(client, "first"))
            while not proxy.requests:
                await asyncio.sleep(0.01)
            others = [asyncio.ensure_future(echo(client, f"{caller}")) for caller in range(10)]
            await asyncio.sleep(0)
            first.cancel()
            await asyncio.gather(*others)
            assert connections(client) == 1


async def test_a_connection_that_is_being_made_ends_with_the_last_who_waits_for_it(any_server):
    with Proxy(any_server.port) as proxy:
        proxy.when(b"", "hang request")
        async with direct(proxy.url) as client:
            callers = [asyncio.ensure_future(echo(client, "nobody hears this")) for _ in range(2)]
            while not proxy.requests:
                await asyncio.sleep(0.01)
            for each in callers:
                each.cancel()
            await asyncio.wait(callers)
            await echo(client, "after")
            assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_callers_who_come_all_the_time_get_answers_again_after_the_server_hung(any_server):
    with Proxy(any_server.port) as proxy:
        proxy.when(b"", "hang request")
        proxy.when(b"", "delay reply", seconds=0.02, times=None)  # longer than till the next caller comes
        async with AsyncRedisPersistenceLayer.from_url(proxy.url, timeout_seconds=0.3, direct=True) as layer:
            callers = []
            for _ in range(60):
                callers.append(asyncio.ensure_future(layer.extend(a_claim())))
                await asyncio.sleep(0.01)
            answers = await asyncio.gather(*callers, return_exceptions=True)
    assert answers[-10:] == [False] * 10


async def test_a_connection_that_is_being_made_ends_with_its_client(any_server):
    with Proxy(any_server.port) as proxy:
        proxy.when(b"", "hang request")
        async with direct(proxy.url) as client:
            waiting = asyncio.ensure_future(echo(client, "nobody hears this"))
            while not proxy.requests:
                await asyncio.sleep(0.01)
        with pytest.raises(redis.ConnectionError, match="while it was made"):
            await waiting
        assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_connection_of_its_own_that_is_being_made_ends_with_its_client(any_server):
    async with direct(any_server.url) as client:
        asking = asyncio.create_task(client.together([("ECHO", "x")]))
        await asyncio.sleep(0)
        for close in closers(client):
            await close()
        with pytest.raises(redis.ConnectionError):
            await asking
        assert connections(client) == 0


async def test_the_layer_connects_again_after_the_server_was_started_anew(any_binary):
    with RedisServer(any_binary) as server:
        async with AsyncRedisPersistenceLayer.from_url(server.url, timeout_seconds=10, direct=True) as layer:
            claims = [a_claim() for _ in range(20)]
            await asyncio.gather(*(layer.acquire(claim) for claim in claims))
            server.kill()
            under_way = [asyncio.ensure_future(layer.acquire(a_claim())) for _ in range(20)]
            await asyncio.sleep(0)
            await asyncio.to_thread(server.start)
            assert await asyncio.gather(*under_way) == [Acquired(1)] * 20


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


async def test_large_commands_wait_in_line_for_few_connections(any_server):
    async with direct(any_server.url) as client:
        await asyncio.gather(*(echo(client, f"{caller:02}" * 40_000) for caller in range(100)))
        assert connections(client) == 16


async def test_several_commands_together_are_one_message_and_an_error_among_them_is_a_value(any_server):
    with Proxy(any_server.port) as proxy:
        async with direct(proxy.url) as client:
            await client.together([("PING",)])
            begun = len(proxy.requests)
            first, second, third = await client.together(
                [("SET", "list", memoryview(b"text")), ("LPUSH", "list", "x"), ("GETDEL", "list")]
            )
            assert (first, third) == (b"OK", b"text")
            assert isinstance(second, redis.ResponseError)
            assert len(proxy.requests) == begun + 1


async def test_a_wait_keeps_nobody_else_waiting(any_server):
    async with direct(any_server.url) as client:
        replicated = asyncio.ensure_future(client.together([("SET", "k", "v"), ("WAIT", 1, 1000), ("DEL", "k")]))
        await asyncio.gather(*(echo(client, f"{caller}") for caller in range(50)))
        assert not replicated.done()
        assert await replicated == [b"OK", 0, 1]


async def test_commands_together_whose_connection_breaks_are_an_error(any_server):
    with Proxy(any_server.port) as proxy:
        async with direct(proxy.url) as client:
            proxy.when(b"ECHO", "cut reply")
            with pytest.raises(redis.ConnectionError):
                await client.together([("ECHO", "a"), ("ECHO", "b")])
            assert await client.together([("ECHO", "a"), ("ECHO", "b")]) == [b"a", b"b"]


async def test_commands_together_that_are_cancelled_close_their_connection(any_server):
    async with direct(any_server.url) as client:
        for _ in range(3):
            waiting = asyncio.ensure_future(client.together([("ECHO", "a"), ("WAIT", 1, 5000)]))
            await asyncio.sleep(0.05)
            waiting.cancel()
            with suppress(asyncio.CancelledError):
                await waiting
            assert connections(client) == 0
        assert await client.together([("ECHO", "b")]) == [b"b"]


async def test_a_connection_that_was_idle_so_long_that_a_firewall_may_have_forgotten_it_is_not_used(any_server):
    with Proxy(any_server.port) as proxy:
        async with direct(proxy.url) as client:
            await asyncio.gather(*(client.together([("ECHO", "a")]) for _ in range(3)))
            for wire in client._idle:
                wire._heard -= 31  # seconds
            proxy.freeze()
            async with asyncio.timeout(2):
                assert await client.together([("ECHO", "b")]) == [b"b"]
            assert connections(client) == 1


async def test_an_error_reply_is_raised_where_it_belongs(server):
    async with direct(server.url) as client:
        asked = [client.execute_command("EVALSHA", "0" * 40, 0, **RAW), echo(client, "fine")]
        missing, fine = await asyncio.gather(*asked, return_exceptions=True)
        assert isinstance(missing, redis.exceptions.NoScriptError)
        assert fine is None
        assert connections(client) == 1


@pytest.mark.parametrize("protocol", [2, 3])
async def test_the_connection_is_made_as_the_url_and_the_options_say(guarded, protocol):
    options = {"client_name": "mine", "protocol": protocol, "decode_responses": True}
    async with direct(f"redis://me:right@{guarded}/3", **options) as client:
        assert await client.execute_command("ACL", "WHOAMI", **RAW) == b"me"
        shown = await client.execute_command("CLIENT", "INFO", **RAW)
        fields = dict(field.split(b"=", 1) for field in shown.split())
        assert (fields[b"name"], fields[b"db"], fields[b"resp"]) == (b"mine", b"3", b"%d" % protocol)
        assert await client.execute_command("ECHO", "usual") == "usual"  # which is decoded


async def test_credentials_can_come_from_a_provider(guarded):
    provider = UsernamePasswordCredentialProvider("me", "right")
    async with direct(f"redis://{guarded}", credential_provider=provider) as client:
        assert await client.execute_command("ACL", "WHOAMI", **RAW) == b"me"


async def test_a_wrong_password_is_each_callers_error_and_not_tried_again(guarded):
    async with AsyncRedisPersistenceLayer.from_url(f"redis://me:wrong@{guarded}", direct=True) as layer:
        errors = await asyncio.gather(*(layer.extend(a_claim()) for _ in range(5)), return_exceptions=True)
        for error in errors:
            assert isinstance(error, IdempotencyPersistenceLayerError)
            assert isinstance(error.__cause__, redis.AuthenticationError)


async def test_tls_and_its_options_are_heeded(any_server, certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    async with relay(any_server.port, ssl=context) as (port, _):
        url = f"rediss://127.0.0.1:{port}/2"
        async with direct(url, ssl_ca_certs=str(certificate[0])) as client:
            assert client.connection_pool.connection_class is redis.asyncio.SSLConnection
            await asyncio.gather(*(echo(client, f"{caller}") for caller in range(100)))
            await echo(client, "x" * (1 << 20))
            assert b"db=2" in await client.execute_command("CLIENT", "INFO", **RAW)
        with pytest.raises(redis.ConnectionError):
            async with direct(url) as client:
                await echo(client, "not to be trusted")


async def test_a_unix_socket_is_reached(any_binary, tmp_path):
    path = tmp_path / "socket"
    with RedisServer(any_binary, "--unixsocket", str(path)):
        async with direct(f"unix://{path}?db=4") as client:
            assert b"db=4" in await client.execute_command("CLIENT", "INFO", **RAW)


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("redis://localhost", {"retry": Retry(NoBackoff(), 1)}),
        ("redis://localhost", {"health_check_interval": 5}),
        ("redis://localhost", {"socket_timeout": 1}),
        ("redis://localhost", {"max_connections": 5}),
        ("redis://localhost?max_connections=5", {}),
        ("redis://localhost", {"encoding": "latin-1"}),
        ("redis://localhost", {"single_connection_client": True}),
    ],
    ids=lambda value: value if isinstance(value, str) else ",".join(value),
)
async def test_an_option_that_the_direct_path_does_not_heed_makes_it_the_usual_client(url, options):
    client = async_client(RedisConnection(url=url), 2.0, direct=True, **options)
    assert type(client) is redis.asyncio.Redis


async def test_credentials_that_change_are_left_to_the_usual_client():
    streaming = getattr(redis.credentials, "StreamingCredentialProvider", None)
    if streaming is None:
        pytest.skip("this redis-py has none")

    class Changing(streaming):
        def get_credentials(self):
            return ("me", "right")

        def on_next(self, callback): ...

        def on_error(self, callback): ...

        def is_streaming(self):
            return True

    where = RedisConnection(url="redis://localhost")
    assert type(async_client(where, 2.0, direct=True, credential_provider=Changing())) is redis.asyncio.Redis


async def test_the_usual_client_is_what_direct_false_asks_for(any_server):
    async with AsyncRedisPersistenceLayer.from_url(any_server.url, direct=False) as layer:
        assert await layer.acquire(a_claim()) == Acquired(1)
        assert type(layer._client()) is redis.asyncio.Redis


def test_a_redis_py_that_has_not_what_is_reached_for_is_used_as_usual():
    class Connection:
        _reader = _writer = None

    class Pool:
        make_connection = Connection

    class Client:
        connection_pool = Pool()

    assert can_be_direct(Client(), {}) is False


async def test_a_connection_that_the_server_has_closed_already_is_not_taken_over(any_server):
    async with direct(any_server.url) as client:
        connection = client.connection_pool.make_connection()
        await connection.connect()
        connection._reader.feed_eof()
        with pytest.raises(redis.ConnectionError, match="at once"):
            Connection(connection, set())
        await connection.disconnect()


async def test_a_server_that_says_more_than_the_handshake_asked_is_not_talked_to(any_server):
    async with (
        relay(any_server.port, lambda reply: reply + b"+OK\r\n") as (port, _),
        direct(f"redis://127.0.0.1:{port}") as client,
    ):
        with pytest.raises(redis.ConnectionError, match="more than it was asked"):
            await client.execute_command("ECHO", "x", **RAW)
        with pytest.raises(redis.ConnectionError, match="more than it was asked"):
            await client.together([("ECHO", "x")])
        assert connections(client) == 0


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
            cancelled = asyncio.ensure_future(client.together([("WAIT", 1, 5000)]))
            await asyncio.sleep(0.05)
            cancelled.cancel()
            await asyncio.wait([cancelled])
            await echo(client, "after")

    with asyncio.Runner(loop_factory=loops()[loop]) as runner:
        runner.run(all_of_it())


def test_a_loop_that_is_closed_without_a_word_leaves_none(any_server):
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

    async def wait_in_line():
        async with layer:
            claims = [a_claim() for _ in range(20)]
            await asyncio.gather(*(layer.complete(claim, b"x" * 10_000) for claim in claims))

    with asyncio.Runner() as open_yet:
        open_yet.run(wait_in_line())
        for _ in range(3):
            asyncio.run(wait_in_line())
        gc.collect()
        assert len(layer._queues._queues) == 2
        assert open_yet.get_loop() in layer._queues._queues


async def used_and_closed(layer):
    async with layer:
        assert await layer.acquire(a_claim()) == Acquired(1)


READONLY = b"-READONLY You can't write against a read only replica.\r\n"


@pytest.mark.parametrize("is_together", [False, True], ids=["shared", "alone"])
async def test_a_connection_whose_server_is_a_replica_now_is_closed_and_the_next_who_ask_get_another(
    any_server, is_together
):
    with Proxy(any_server.port) as proxy:
        async with direct(proxy.url) as client:
            await echo(client, "connected")
            if is_together:
                await client.together([("ECHO", "x")])
            before = connections(client)
            proxy.when(b"ECHO", "answer request", reply=READONLY)
            if is_together:
                assert [type(each) for each in await client.together([("ECHO", "x")])] == [redis.ReadOnlyError]
            else:
                with pytest.raises(redis.ReadOnlyError):
                    await echo(client, "refused")
            assert connections(client) == before - 1
            await echo(client, "after")
