"""What the two Redis layers have in common: how they are built and named."""

from typing import Any, Self, TypeVar

from idempotency_mw.core.config import check_seconds
from idempotency_mw.core.record import Claim
from idempotency_mw.persistence.redis_checks import check_options, check_prefix
from idempotency_mw.persistence.redis_connection import RedisClientProtocol, RedisConnection

__all__ = ["RedisLayer", "Reply"]

Reply = TypeVar("Reply")


class RedisLayer:
    """What the two layers have in common: how they are built and named."""

    def __init__(
        self,
        client: RedisClientProtocol | RedisConnection,
        *,
        key_prefix: str = "idempotency:",
        timeout_seconds: float = 2.0,
        **client_options: Any,
    ) -> None:
        check_seconds("timeout_seconds", timeout_seconds, least=0.001, most=3600)
        self.key_prefix = check_prefix(key_prefix)
        self.timeout_seconds = timeout_seconds
        self._source = client
        self._client_options = client_options
        if not isinstance(client, RedisConnection):
            check_options(client_options)

    @classmethod
    def from_url(
        cls,
        url: str,
        *,
        key_prefix: str = "idempotency:",
        timeout_seconds: float = 2.0,
        **client_options: Any,
    ) -> Self:
        """Build a layer with a client of its own, whose options are redis-py's. Connects when first used."""
        connection = RedisConnection(url=url)
        return cls(connection, key_prefix=key_prefix, timeout_seconds=timeout_seconds, **client_options)

    @classmethod
    def connect(
        cls,
        connection: RedisConnection,
        *,
        key_prefix: str = "idempotency:",
        timeout_seconds: float = 2.0,
        **client_options: Any,
    ) -> Self:
        """Build a layer for a server, a cluster or a Sentinel group. Connects when first used."""
        return cls(connection, key_prefix=key_prefix, timeout_seconds=timeout_seconds, **client_options)

    def _key(self, claim: Claim) -> str:
        return self.key_prefix + claim.storage_key

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.key_prefix!r}>"
