"""The address of a server, a cluster or a Sentinel group: a value that is checked when it is built. No I/O."""

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias, TypeVar, get_args
from urllib.parse import urlsplit

from idempotency_mw.core.config import check_type
from idempotency_mw.errors import IdempotencyConfigurationError
from idempotency_mw.persistence.redis.redis_py import Options, untyped_redis

__all__ = ["AsyncOwnClient", "OwnClient", "RedisClientProtocol", "RedisConnection"]

_connection = untyped_redis.connection

Ended_co = TypeVar("Ended_co", covariant=True)

Mode = Literal["standalone", "cluster", "sentinel"]


class RedisClientProtocol(Protocol):
    """What the layers need of a client. All clients of redis-py and valkey-py have it.

    It is untyped because redis-py, valkey-py and their releases annotate it differently.
    """

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Send one command and return its reply, or an awaitable of it. Raises the driver's error.

        With the option `NEVER_DECODE=True` text in the reply is bytes.
        """
        ...


class OwnClient(RedisClientProtocol, Protocol[Ended_co]):
    """A client that a layer built, and closes."""

    def close(self) -> Ended_co:
        """Close the client."""
        ...


AsyncOwnClient: TypeAlias = OwnClient[Awaitable[object]]
"""The same for asyncio code, which awaits what `close` returns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisConnection:
    """The address of a server, a cluster or a Sentinel group. Give either a `url` or the single values.

    With `mode="sentinel"`, give `sentinels`, pairs of host and port, and `service_name`, the Sentinels' name for
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
        check_type("url", self.url, str)
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
            _connection.parse_url(self.url)
        except ValueError:
            # redis-py's message may quote a part of the password.
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

    def options(self) -> Options:
        """Return the connection's options in redis-py's words."""
        if self.url is not None:
            options: Options = dict(_connection.parse_url(self.url))
            if options.pop("connection_class", None) is _connection.SSLConnection:
                options["ssl"] = True
            if self.mode == "cluster" and options.get("db") == 0:
                del options["db"]  # a cluster has no other database, and redis-py refuses the option
            return options
        options = {"username": self.username, "password": self.password, "ssl": self.ssl}
        if self.mode != "cluster":
            options["db"] = self.db_index or 0
        if self.mode != "sentinel":
            options |= {"host": self.host or "localhost", "port": self.port or 6379}
        return options

    def sentinel_options(self, timeout: float) -> Options:
        """Return the options of the clients that ask the Sentinels, in redis-py's words."""
        # A Sentinel that hangs must leave time to ask the next one, and all of them time for the master itself.
        seconds = timeout / (len(self.sentinels) + 1)
        return {
            "username": self.sentinel_username,
            "password": self.sentinel_password,
            "socket_timeout": seconds,
            "socket_connect_timeout": seconds,
        }


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
