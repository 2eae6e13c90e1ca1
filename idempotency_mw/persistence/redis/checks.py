"""Checks of the client, the server and the options that can be made before the first request."""

import re
import warnings
from collections.abc import Awaitable, Mapping
from typing import Protocol, TypeAlias

from idempotency_mw.errors import IdempotencyConfigurationError
from idempotency_mw.persistence.redis.redis_py import tries_of

__all__ = [
    "AsyncInspected",
    "Inspected",
    "check_options",
    "check_pipeline",
    "check_policy",
    "check_prefix",
    "check_version",
    "reply_within",
    "warn_if_slow",
]

OLDEST_SERVER = (7, 0)

Told: TypeAlias = Mapping[str, "str | int | float | Told"]
"""What a server tells of itself; a cluster's client returns that of each node, by the node's name."""


class Inspected(Protocol):
    """A blocking client that asks a server for its version and its configuration."""

    def info(self, section: str) -> Told:
        """Return a section of what INFO tells."""
        ...

    def config_get(self, pattern: str) -> Told:
        """Return the values of CONFIG GET."""
        ...


class AsyncInspected(Protocol):
    """As `Inspected`, for asyncio code."""

    def info(self, section: str) -> Awaitable[Told]:
        """As `Inspected.info`."""
        ...

    def config_get(self, pattern: str) -> Awaitable[Told]:
        """As `Inspected.config_get`."""
        ...


def check_prefix(key_prefix: object) -> str:
    """Return the prefix, or raise `IdempotencyConfigurationError`."""
    if not isinstance(key_prefix, str):
        raise IdempotencyConfigurationError(f"key_prefix must be str, not {type(key_prefix).__name__}")
    return key_prefix


def check_options(client_options: Mapping[str, object]) -> None:
    """Raise `IdempotencyConfigurationError` if there are options for a client that is brought along."""
    if client_options:
        raise IdempotencyConfigurationError(
            f"{', '.join(client_options)}: a client that is brought along has its options already"
        )


def check_pipeline(min_replicas: int, *, is_able: bool) -> None:
    """Raise `IdempotencyConfigurationError` for `min_replicas` with a client that has no pipeline."""
    if min_replicas and not is_able:
        raise IdempotencyConfigurationError("min_replicas: client has no pipeline, in which WAIT could go")


def reply_within(client: object) -> float | None:
    """Return how many seconds a client waits for a reply; `None` if that is not known, or without bound."""
    source = getattr(client, "connection_pool", None) or getattr(client, "nodes_manager", None)
    seconds = getattr(source, "connection_kwargs", {}).get("socket_timeout")
    return float(seconds) if isinstance(seconds, int | float) else None


def warn_if_slow(client: object, timeout_seconds: float) -> None:
    """Warn if one command of a blocking client can take longer than a verb may."""
    longest = _slowest(client)
    if longest is None or longest > timeout_seconds:
        bound = "without bound" if longest is None else f"up to {longest:g} s"
        warnings.warn(
            f"this client can wait {bound} for a server that hangs, beyond timeout_seconds={timeout_seconds:g}: "
            "lower its socket_timeout, socket_connect_timeout and retry, or build the layer with from_url()",
            RuntimeWarning,
            stacklevel=3,
        )


def _slowest(client: object) -> float | None:
    """Return how many seconds one command can take at most; `None` if no bound is known."""
    pool = getattr(client, "connection_pool", None)
    if pool is None:
        return None
    options = pool.connection_kwargs
    waits = [options.get(name) for name in ("socket_connect_timeout", "socket_timeout")]
    if None in waits:
        return None
    return float(tries_of(options.get("retry")) * sum(waits))


def check_version(info: Told) -> None:
    """Raise `IdempotencyConfigurationError` if the server, or a node of the cluster, is too old."""
    for version in _of_each_node(info, "redis_version"):
        if tuple(int(part) for part in re.findall(r"\d+", str(version))[:2]) < OLDEST_SERVER:
            raise IdempotencyConfigurationError(
                f"the server is {version}; its scripts need Redis 7.0 or Valkey 7.2"
            )


def check_policy(reply: Told) -> None:
    """Warn if the server, or a node of the cluster, may evict records when it is full."""
    for policy in _of_each_node(reply, "maxmemory-policy"):
        if policy != "noeviction":
            warnings.warn(
                f"maxmemory-policy is {policy}: a full server evicts records, and their requests run again; "
                "set it to noeviction",
                RuntimeWarning,
                stacklevel=3,
            )


def _of_each_node(reply: Told, name: str) -> list[object]:
    """Return the named value, from one server's reply or from those of a cluster's nodes."""
    replies = [reply] if name in reply else list(reply.values())
    return [each[name] for each in replies if isinstance(each, Mapping) and name in each]
