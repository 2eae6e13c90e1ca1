"""What the two Redis layers have in common: how they are built and named."""

from typing import Any, Self, TypeVar

from idempotency_mw.core.config import check_count, check_seconds
from idempotency_mw.core.record import Claim
from idempotency_mw.persistence.redis.address import RedisClientProtocol, RedisConnection
from idempotency_mw.persistence.redis.checks import check_options, check_prefix, check_together, reply_within
from idempotency_mw.persistence.redis.commands import LARGE, temporary_key
from idempotency_mw.persistence.redis.pipelines import sends_together

__all__ = ["RedisLayer", "Reply", "wait_ms"]

Reply = TypeVar("Reply")


def wait_ms(client: RedisClientProtocol, left: float) -> int:
    """Return how long replicas have to acknowledge: half of what is left of the deadline, or of the socket's wait.

    The other half is for the way, and for the release of a claim that too few acknowledged. Never 0, which WAIT
    takes for ever.
    """
    bound = reply_within(client)
    return max(int(min(left, bound or left) * 500), 1)


class RedisLayer:
    """What the two layers have in common: how they are built and named."""

    def __init__(
        self,
        client: RedisClientProtocol | RedisConnection,
        *,
        key_prefix: str = "idempotency:",
        timeout_seconds: float = 2.0,
        min_replicas: int = 0,
        **client_options: Any,
    ) -> None:
        check_seconds("timeout_seconds", timeout_seconds, least=0.001, most=3600)
        self.key_prefix = check_prefix(key_prefix)
        self.timeout_seconds = timeout_seconds
        self.min_replicas = min_replicas
        self._source = client
        self._client_options = client_options
        self._sends_together = isinstance(client, RedisConnection) or sends_together(client)
        check_count("min_replicas", min_replicas, least=0)
        check_together(min_replicas, is_able=self._sends_together)
        if not isinstance(client, RedisConnection):
            check_options(client_options)

    @classmethod
    def from_url(
        cls,
        url: str,
        *,
        key_prefix: str = "idempotency:",
        timeout_seconds: float = 2.0,
        min_replicas: int = 0,
        **client_options: Any,
    ) -> Self:
        """Build a layer with a client of its own, whose options are redis-py's. Connects when first used."""
        return cls(
            RedisConnection(url=url),
            key_prefix=key_prefix,
            timeout_seconds=timeout_seconds,
            min_replicas=min_replicas,
            **client_options,
        )

    @classmethod
    def connect(
        cls,
        connection: RedisConnection,
        *,
        key_prefix: str = "idempotency:",
        timeout_seconds: float = 2.0,
        min_replicas: int = 0,
        **client_options: Any,
    ) -> Self:
        """Build a layer for a server, a cluster or a Sentinel group. Connects when first used."""
        return cls(
            connection,
            key_prefix=key_prefix,
            timeout_seconds=timeout_seconds,
            min_replicas=min_replicas,
            **client_options,
        )

    def _key(self, claim: Claim) -> str:
        return self.key_prefix + claim.operation.storage_key

    def _temporary(self, key: str, claim: Claim, result: bytes | None) -> str | None:
        """Return the temporary key for this result, or None where it goes through the script."""
        if result is None or len(result) < LARGE or not self._sends_together:
            return None
        return temporary_key(self.key_prefix, key, claim.token)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.key_prefix!r}>"
