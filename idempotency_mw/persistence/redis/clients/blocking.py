"""Blocking clients. Each of their waits ends with the deadline of the thread that waits.

They do not retry: the layer does, because only it knows how much of a verb's time is left.
"""

from redis.backoff import NoBackoff
from redis.retry import Retry

from idempotency_mw.persistence.redis.address import OwnClient, RedisConnection
from idempotency_mw.persistence.redis.clients.cluster import open_to_newcomers
from idempotency_mw.persistence.redis.clients.connections import within
from idempotency_mw.persistence.redis.direct.blocking import DirectBlockingRedis, can_be_direct_blocking
from idempotency_mw.persistence.redis.direct.deadline import Deadline
from idempotency_mw.persistence.redis.redis_py import Options, RedisPyConnection, untyped_redis

__all__ = ["blocking_client"]

# pyright: reportUnknownMemberType=false


def blocking_client(
    connection: RedisConnection, deadline: Deadline, *, direct: bool, **extra: object
) -> OwnClient[object]:
    """Build a client for the address. `extra` are options in redis-py's words."""
    no_retry: Options = {"retry": Retry(NoBackoff(), 0)}
    options: Options = connection.options() | no_retry | extra
    if connection.mode == "sentinel":
        return _blocking_sentinel(connection, deadline, options, no_retry)
    use_tls = bool(options.pop("ssl", False))
    connection_class = within(deadline, _connection_class(options, use_tls=use_tls))
    if connection.mode == "cluster":
        return _blocking_cluster(options, connection_class, use_tls=use_tls)
    pool = untyped_redis.ConnectionPool(connection_class=connection_class, **options)

    def make_connection() -> RedisPyConnection:
        # Not the pool's, which counts each one against its limit, also when it closes.
        return connection_class(**options)

    if direct and can_be_direct_blocking(make_connection, connection.options() | extra):
        return DirectBlockingRedis(pool, make_connection, deadline)
    return untyped_redis.Redis(connection_pool=pool)


def _connection_class(options: Options, *, use_tls: bool) -> type[RedisPyConnection]:
    if "path" in options:
        return untyped_redis.UnixDomainSocketConnection
    return untyped_redis.SSLConnection if use_tls else untyped_redis.Connection


def _blocking_cluster(
    options: Options, connection_class: type[RedisPyConnection], *, use_tls: bool
) -> OwnClient[object]:
    """Build a cluster client, which connects at once."""

    class TimedPool(untyped_redis.ConnectionPool):  # type: ignore[misc]
        def __init__(self, **options: object) -> None:
            super().__init__(**options | {"connection_class": connection_class})

    # redis-py takes a pool class only if a client is built from a URL.
    url = f"{'rediss' if use_tls else 'redis'}://{options.pop('host')}:{options.pop('port', 6379)}"
    return open_to_newcomers(untyped_redis.RedisCluster).from_url(url, connection_pool_class=TimedPool, **options)


def _blocking_sentinel(
    connection: RedisConnection, deadline: Deadline, options: Options, no_retry: Options
) -> OwnClient[object]:
    kinds = untyped_redis.sentinel
    managed = kinds.SentinelManagedSSLConnection if connection.ssl else kinds.SentinelManagedConnection
    sentinel_options = connection.sentinel_options(deadline.left()) | no_retry
    sentinel = untyped_redis.Sentinel(connection.sentinels, sentinel_kwargs=sentinel_options, **options)
    return sentinel.master_for(connection.service_name, connection_class=within(deadline, managed))
