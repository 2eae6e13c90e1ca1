"""Where Redis is, and clients that keep to a deadline.

Clients that are built here never retry by themselves: the layer does, because only it knows how much of a verb's
time is left.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from threading import local
from time import monotonic
from typing import Any, Literal, Protocol, get_args
from urllib.parse import urlsplit

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.asyncio.sentinel import Sentinel as AsyncSentinel
from redis.asyncio.sentinel import SentinelConnectionPool as AsyncSentinelConnectionPool
from redis.backoff import NoBackoff
from redis.connection import SSLConnection, parse_url
from redis.retry import Retry
from redis.sentinel import Sentinel, SentinelManagedConnection, SentinelManagedSSLConnection

from idempotency_mw.errors import IdempotencyConfigurationError
from idempotency_mw.persistence.redis_dropping import with_sentinels

__all__ = ["Deadline", "RedisClientProtocol", "RedisConnection", "async_client", "blocking_client", "closers"]

Mode = Literal["standalone", "cluster", "sentinel"]


class RedisClientProtocol(Protocol):
    """What the layers need of a client: redis-py's and valkey-py's, standalone, cluster or Sentinel's, have it."""

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Send one command and return its reply, or an awaitable of it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisConnection:
    """Where a server, a cluster or a Sentinel group is. Give either a `url` or the single values.

    With `mode="sentinel"`: `sentinels`, pairs of host and port, and `service_name`, which the Sentinels call
    their master. A URL's scheme (`redis://`, `rediss://`, `unix://`) decides about TLS.

    Raises `IdempotencyConfigurationError` when values contradict each other or are missing.
    """

    url: str | None = field(default=None, repr=False)
    host: str | None = None
    port: int | None = None
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    db_index: int | None = None
    mode: Mode = "standalone"
    ssl: bool = False
    sentinels: Sequence[tuple[str, int]] = ()
    service_name: str | None = None
    sentinel_username: str | None = field(default=None, repr=False)
    sentinel_password: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise IdempotencyConfigurationError(f"mode must be one of {', '.join(get_args(Mode))}")
        _check_number("port", self.port, least=1, most=65535)
        _check_number("db_index", self.db_index, least=0, most=2**31 - 1)
        self._check_url()
        self._check_sentinel()
        if self.mode == "cluster":
            self._check_cluster()

    def _check_url(self) -> None:
        if self.url is None:
            return
        if not isinstance(self.url, str):
            raise IdempotencyConfigurationError(f"url must be str, not {type(self.url).__name__}")
        single = ("host", "port", "username", "password", "db_index")
        given = [name for name in single if getattr(self, name) is not None]
        if self.ssl:
            given.append("ssl")
        if given:
            raise IdempotencyConfigurationError(f"url and {', '.join(given)}: give the one or the other")
        if urlsplit(self.url).scheme not in ("redis", "rediss", "unix"):
            raise IdempotencyConfigurationError("url must begin with redis://, rediss:// or unix://")
        if self.mode == "sentinel":
            raise IdempotencyConfigurationError("url: with mode='sentinel' give sentinels and service_name")
        try:
            parse_url(self.url)
        except ValueError:
            # Its message may quote a part of the password.
            raise IdempotencyConfigurationError("url has a port or an option that can't be read") from None

    def _check_cluster(self) -> None:
        options = self.options()
        if self.db_index or options.get("db"):
            raise IdempotencyConfigurationError("db_index must be 0 in a cluster, which has one database")
        if "path" in options:
            raise IdempotencyConfigurationError("url: a cluster's nodes are not reached by unix://")

    def _check_sentinel(self) -> None:
        if self.mode != "sentinel":
            if self.sentinels or self.service_name or self.sentinel_username or self.sentinel_password:
                raise IdempotencyConfigurationError(
                    "sentinels, service_name, sentinel_username and sentinel_password need mode='sentinel'"
                )
        elif not self.sentinels or not self.service_name:
            raise IdempotencyConfigurationError("mode='sentinel' needs sentinels and service_name")
        elif self.host is not None or self.port is not None:
            raise IdempotencyConfigurationError("host and port: with mode='sentinel' the Sentinels know them")
        elif not all(_is_address(each) for each in self.sentinels):
            raise IdempotencyConfigurationError("sentinels must be pairs of host and port")

    def options(self) -> dict[str, Any]:
        """Return the connection's options in redis-py's words."""
        if self.url is not None:
            options: dict[str, Any] = dict(parse_url(self.url))
            if options.pop("connection_class", None) is SSLConnection:
                options["ssl"] = True
            if self.mode == "cluster" and options.get("db") == 0:
                del options["db"]  # there is no other, and redis-py refuses the option
            return options
        options = {"username": self.username, "password": self.password, "ssl": self.ssl}
        if self.mode != "cluster":
            options["db"] = self.db_index or 0
        if self.mode != "sentinel":
            options |= {"host": self.host or "localhost", "port": self.port or 6379}
        return options

    def sentinel_options(self) -> dict[str, Any]:
        """Return the options for the Sentinels themselves."""
        return {"username": self.sentinel_username, "password": self.sentinel_password}


def _check_number(name: str, value: object, least: int, most: int) -> None:
    if value is None:
        return
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise IdempotencyConfigurationError(f"{name} must be a whole number from {least} to {most}, not {value!r}")


def _is_address(pair: object) -> bool:
    match pair:
        case (str(), int()):
            return True
        case _:
            return False


class Deadline(local):
    """When the verb that runs in this thread must be over."""

    ends = float("inf")

    def start(self, seconds: float) -> None:
        self.ends = monotonic() + seconds

    def left(self) -> float:
        """Return the seconds that are left; never nothing, which a socket would take for non-blocking."""
        return max(self.ends - monotonic(), 0.001)


def _within(deadline: Deadline, base: type[redis.Connection]) -> type[redis.Connection]:
    """Return redis-py's connection with each wait on its socket cut to what is left of the deadline.

    Time-outs that are fixed beforehand add up, over the steps of a handshake and over tries, to many times the
    deadline. `_sock` and `_connect` have been redis-py's names for these from 5.0 to 8.1.
    """

    class TimedConnection(base):  # type: ignore[valid-type,misc]
        def _connect(self) -> Any:
            self.socket_connect_timeout = self.socket_timeout = deadline.left()
            return super()._connect()

        def send_packed_command(self, *args: Any, **options: Any) -> None:
            self._cut()
            super().send_packed_command(*args, **options)

        def read_response(self, *args: Any, **options: Any) -> Any:
            self._cut()
            return super().read_response(*args, **options)

        def _cut(self) -> None:
            if self._sock is not None:
                self._sock.settimeout(deadline.left())

    return TimedConnection


def blocking_client(connection: RedisConnection, deadline: Deadline, **extra: Any) -> RedisClientProtocol:
    """Build a client for one thread at a time, each verb of which ends within the deadline."""
    options = connection.options() | {"retry": Retry(NoBackoff(), 0)} | extra
    timeout = deadline.left()
    if connection.mode == "sentinel":
        managed = SentinelManagedSSLConnection if connection.ssl else SentinelManagedConnection
        # A Sentinel that hangs must leave time to ask the next one.
        each = {"socket_timeout": timeout / (len(connection.sentinels) + 1), "retry": Retry(NoBackoff(), 0)}
        sentinel = Sentinel(connection.sentinels, sentinel_kwargs=connection.sentinel_options() | each, **options)
        return sentinel.master_for(connection.service_name or "", connection_class=_within(deadline, managed))
    base = _connection_class(options)
    if connection.mode == "cluster":
        return _blocking_cluster(options, _within(deadline, base))
    options.pop("ssl", None)
    return redis.Redis(connection_pool=redis.ConnectionPool(connection_class=_within(deadline, base), **options))


def _connection_class(options: dict[str, Any]) -> type[Any]:
    if "path" in options:
        return redis.UnixDomainSocketConnection
    return redis.SSLConnection if options.get("ssl") else redis.Connection


def _blocking_cluster(options: dict[str, Any], connection_class: type[redis.Connection]) -> redis.RedisCluster:
    """Build a cluster client, which connects at once."""

    class TimedPool(redis.ConnectionPool):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options | {"connection_class": connection_class})

    host, port, use_tls = options.pop("host"), options.pop("port", 6379), options.pop("ssl", False)
    # Only for clients built from a URL does redis-py take a pool class.
    url = f"{'rediss' if use_tls else 'redis'}://{host}:{port}"
    return redis.RedisCluster.from_url(url, connection_pool_class=TimedPool, **options)


def async_client(connection: RedisConnection, timeout: float, **extra: Any) -> RedisClientProtocol:
    """Build a client for one event loop. It waits without end: the deadline is around it, once for all steps."""
    waits = {"socket_timeout": None, "socket_connect_timeout": None, "retry": AsyncRetry(NoBackoff(), 0)}
    options = connection.options() | waits | extra
    if connection.mode == "sentinel":
        each = {
            "socket_timeout": timeout / (len(connection.sentinels) + 1),
            "retry": AsyncRetry(NoBackoff(), 0),
        }
        sentinel = AsyncSentinel(
            connection.sentinels, sentinel_kwargs=connection.sentinel_options() | each, **options
        )
        return sentinel.master_for(
            connection.service_name or "", connection_pool_class=AsyncSentinelConnectionPool
        )
    if connection.mode == "cluster":
        return redis.asyncio.RedisCluster(**options)
    if connection.url is not None:
        return redis.asyncio.Redis.from_url(connection.url, **waits | extra)
    return redis.asyncio.Redis(**options)


def closers(client: Any) -> list[Callable[[], Any]]:
    """Return what closes the client, and the clients with which it asks Sentinels."""
    # aclose() came with redis-py 5.0.1.
    own = [getattr(each, "aclose", each.close) for each in with_sentinels(client)]
    # A blocking cluster's client does not close the pools that were made by a class of ours.
    pools = getattr(client, "disconnect_connection_pools", None)
    return own if pools is None else [pools, *own]
