"""The promise of the four verbs, over a plain dict. Written from the promise, not from the implementation."""

from dataclasses import dataclass

from idempotency_mw.core.record import Acquired, Claim, Existing, Lost, Record, Settled, Status

__all__ = ["Model", "Standing"]


@dataclass
class Standing:
    """The record of one key."""

    status: Status
    token: str
    fingerprint: str
    attempt: int
    lease_until: int
    expires: int
    result: bytes | None = None


class Model:
    """The four verbs over a dict."""

    def __init__(self) -> None:
        self.now = 0
        self.keys: dict[str, Standing] = {}

    def acquire(self, claim: Claim) -> Acquired | Existing:
        """Acquire the key if it is free, or already this claim's, or lapsed and free to be taken over."""
        stands = self.standing(claim)
        if stands is None:
            attempt = 1
        elif self._is_owner(claim, stands):
            attempt = stands.attempt
        elif self._is_there_for_the_taking(claim, stands):
            attempt = stands.attempt + 1
        else:
            return Existing(self.record(stands))
        running = Standing(Status.IN_PROGRESS, claim.token, claim.fingerprint, attempt, 0, 0)
        self.keys[claim.storage_key] = running
        self._renew(claim, running)
        return Acquired(attempt)

    def extend(self, claim: Claim) -> bool:
        """Renew the lease of a claim in progress."""
        stands = self.standing(claim)
        if stands is None or not self._is_owner(claim, stands):
            return False
        self._renew(claim, stands)
        return True

    def complete(self, claim: Claim, result: bytes | None) -> Settled | Lost:
        """Store the result. A completed record is final."""
        stands = self.standing(claim)
        if stands is None:
            return Lost(None)
        if stands.token != claim.token:
            return Lost(self.record(stands))
        if stands.status is Status.IN_PROGRESS:
            stands.status = Status.NOT_KEPT if result is None else Status.COMPLETED
            stands.result = result
            stands.expires = self.now + claim.retention_ms
        return Settled()

    def release(self, claim: Claim) -> bool:
        """Free the key of a claim in progress."""
        stands = self.standing(claim)
        if stands is None or not self._is_owner(claim, stands):
            return False
        del self.keys[claim.storage_key]
        return True

    def standing(self, claim: Claim) -> Standing | None:
        """Return the key's record, unless it has expired."""
        stands = self.keys.get(claim.storage_key)
        return stands if stands is not None and stands.expires > self.now else None

    def record(self, stands: Standing) -> Record:
        """Return the public view of a record."""
        until = stands.lease_until if stands.status is Status.IN_PROGRESS else stands.expires
        left = max(until - self.now, 0)
        return Record(stands.status, stands.attempt, stands.fingerprint, left, stands.result)

    def _renew(self, claim: Claim, stands: Standing) -> None:
        stands.lease_until = self.now + claim.lease_ms
        stands.expires = self.now + max(claim.lease_ms, claim.retention_ms)

    def _is_owner(self, claim: Claim, stands: Standing) -> bool:
        return stands.status is Status.IN_PROGRESS and stands.token == claim.token

    def _is_there_for_the_taking(self, claim: Claim, stands: Standing) -> bool:
        is_lapsed = stands.status is Status.IN_PROGRESS and stands.lease_until <= self.now
        return is_lapsed and claim.may_take_over and stands.fingerprint == claim.fingerprint
