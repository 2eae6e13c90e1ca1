"""Async clients for one event loop. They wait without end: the layer's deadline is around them.

They never retry by themselves: the layer does, because only it knows how much of a verb's time is left.
"""

from typing import Any

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff

from idempotency_mw.persistence.redis.address import RedisClientProtocol, RedisConnection
from idempotency_mw.persistence.redis.clients.cluster import one_first, open_to_newcomers
from idempotency_mw.persistence.redis.clients.connections import leaving_demoted
from idempotency_mw.persistence.redis.direct.asynchronous import DirectRedis, can_be_direct

__all__ = ["async_client"]

# What one release annotates, another does not have: clients are built from redis-py untyped.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnusedImport=false
_redis: Any = redis


def async_client(
    connection: RedisConnection, timeout: float, *, direct: bool, **extra: Any
) -> RedisClientProtocol:
    """Build a client for one event loop. It waits without end: the deadline is around it, once for all steps."""
    no_retry = {"retry": AsyncRetry(NoBackoff(), 0)}
    waits = {"socket_timeout": None, "socket_connect_timeout": None} | no_retry
    options = connection.options() | waits | extra
    if connection.mode == "sentinel":
        sentinel_options = connection.sentinel_options(timeout) | no_retry
        sentinel = _redis.asyncio.Sentinel(connection.sentinels, sentinel_kwargs=sentinel_options, **options)
        return sentinel.master_for(connection.service_name)
    if connection.mode == "cluster":
        return _async_cluster(options)
    if connection.url is not None:
        client = _redis.asyncio.Redis.from_url(connection.url, **waits | extra)
    else:
        client = _redis.asyncio.Redis(**options)
    if direct and can_be_direct(client, connection.options() | extra):
        # Half of the time-out is then left for asking again where an answer may come.
        return DirectRedis(client.connection_pool, patience=timeout / 2)
    client.connection_pool.connection_class = leaving_demoted(client.connection_pool.connection_class)
    return client


def _async_cluster(options: dict[str, Any]) -> RedisClientProtocol:
    """Build a cluster client whose first command goes alone, and that follows slots one by one.

    redis-py renews the connections of every node when it has learnt the topology, those too on which others are
    just shaking hands, or wait for a reply. With one command first, the others find it learnt. By default it
    learns it anew with every fifth MOVED: while slots move under load, commands would fail again and again on
    connections that were closed under them, until their deadline. Here a MOVED tells of its own slot, and no
    more. A node that can't be reached still makes it learn all anew.
    """
    return one_first(open_to_newcomers(_redis.asyncio.RedisCluster))(**{"reinitialize_steps": 0} | options)
