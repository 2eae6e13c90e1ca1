"""How Redis layers are built, and which clients and options they accept."""

import warnings

import pytest
import redis
import redis.asyncio
from redis.backoff import NoBackoff
from redis.retry import Retry

from idempotency_mw.core.record import Acquired
from idempotency_mw.errors import (
    IdempotencyConfigurationError,
)
from idempotency_mw.persistence.redis import (
    AsyncRedisPersistenceLayer,
    RedisConnection,
    RedisPersistenceLayer,
)
from tests.persistence.driven import a_claim, driven
from tests.servers import RedisServer


@pytest.mark.parametrize("timeout", [0, -1, 3601, float("nan"), float("inf"), "2", True, None])
def test_an_invalid_time_out_is_refused(kind, timeout):
    with pytest.raises(IdempotencyConfigurationError):
        kind.from_url("redis://localhost", timeout_seconds=timeout)


def test_a_prefix_that_is_not_text_is_refused(kind):
    with pytest.raises(IdempotencyConfigurationError):
        kind.from_url("redis://localhost", key_prefix=b"idempotency:")


def test_the_prefix_comes_before_the_storage_key(kind, any_server):
    with driven(kind.from_url(any_server.url, key_prefix="mine/")) as layer, any_server.client() as store:
        claim = a_claim()
        layer.acquire(claim)
        assert store.exists("mine/" + claim.storage_key) == 1


def test_an_async_client_is_refused_by_the_blocking_layer_and_the_reverse():
    with pytest.raises(IdempotencyConfigurationError, match="AsyncRedisPersistenceLayer"):
        RedisPersistenceLayer(redis.asyncio.Redis())
    with pytest.raises(IdempotencyConfigurationError, match="RedisPersistenceLayer"):
        AsyncRedisPersistenceLayer(redis.Redis())
    with pytest.raises(IdempotencyConfigurationError, match="RedisPersistenceLayer"):
        AsyncRedisPersistenceLayer(None)


def test_options_for_a_client_that_is_brought_along_are_refused():
    with pytest.raises(IdempotencyConfigurationError, match="socket_timeout"):
        AsyncRedisPersistenceLayer(redis.asyncio.Redis(), socket_timeout=1)


def quick(**options):
    waits = {"socket_timeout": 0.5, "socket_connect_timeout": 0.5, "retry": Retry(NoBackoff(), 1)}
    return redis.Redis(**waits | options)


def test_a_client_that_keeps_within_the_time_out_causes_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        RedisPersistenceLayer(quick(), timeout_seconds=2.0)


@pytest.mark.parametrize(
    "options",
    [
        {"socket_timeout": None},
        {"socket_connect_timeout": None},
        {"socket_timeout": 2},
        {"retry": Retry(NoBackoff(), 3)},
    ],
    ids=["reads", "connects", "is slow to read", "tries again"],
)
def test_a_client_that_can_exceed_the_time_out_causes_a_warning(options):
    with pytest.warns(RuntimeWarning, match="timeout_seconds=2"):
        RedisPersistenceLayer(quick(**options), timeout_seconds=2.0)


def test_a_client_without_a_known_bound_causes_a_warning():
    class Client:
        def execute_command(self, *args, **options):
            return 1

    with pytest.warns(RuntimeWarning, match="without bound"):
        layer = RedisPersistenceLayer(Client())
    assert layer.extend(a_claim()) is True


def test_closing_a_layer_that_was_never_used_does_nothing(kind):
    with driven(kind.from_url("redis://localhost:1")):
        pass


def test_a_cluster_is_reached_by_its_url(kind, cluster):
    with driven(kind.connect(RedisConnection(url=cluster.url, mode="cluster"))) as layer:
        assert layer.acquire(a_claim()) == Acquired(1)


def test_a_unix_socket_is_reached_by_its_url(kind, any_binary, tmp_path):
    path = tmp_path / "socket"
    with RedisServer(any_binary, "--unixsocket", str(path)), driven(kind.from_url(f"unix://{path}")) as layer:
        assert layer.acquire(a_claim()) == Acquired(1)
