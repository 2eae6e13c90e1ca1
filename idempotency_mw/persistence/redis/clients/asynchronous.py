"""Async clients, each for one event loop. Their waits have no end of their own: the layer bounds them.

They do not retry: the layer does, because only it knows how much of a verb's time is left.
"""

from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff

from idempotency_mw.persistence.redis.address import AsyncOwnClient, RedisConnection
from idempotency_mw.persistence.redis.clients.cluster import one_first, open_to_newcomers
from idempotency_mw.persistence.redis.clients.connections import cancellable, leaving_demoted
from idempotency_mw.persistence.redis.direct.asynchronous import DirectRedis, can_be_direct
from idempotency_mw.persistence.redis.redis_py import Options, untyped_redis

__all__ = ["async_client"]


def async_client(connection: RedisConnection, timeout: float, *, direct: bool, **extra: object) -> AsyncOwnClient:
    """Build a client for the running event loop. `extra` are options in redis-py's words."""
    no_retry = {"retry": AsyncRetry(NoBackoff(), 0)}
    waits = {"socket_timeout": None, "socket_connect_timeout": None} | no_retry
    options = connection.options() | waits | extra
    if connection.mode == "sentinel":
        sentinel_options = connection.sentinel_options(timeout) | no_retry
        sentinel = untyped_redis.asyncio.Sentinel(
            connection.sentinels, sentinel_kwargs=sentinel_options, **options
        )
        for each in sentinel.sentinels:
            each.connection_pool.connection_class = cancellable(each.connection_pool.connection_class)
        return sentinel.master_for(connection.service_name)
    if connection.mode == "cluster":
        return _async_cluster(options)
    if connection.url is not None:
        client = untyped_redis.asyncio.Redis.from_url(connection.url, **waits | extra)
    else:
        client = untyped_redis.asyncio.Redis(**options)
    if direct and can_be_direct(client, connection.options() | extra):
        # When the silent connection is closed, half of the time-out is left for a try on another one.
        return DirectRedis(client.connection_pool, patience=timeout / 2)
    client.connection_pool.connection_class = leaving_demoted(client.connection_pool.connection_class)
    return client


def _async_cluster(options: Options) -> AsyncOwnClient:
    """Build a cluster client whose first command goes alone, and that follows moved slots one by one.

    By default redis-py learns the whole topology anew with every fifth MOVED, and closes the connections to all
    nodes then. While slots move under load, commands would fail again and again on connections that were closed
    under them, until their deadline. With `reinitialize_steps=0` a MOVED changes its own slot only. A node that
    can't be reached still makes the client learn everything anew.
    """
    return one_first(open_to_newcomers(untyped_redis.asyncio.RedisCluster))(**{"reinitialize_steps": 0} | options)
