"""How the connections of the blocking direct path are made, and when the usual client is used instead."""

import asyncio
import select
import ssl

import pytest
import redis
from redis.backoff import NoBackoff
from redis.credentials import UsernamePasswordCredentialProvider
from redis.retry import Retry

from idempotency_mw.core.record import Acquired
from idempotency_mw.persistence.redis import RedisConnection, RedisPersistenceLayer
from idempotency_mw.persistence.redis.clients.blocking import blocking_client
from idempotency_mw.persistence.redis.direct.blocking import (
    can_be_direct_blocking,
)
from idempotency_mw.persistence.redis.direct.deadline import Deadline
from tests.persistence.driven import a_claim
from tests.persistence.redis.direct.async_talk import relay
from tests.persistence.redis.direct.blocking_talk import (
    direct,
    echo,
    ids,
    said,
)
from tests.proxy import Proxy
from tests.servers import RedisServer


@pytest.mark.parametrize("protocol", [2, 3])
def test_the_connection_is_made_as_the_url_and_the_options_say(guarded, protocol):
    options = {"client_name": "mine", "protocol": protocol, "decode_responses": True}
    with direct(f"redis://me:right@{guarded}/3", **options) as client:
        own = said(client, "CLIENT", "ID")
        (shown,) = (each for each in client.client_list() if each["id"] == str(own))
        assert [shown[each] for each in ("user", "name", "db", "resp")] == ["me", "mine", "3", str(protocol)]
        assert client.execute_command("ECHO", "usual") == "usual"  # which is decoded


def test_credentials_can_come_from_a_provider(guarded):
    provider = UsernamePasswordCredentialProvider("me", "right")
    with direct(f"redis://{guarded}", credential_provider=provider) as client:
        assert said(client, "ACL", "WHOAMI") == b"me"


def test_a_wrong_password_is_an_error_at_once(guarded):
    with direct(f"redis://me:wrong@{guarded}") as client, pytest.raises(redis.AuthenticationError):
        said(client, "PING")


async def test_tls_is_heeded_with_its_options(any_server, certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)

    def ask(url):
        with direct(url, ssl_ca_certs=str(certificate[0])) as client:
            for turn in range(20):
                echo(client, f"{turn}")
                echo(client, "x" * 100_000)
            own = said(client, "CLIENT", "ID")
            echo(client, "x" * (1 << 20))
            assert said(client, "CLIENT", "ID") == own
        with direct(url) as client, pytest.raises(redis.ConnectionError):
            echo(client, "not to be trusted")

    async with relay(any_server.port, ssl=context) as (port, _):
        await asyncio.to_thread(ask, f"rediss://127.0.0.1:{port}")


def test_a_unix_socket_is_reached(any_binary, tmp_path):
    path = tmp_path / "socket"
    with RedisServer(any_binary, "--unixsocket", str(path)), direct(f"unix://{path}") as client:
        echo(client, "by its path")


async def test_a_server_that_says_more_than_the_handshake_asked_is_refused(any_server):
    def ask(url):
        with direct(url) as client, pytest.raises(redis.ConnectionError, match="more than it was asked"):
            echo(client, "x")

    async with relay(any_server.port, lambda reply: reply + b"+OK\r\n") as (port, _):
        await asyncio.to_thread(ask, f"redis://127.0.0.1:{port}")


@pytest.mark.parametrize(
    "options",
    [
        {"retry": Retry(NoBackoff(), 1)},
        {"health_check_interval": 5},
        {"socket_timeout": 1},
        {"max_connections": 5},
        {"socket_read_size": 5},
    ],
    ids=lambda options: ",".join(options),
)
def test_an_option_that_the_direct_path_does_not_heed_makes_it_the_usual_client(options):
    where = RedisConnection(url="redis://localhost")
    assert type(blocking_client(where, Deadline(), direct=True, **options)) is redis.Redis


def test_the_usual_client_is_what_direct_false_asks_for(any_server):
    with RedisPersistenceLayer.from_url(any_server.url, direct=False) as layer:
        assert layer.acquire(a_claim()) == Acquired(1)
        assert type(layer._client()) is redis.Redis


def test_the_usual_client_leaves_a_server_that_is_a_replica_now_too(any_server):
    with (
        Proxy(any_server.port) as proxy,
        RedisPersistenceLayer.from_url(proxy.url, direct=False, client_name="leaving") as layer,
    ):
        assert layer.acquire(a_claim()) == Acquired(1)
        before = ids(any_server, "leaving")
        proxy.when(
            b"EVALSHA", "answer request", reply=b"-READONLY You can't write against a read only replica.\r\n"
        )
        assert layer.acquire(a_claim()) == Acquired(1)
        assert len(ids(any_server, "leaving") - before) == 1


def test_a_redis_py_that_lacks_a_needed_name_is_used_as_the_usual_client():
    assert can_be_direct_blocking(object, {}) is False


def test_without_poll_the_usual_client_is_used(monkeypatch):
    monkeypatch.delattr(select, "poll")  # as on Windows, and under eventlet
    assert can_be_direct_blocking(redis.Connection, {}) is False
