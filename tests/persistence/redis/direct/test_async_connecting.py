"""How the connections of the async direct path are made, and when the usual client is used instead."""

import asyncio
import ssl

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
from idempotency_mw.persistence.redis.direct.asynchronous import can_be_direct
from idempotency_mw.persistence.redis.redis_py import can_not_be_taken_over
from tests.persistence.driven import a_claim
from tests.persistence.redis.direct.async_talk import connections, direct, echo, relay
from tests.persistence.redis.direct.blocking_talk import connected, ids
from tests.proxy import Proxy
from tests.servers import RedisServer


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


async def test_connecting_is_given_up_when_the_last_caller_that_waits_for_it_leaves(any_server):
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


async def test_after_the_server_hung_callers_that_keep_coming_get_answers_again(any_server):
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


async def test_connecting_is_given_up_when_the_client_is_closed(any_server):
    with Proxy(any_server.port) as proxy:
        proxy.when(b"", "hang request")
        async with direct(proxy.url) as client:
            waiting = asyncio.ensure_future(echo(client, "nobody hears this"))
            while not proxy.requests:
                await asyncio.sleep(0.01)
        with pytest.raises(redis.ConnectionError, match="while it was made"):
            await waiting
        assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_connecting_for_a_pipeline_is_given_up_when_the_client_is_closed(any_server):
    async with direct(any_server.url) as client:
        asking = asyncio.create_task(client.send_pipeline([("ECHO", "x")]))
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


@pytest.mark.parametrize(("is_direct", "opened"), [(True, 1), (False, 5)])
async def test_callers_of_a_layer_share_a_connection_unless_direct_is_false(any_server, is_direct, opened):
    name = f"direct-{is_direct}"
    async with AsyncRedisPersistenceLayer.from_url(any_server.url, direct=is_direct, client_name=name) as layer:
        assert await asyncio.gather(*(layer.acquire(a_claim()) for _ in range(5))) == [Acquired(1)] * 5
        assert connected(any_server, name) == opened


def test_a_redis_py_that_lacks_a_needed_name_is_used_as_the_usual_client():
    class Connection:
        _reader = _writer = None

    class Pool:
        make_connection = Connection

    class Client:
        connection_pool = Pool()

    assert can_be_direct(Client(), {}) is False


async def test_a_connection_that_the_server_has_closed_already_is_not_taken_over(any_server):
    async with direct(any_server.url, client_name="closed_at_once") as client:
        connection = client.connection_pool.make_connection()
        await connection.connect()
        (known,) = ids(any_server, "closed_at_once")
        with any_server.client() as store:
            store.client_kill_filter(_id=known)
        while ids(any_server, "closed_at_once"):
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)  # until asyncio has read the end
        with pytest.raises(redis.ConnectionError, match="at once"):
            Connection(connection, set())
        await connection.disconnect()


async def test_a_server_that_says_more_than_the_handshake_asked_is_refused(any_server):
    async with (
        relay(any_server.port, lambda reply: reply + b"+OK\r\n") as (port, _),
        direct(f"redis://127.0.0.1:{port}") as client,
    ):
        with pytest.raises(redis.ConnectionError, match="more than it was asked"):
            await client.execute_command("ECHO", "x", **RAW)
        with pytest.raises(redis.ConnectionError, match="more than it was asked"):
            await client.send_pipeline([("ECHO", "x")])
        assert connections(client) == 0


@pytest.mark.parametrize("is_left", [True, False])
async def test_a_connection_is_not_taken_over_while_hiredis_holds_a_part_of_what_came(is_left):
    class Hiredis:
        def has_data(self):
            return is_left

    class Parser:
        _reader = Hiredis()

    class Connection:
        _parser = Parser()
        _reader = asyncio.StreamReader()

    assert can_not_be_taken_over(Connection()) is is_left
