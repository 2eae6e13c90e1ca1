"""Clients that keep to a deadline.

Those that are built here never retry by themselves: the layer does, because only it knows how much of a verb's
time is left.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import redis
import redis.asyncio
import redis.connection
import redis.sentinel
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.exceptions import ReadOnlyError
from redis.retry import Retry

from idempotency_mw.persistence.redis.connection import RedisClientProtocol, RedisConnection
from idempotency_mw.persistence.redis.deadline import Deadline
from idempotency_mw.persistence.redis.direct import OWN_CONNECTIONS, DirectRedis, can_be_direct
from idempotency_mw.persistence.redis.direct_blocking import DirectBlockingRedis, can_be_direct_blocking
from idempotency_mw.persistence.redis.dropping import with_sentinels

__all__ = ["async_client", "blocking_client", "closers", "most_at_once"]

# What one release annotates, another does not have: clients are built from redis-py untyped.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnusedImport=false
_redis: Any = redis


def _within(deadline: Deadline, base: type[Any]) -> type[Any]:
    """Return redis-py's connection with each wait on its socket cut to what is left of the deadline.

    Time-outs that are fixed beforehand add up, over the steps of a handshake and over tries, to many times the
    deadline. `_sock` and `_connect` have been redis-py's names for these from 5.0 to 8.1.
    """

    class TimedConnection(base):  # type: ignore[misc]
        is_demoted = False

        def _connect(self) -> Any:
            self.socket_connect_timeout = self.socket_timeout = deadline.left()
            return super()._connect()

        def send_packed_command(self, *args: Any, **options: Any) -> None:
            if self.is_demoted:  # a replica now: under its name there may be another server
                self.is_demoted = False
                self.disconnect()
            self._cut()
            super().send_packed_command(*args, **options)

        def read_response(self, *args: Any, **options: Any) -> Any:
            self._cut()
            try:
                return super().read_response(*args, **options)
            except ReadOnlyError:
                self.is_demoted = True
                raise

        def _cut(self) -> None:
            if self._sock is not None:
                self._sock.settimeout(deadline.left())

    return TimedConnection


def blocking_client(
    connection: RedisConnection, deadline: Deadline, *, direct: bool, **extra: Any
) -> RedisClientProtocol:
    """Build a client whose every wait ends with the deadline of the thread that waits."""
    no_retry = {"retry": Retry(NoBackoff(), 0)}
    options: dict[str, Any] = connection.options() | no_retry | extra
    if connection.mode == "sentinel":
        return _blocking_sentinel(connection, deadline, options, no_retry)
    use_tls = options.pop("ssl", False)
    connection_class = _within(deadline, _connection_class(options, use_tls=use_tls))
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
    return _open_to_newcomers(_redis.RedisCluster).from_url(url, connection_pool_class=TimedPool, **options)


def _open_to_newcomers(base: type[Any]) -> type[Any]:
    """Return redis-py's cluster client, which follows ASK to a node that has no slot yet, too.

    When the first slot moves to a new node, no map of the slots names it. redis-py finds no node by that name and
    stumbles over None, up to 8.1 at least.
    """

    class OpenCluster(base):  # type: ignore[misc]
        def get_node(self, host: Any = None, port: Any = None, node_name: Any = None) -> Any:
            node = super().get_node(host, port, node_name)
            return node or self._newcomer(*(node_name.rsplit(":", 1) if node_name else (host, port)))

        def _newcomer(self, host: str, port: Any) -> Any:
            nodes = self.nodes_manager
            kind: Any = type(next(iter(nodes.nodes_cache.values())))
            # Async nodes make connections of their own, the others are given some when they are first used.
            own = nodes.connection_kwargs if hasattr(kind, "acquire_connection") else {}
            node = kind(host, int(port), "primary", **own)
            return nodes.nodes_cache.setdefault(node.name, node)

    return OpenCluster


def _blocking_sentinel(
    connection: RedisConnection, deadline: Deadline, options: dict[str, Any], no_retry: dict[str, Any]
) -> RedisClientProtocol:
    kinds = _redis.sentinel
    managed = kinds.SentinelManagedSSLConnection if connection.ssl else kinds.SentinelManagedConnection
    sentinel_options = _sentinel_options(connection, deadline.left()) | no_retry
    sentinel = _redis.Sentinel(connection.sentinels, sentinel_kwargs=sentinel_options, **options)
    return sentinel.master_for(connection.service_name, connection_class=_within(deadline, managed))


def async_client(
    connection: RedisConnection, timeout: float, *, direct: bool, **extra: Any
) -> RedisClientProtocol:
    """Build a client for one event loop. It waits without end: the deadline is around it, once for all steps."""
    no_retry = {"retry": AsyncRetry(NoBackoff(), 0)}
    waits = {"socket_timeout": None, "socket_connect_timeout": None} | no_retry
    options = connection.options() | waits | extra
    if connection.mode == "sentinel":
        sentinel_options = _sentinel_options(connection, timeout) | no_retry
        sentinel = _redis.asyncio.Sentinel(connection.sentinels, sentinel_kwargs=sentinel_options, **options)
        for each in sentinel.sentinels:
            each.connection_pool.connection_class = _cancellable(each.connection_pool.connection_class)
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
    client.connection_pool.connection_class = _leaving_replicas(client.connection_pool.connection_class)
    return client


def _cancellable(base: type[Any]) -> type[Any]:
    """Return redis-py's async connection, which can be cancelled while it sends.

    With a `socket_timeout`, as connections to Sentinels have it, redis-py sends under `asyncio.wait_for`. In
    Python 3.11 that can lose a cancellation. Time 0: the bytes are out, and `wait_for` is about to return; time 1:
    the deadline cancels the verb; time 2: `wait_for` returns as if nothing had happened. The verb would go on to
    the master, whose connection has no time-out of its own: a frozen master would hold it for ever.
    """

    class CancellableConnection(base):  # type: ignore[misc]
        async def send_packed_command(self, *args: Any, **options: Any) -> None:
            task: Any = asyncio.current_task()
            requests = task.cancelling()
            await super().send_packed_command(*args, **options)
            if task.cancelling() > requests:
                await self.disconnect(nowait=True)
                raise asyncio.CancelledError

    return CancellableConnection


def _leaving_replicas(base: type[Any]) -> type[Any]:
    """Return redis-py's async connection, which closes once its server says that it is a replica now."""

    class LeavingConnection(base):  # type: ignore[misc]
        is_demoted = False

        async def send_packed_command(self, *args: Any, **options: Any) -> None:
            if self.is_demoted:  # under its name there may be another server
                self.is_demoted = False
                await self.disconnect()
            await super().send_packed_command(*args, **options)

        async def read_response(self, *args: Any, **options: Any) -> Any:
            try:
                return await super().read_response(*args, **options)
            except ReadOnlyError:
                self.is_demoted = True
                raise

    return LeavingConnection


def _async_cluster(options: dict[str, Any]) -> RedisClientProtocol:
    """Build a cluster client whose first command goes alone, and that follows slots one by one.

    redis-py renews the connections of every node when it has learnt the topology, those too on which others are
    just shaking hands, or wait for a reply. With one command first, the others find it learnt. By default it
    learns it anew with every fifth MOVED: while slots move under load, commands would fail again and again on
    connections that were closed under them, until their deadline. Here a MOVED tells of its own slot, and no
    more. A node that can't be reached still makes it learn all anew.
    """

    class OneFirstCluster(_open_to_newcomers(_redis.asyncio.RedisCluster)):  # type: ignore[misc]
        first = asyncio.Lock()
        is_known = False

        async def execute_command(self, *args: Any, **options: Any) -> Any:
            if not self.is_known:
                async with self.first:
                    if not self.is_known:
                        reply = await super().execute_command(*args, **options)
                        self.is_known = True
                        return reply
            return await super().execute_command(*args, **options)

    return OneFirstCluster(**{"reinitialize_steps": 0} | options)


def _sentinel_options(connection: RedisConnection, timeout: float) -> dict[str, Any]:
    return {
        "username": connection.sentinel_username,
        "password": connection.sentinel_password,
        # One that hangs must leave time to ask the next.
        "socket_timeout": timeout / (len(connection.sentinels) + 1),
        "socket_connect_timeout": timeout / (len(connection.sentinels) + 1),
    }


MOST_AT_ONCE = 50


def most_at_once(client: Any) -> int:
    """Return how many commands may be under way on an async client at once.

    redis-py opens a connection for each. At its pool's limit (100 since 8.0) it raises instead of waiting, and
    then the owner of a claim competes for its completion with the herd that asks whether it is there. The direct
    path has connections of their own for what is said together; single commands share another.
    """
    if isinstance(client, DirectRedis):
        return OWN_CONNECTIONS
    pool = getattr(client, "connection_pool", None)
    return min(getattr(pool, "max_connections", MOST_AT_ONCE), MOST_AT_ONCE)


def closers(client: Any) -> list[Callable[[], Any]]:
    """Return what closes the client, and the clients with which it asks Sentinels."""
    clients = with_sentinels(client)
    # aclose() came with redis-py 5.0.1, and not every version closes a pool that it was given.
    pools = [each.connection_pool.disconnect for each in clients if hasattr(each, "connection_pool")]
    nodes = (
        [client.disconnect_connection_pools] if hasattr(client, "disconnect_connection_pools") else _nodes(client)
    )
    under_way = [client.stop_connecting] if isinstance(client, DirectRedis) else []
    return [*under_way, *nodes, *pools, *(getattr(each, "aclose", each.close) for each in clients)]


def _nodes(client: Any) -> list[Callable[[], Any]]:
    """Return what closes the connections to an async cluster's nodes.

    redis-py's own `aclose` does nothing for a client that is about to learn the topology anew: one that has just
    lost a node.
    """
    manager = getattr(client, "nodes_manager", None)
    known = (getattr(manager, "nodes_cache", {}), getattr(manager, "startup_nodes", {}))
    return [node.disconnect for nodes in known for node in nodes.values()]
