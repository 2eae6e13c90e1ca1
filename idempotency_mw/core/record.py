"""The values that pass between a persistence layer and the machine.

A claim goes in, and what the store found comes out. All durations are milliseconds on the store's own clock.
Nothing here is a point in time, so no two clocks are ever compared.
"""

from dataclasses import dataclass, field
from enum import Enum

__all__ = ["Acquired", "Claim", "Existing", "Lost", "Operation", "Record", "Settled", "Status"]


class Status(Enum):
    """The state of a record."""

    IN_PROGRESS = "in progress"
    COMPLETED = "completed"
    NOT_KEPT = "not kept"
    """Completed, but without its answer: a tombstone."""


@dataclass(frozen=True, slots=True)
class Operation:
    """What a request asks for: which record it is about, and which request it is."""

    storage_key: str
    """SHA-256, in hexadecimal, of everything that tells this key from others.

    The raw key can't be read from it.
    """
    fingerprint: str
    """SHA-256, in hexadecimal, of everything that must be equal for a retry to be the same request."""


@dataclass(frozen=True, slots=True)
class Claim:
    """One attempt's request for a key.

    The token proves ownership. Each claim has a fresh one, and a layer that sends a verb again keeps it.
    """

    operation: Operation
    token: str = field(repr=False)
    """32 hexadecimal digits of randomness."""
    lease_ms: int
    retention_ms: int
    may_take_over: bool = True
    """Whether a lapsed claim with the same fingerprint may be taken over."""

    @property
    def storage_key(self) -> str:
        """That of the operation."""
        return self.operation.storage_key

    @property
    def fingerprint(self) -> str:
        """That of the operation."""
        return self.operation.fingerprint


@dataclass(frozen=True, slots=True)
class Record:
    """What a store holds for a key, without the token: only its owner knows that."""

    status: Status
    attempt: int
    fingerprint: str
    remaining_ms: int
    """In progress: until the lease lapses, 0 once it has. Completed: until the record expires."""
    result: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Acquired:
    """The claim stands. The first attempt is 1, and each takeover adds one."""

    attempt: int


@dataclass(frozen=True, slots=True)
class Existing:
    """The key belongs to another claim, or is completed. Nothing was changed."""

    record: Record


@dataclass(frozen=True, slots=True)
class Settled:
    """The record is completed by this claim, now or by an earlier try."""


@dataclass(frozen=True, slots=True)
class Lost:
    """The claim no longer stands, and nothing was changed. `record` is what stands there now, or None."""

    record: Record | None
