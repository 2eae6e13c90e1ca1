"""The four verbs of a persistence layer, as Protocols: whatever has them is a layer.

What a layer must guarantee beyond these signatures is what `idempotency_mw.testing.PersistenceConformance` runs.
"""

from inspect import iscoroutinefunction
from typing import Any, Protocol, TypeGuard

from idempotency_mw.core.record import Acquired, Claim, Existing, Lost, Settled

__all__ = ["AsyncPersistenceLayer", "PersistenceLayer", "is_async", "verbs_of"]


class PersistenceLayer(Protocol):
    """A store for blocking code.

    Every verb is one atomic step on the store, is bounded in time, and raises
    `IdempotencyPersistenceLayerError`, chained to the driver's error, when the store fails.
    """

    def acquire(self, claim: Claim) -> Acquired | Existing:
        """Own the key, or learn what stands there.

        Nothing there: in progress, attempt 1. The claim's own token, in progress: acquired, the lease renewed.
        Lapsed, with the same fingerprint, where the claim may take over: acquired, one attempt more. Anything
        else is `Existing`, untouched. A record that can't be read is `IdempotencyRecordError`, never free.
        """
        ...

    def extend(self, claim: Claim) -> bool:
        """Renew the lease, if the claim still stands."""
        ...

    def complete(self, claim: Claim, result: bytes | None) -> Settled | Lost:
        """Make the result the answer, if the claim still stands or did this before. None makes a tombstone.

        Never creates a record that is gone.
        """
        ...

    def release(self, claim: Claim) -> bool:
        """Free the key, if the claim still stands."""
        ...


class AsyncPersistenceLayer(Protocol):
    """The same four verbs for asyncio code."""

    async def acquire(self, claim: Claim) -> Acquired | Existing:
        """As `PersistenceLayer.acquire`; cancelled, it sees to it that no claim is left behind."""
        ...

    async def extend(self, claim: Claim) -> bool:
        """As `PersistenceLayer.extend`."""
        ...

    async def complete(self, claim: Claim, result: bytes | None) -> Settled | Lost:
        """As `PersistenceLayer.complete`."""
        ...

    async def release(self, claim: Claim) -> bool:
        """As `PersistenceLayer.release`."""
        ...


def verbs_of(layer: object) -> list[Any]:
    """Return the four verbs, None in place of one that the object lacks."""
    return [getattr(layer, name, None) for name in ("acquire", "extend", "complete", "release")]


def is_async(layer: PersistenceLayer | AsyncPersistenceLayer) -> TypeGuard[AsyncPersistenceLayer]:
    """Tell whether the layer's verbs are coroutine functions."""
    return iscoroutinefunction(layer.acquire)
