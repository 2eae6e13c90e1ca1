"""What both Redis layers have in common: how they are built, and how their keys are named."""

from typing import Self, TypeVar

from idempotency_mw.core.config import check_count, check_seconds
from idempotency_mw.core.record import Claim
from idempotency_mw.persistence.redis.address import RedisClientProtocol, RedisConnection
from idempotency_mw.persistence.redis.checks import check_options, check_pipeline, check_prefix, reply_within
from idempotency_mw.persistence.redis.commands import LARGE, temporary_key
from idempotency_mw.persistence.redis.pipelines import has_pipeline

__all__ = ["Outcome", "RedisLayer", "wait_ms"]

Outcome = TypeVar("Outcome")


def wait_ms(client: RedisClientProtocol, left: float) -> int:
    """Return how many milliseconds replicas have to acknowledge.

    It is half of the seconds that are left, or of the client's own socket time-out if that is shorter. The other
    half is for the network, and for releasing a claim that too few acknowledged. It is never 0, which makes WAIT
    wait without end.
    """
    bound = reply_within(client)
    return max(int(min(left, bound or left) * 500), 1)


class RedisLayer:
    """What both layers have in common: how they are built, and how their keys are named."""

    def __init__(
        self,
        client: RedisClientProtocol | RedisConnection,
        *,
        key_prefix: str = "idempotency:",
        timeout_seconds: float = 2.0,
        min_replicas: int = 0,
        **client_options: object,
    ) -> None:
        check_seconds("timeout_seconds", timeout_seconds, least=0.001, most=3600)
        self.key_prefix = check_prefix(key_prefix)
        self.timeout_seconds = timeout_seconds
        self.min_replicas = min_replicas
        self._source = client
        self._client_options = client_options
        self._has_pipeline = isinstance(client, RedisConnection) or has_pipeline(client)
        check_count("min_replicas", min_replicas, least=0)
        check_pipeline(min_replicas, is_able=self._has_pipeline)
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
        **client_options: object,
    ) -> Self:
        """Build a layer with a client of its own. `client_options` are redis-py's. It connects when first used."""
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
        **client_options: object,
    ) -> Self:
        """Build a layer for a server, a cluster or a Sentinel group. It connects when first used."""
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
        """Return the temporary key for this result, or `None` if it passes through the script."""
        if result is None or len(result) < LARGE or not self._has_pipeline:
            return None
        return temporary_key(self.key_prefix, key, claim.token)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.key_prefix!r}>"
