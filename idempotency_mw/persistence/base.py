"""The four verbs of a persistence layer, as Protocols: any object that has them is a layer.

`verbs.py` has the rule of each verb as a pure function, and `redis/scripts/` has the same rule in Lua.
What a layer must guarantee beyond these signatures is tested by `idempotency_mw.testing.PersistenceConformance`.
"""

from inspect import iscoroutinefunction
from typing import Any, Protocol, TypeGuard

from idempotency_mw.core.record import Acquired, Claim, Existing, Lost, Settled

__all__ = ["VERBS", "AsyncPersistenceLayer", "PersistenceLayer", "is_async", "verbs_of"]

VERBS = ("acquire", "extend", "complete", "release")
"""What makes an object a layer. `adapted.py` refuses one that lacks a verb, a user's own too."""


class PersistenceLayer(Protocol):
    """A store for blocking code.

    Each verb is one atomic step on the store, and is bounded in time. The store's clock decides about leases and
    expiries; claims carry durations only. A verb raises:

    - `IdempotencyRecordError` if the store holds something under the key that is not a readable record. The layer
      leaves it as it is, and never takes it for a free key.
    - `IdempotencyPersistenceConnectionError` if the store can't be reached, or did not answer in time. Whether the
      verb took effect is then unknown.
    - `IdempotencyPersistenceLayerError` if the store refused for any other reason.

    Each is chained to the driver's own error.
    """

    def acquire(self, claim: Claim) -> Acquired | Existing:
        """Own the key, or learn what stands there.

        Returns `Acquired(1)` if nothing stands there: the record is now in progress, with the claim's lease.

        Returns `Acquired(attempt)`, the attempt unchanged and the lease renewed, if the record is in progress and
        bears the claim's own token: the reply to an earlier acquire was lost.

        Returns `Acquired(attempt + 1)`, a takeover, if the record is in progress, its lease has lapsed, it has the
        claim's fingerprint, and the claim may take over.

        Returns `Existing(record)` in every other case. Nothing was changed: not the record, not its lease, not its
        expiry.
        """
        ...

    def extend(self, claim: Claim) -> bool:
        """Renew the lease of a claim that stands.

        Returns True if the record is in progress and bears the claim's token, also if its lease has lapsed. The
        lease now ends `claim.lease_ms` from now. Returns False, and changes nothing, if there is no record, if
        it bears another token, or if it is completed.
        """
        ...

    def complete(self, claim: Claim, result: bytes | None) -> Settled | Lost:
        """Make the result the answer to every duplicate; None makes a tombstone.

        Returns `Settled()` if the record was in progress under the claim's token, also if its lease has lapsed:
        it is completed now, and expires `claim.retention_ms` from now. Returns `Settled()`, and changes
        nothing, if the claim completed it before: completed is final.

        Returns `Lost(None)` if there is no record; it is not created. Returns `Lost(record)` if the record bears
        another token; it is not changed.
        """
        ...

    def release(self, claim: Claim) -> bool:
        """Free the key of a claim that stands.

        Returns True if the record was in progress under the claim's token; it is gone now. Returns False, and
        changes nothing, if there is no record, if it bears another token, or if it is completed.
        """
        ...


class AsyncPersistenceLayer(Protocol):
    """The same four verbs for asyncio code. Each returns and raises what `PersistenceLayer` says."""

    async def acquire(self, claim: Claim) -> Acquired | Existing:
        """As `PersistenceLayer.acquire`.

        If it is cancelled, the layer releases a claim that it may have acquired.
        """
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
    """Return the four verbs of an object, with None for each that it lacks."""
    return [getattr(layer, name, None) for name in VERBS]


def is_async(layer: PersistenceLayer | AsyncPersistenceLayer) -> TypeGuard[AsyncPersistenceLayer]:
    """Tell whether the layer's verbs are coroutine functions."""
    return iscoroutinefunction(layer.acquire)
