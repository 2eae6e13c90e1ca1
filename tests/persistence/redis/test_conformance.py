"""The one suite over Redis and Valkey: standalone, cluster and Sentinel, blocking and async."""

import pytest
import redis
import redis.asyncio

from idempotency_mw.persistence.redis import AsyncRedisPersistenceLayer, RedisConnection, RedisPersistenceLayer
from idempotency_mw.persistence.redis.clients.closing import closers
from idempotency_mw.testing import PersistenceConformance
from tests.clusters import SERVICE

try:
    import valkey
    import valkey.asyncio
except ImportError:
    valkey = None

PREFIX = "idempotency:"
PATIENCE = 10.0  # the machine that tests may be slow; deadlines have tests of their own
WAITS = {"socket_timeout": 2, "socket_connect_timeout": 2, "retry": None}


class OnRedis(PersistenceConformance):
    @pytest.fixture(autouse=True)
    def _server(self, server):
        self.server = server
        yield
        assert_every_key_expires(server)

    def plant(self, storage_key, data):
        with self.server.client() as client:
            client.set(PREFIX + storage_key, data, px=60_000)

    def peek(self, storage_key):
        with self.server.client() as client:
            return client.get(PREFIX + storage_key)


def assert_every_key_expires(server):
    with server.client() as client:
        for key in client.scan_iter(count=1000):
            assert client.pttl(key) != -1, key


class TestBlocking(OnRedis):
    def make_layer(self):
        return RedisPersistenceLayer.from_url(self.server.url, timeout_seconds=PATIENCE)


class TestAsync(OnRedis):
    def make_layer(self):
        return AsyncRedisPersistenceLayer.from_url(self.server.url, timeout_seconds=PATIENCE)


class OnOneServer(PersistenceConformance):
    plant, peek = OnRedis.plant, OnRedis.peek

    @pytest.fixture(autouse=True)
    def _server(self, any_server):
        self.server = any_server


class TestGivenClientThatDecodes(OnOneServer):
    def make_layer(self):
        self.given = redis.Redis(port=self.server.port, decode_responses=True, **WAITS)
        return RedisPersistenceLayer(self.given, timeout_seconds=PATIENCE)

    def teardown_method(self):
        super().teardown_method()
        self.given.close()


class TestGivenAsyncClientThatDecodes(OnOneServer):
    def make_layer(self):
        self.given = redis.asyncio.Redis(port=self.server.port, decode_responses=True)
        return AsyncRedisPersistenceLayer(self.given, timeout_seconds=PATIENCE)

    def teardown_method(self):
        self._runner.run(closers(self.given)[0]())
        super().teardown_method()


@pytest.mark.skipif(valkey is None, reason="valkey-py is not installed")
class TestGivenClientOfValkeyPy(OnOneServer):
    def make_layer(self):
        self.given = valkey.Valkey(port=self.server.port, socket_timeout=2, socket_connect_timeout=2)
        return RedisPersistenceLayer(self.given, timeout_seconds=PATIENCE)

    def teardown_method(self):
        super().teardown_method()
        self.given.close()


@pytest.mark.skipif(valkey is None, reason="valkey-py is not installed")
class TestGivenAsyncClientOfValkeyPy(OnOneServer):
    def make_layer(self):
        self.given = valkey.asyncio.Valkey(port=self.server.port)
        return AsyncRedisPersistenceLayer(self.given, timeout_seconds=PATIENCE)

    def teardown_method(self):
        self._runner.run(self.given.aclose())
        super().teardown_method()


class OnCluster(PersistenceConformance):
    contenders = 16

    @pytest.fixture(autouse=True)
    def _cluster(self, cluster):
        self.connection = RedisConnection(host="127.0.0.1", port=cluster.masters[0].port, mode="cluster")
        self.cluster = cluster
        yield
        for master in cluster.masters:
            assert_every_key_expires(master)

    def plant(self, storage_key, data):
        with redis.RedisCluster("127.0.0.1", self.cluster.masters[0].port) as client:
            client.set(PREFIX + storage_key, data, px=60_000)

    def peek(self, storage_key):
        with redis.RedisCluster("127.0.0.1", self.cluster.masters[0].port) as client:
            return client.get(PREFIX + storage_key)


class TestCluster(OnCluster):
    def make_layer(self):
        return RedisPersistenceLayer.connect(self.connection, timeout_seconds=PATIENCE)


class TestAsyncCluster(OnCluster):
    def make_layer(self):
        return AsyncRedisPersistenceLayer.connect(self.connection, timeout_seconds=PATIENCE)


class OnSentinel(PersistenceConformance):
    contenders = 16

    @pytest.fixture(autouse=True)
    def _sentinel(self, sentinel):
        self.connection = RedisConnection(
            mode="sentinel", sentinels=[("127.0.0.1", sentinel.port)], service_name=SERVICE
        )


class TestSentinel(OnSentinel):
    def make_layer(self):
        return RedisPersistenceLayer.connect(self.connection, timeout_seconds=PATIENCE)


class TestAsyncSentinel(OnSentinel):
    def make_layer(self):
        return AsyncRedisPersistenceLayer.connect(self.connection, timeout_seconds=PATIENCE)
