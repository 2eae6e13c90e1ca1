"""Blocking clients whose every wait ends with the deadline of the thread that waits.

They never retry by themselves: the layer does, because only it knows how much of a verb's time is left.
"""

from typing import Any

import redis
import redis.connection
import redis.sentinel
from redis.backoff import NoBackoff
from redis.retry import Retry

from idempotency_mw.persistence.redis.address import RedisClientProtocol, RedisConnection
from idempotency_mw.persistence.redis.clients.cluster import open_to_newcomers
from idempotency_mw.persistence.redis.clients.connections import within
from idempotency_mw.persistence.redis.direct.blocking import DirectBlockingRedis, can_be_direct_blocking
from idempotency_mw.persistence.redis.direct.deadline import Deadline

__all__ = ["blocking_client"]

# What one release annotates, another does not have: clients are built from redis-py untyped.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnusedImport=false
_redis: Any = redis


def blocking_client(
    connection: RedisConnection, deadline: Deadline, *, direct: bool, **extra: Any
) -> RedisClientProtocol:
    """Build a client whose every wait ends with the deadline of the thread that waits."""
    no_retry = {"retry": Retry(NoBackoff(), 0)}
    options: dict[str, Any] = connection.options() | no_retry | extra
    if connection.mode == "sentinel":
        return _blocking_sentinel(connection, deadline, options, no_retry)
    use_tls = options.pop("ssl", False)
    connection_class = within(deadline, _connection_class(options, use_tls=use_tls))
    if connection.mode == "cluster":
        return _blocking_cluster(options, connection_class, use_tls=use_tls)
    pool = _redis.ConnectionPool(connection_class=connection_class, **options)

    def make_connection() -> Any:  # as the pool does, which also counts them up to a limit, and never down
        return connection_class(**options)

    if direct and can_be_direct_blocking(make_connection, connection.options() | extra):
        return DirectBlockingRedis(pool, make_connection, deadline)
    return _redis.Redis(connection_pool=pool)


def _connection_class(options: dict[str, Any], *, use_tls: bool) -> type[Any]:
    if "path" in options:
        return _redis.UnixDomainSocketConnection
    return _redis.SSLConnection if use_tls else _redis.Connection


def _blocking_cluster(
    options: dict[str, Any], connection_class: type[Any], *, use_tls: bool
) -> RedisClientProtocol:
    """Build a cluster client, which connects at once."""

    class TimedPool(_redis.ConnectionPool):  # type: ignore[misc]
        def __init__(self, **options: Any) -> None:
            super().__init__(**options | {"connection_class": connection_class})

    # Only where a client is built from a URL does redis-py take a pool class.
    url = f"{'rediss' if use_tls else 'redis'}://{options.pop('host')}:{options.pop('port', 6379)}"
    return open_to_newcomers(_redis.RedisCluster).from_url(url, connection_pool_class=TimedPool, **options)


def _blocking_sentinel(
    connection: RedisConnection, deadline: Deadline, options: dict[str, Any], no_retry: dict[str, Any]
) -> RedisClientProtocol:
    kinds = _redis.sentinel
    managed = kinds.SentinelManagedSSLConnection if connection.ssl else kinds.SentinelManagedConnection
    sentinel_options = connection.sentinel_options(deadline.left()) | no_retry
    sentinel = _redis.Sentinel(connection.sentinels, sentinel_kwargs=sentinel_options, **options)
    return sentinel.master_for(connection.service_name, connection_class=within(deadline, managed))
