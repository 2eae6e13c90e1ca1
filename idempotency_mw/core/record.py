"""The values that pass between a persistence layer and the machine.

A claim goes in, and what the store found comes out. Durations are milliseconds, relative to the store's own
clock: nothing here is a point in time, so that no two clocks are ever compared.
"""

from dataclasses import dataclass, field
from enum import Enum

__all__ = ["Acquired", "Claim", "Existing", "Lost", "Operation", "Record", "Settled", "Status"]


class Status(Enum):
    """What a record says of its key."""

    IN_PROGRESS = "in progress"
    COMPLETED = "completed"
    NOT_KEPT = "not kept"
    """Completed, but without its answer: a tombstone."""


@dataclass(frozen=True, slots=True)
class Operation:
    """What one request asks to be done at most once at a time."""

    storage_key: str
    """SHA-256, in hexadecimal, of all that tells this key from others; the raw key is not in it."""
    fingerprint: str
    """SHA-256, in hexadecimal, of all that must be equal for a retry to be the same request."""


@dataclass(frozen=True, slots=True)
class Claim:
    """One attempt's request for a key. The token proves ownership, and is made anew for each acquiring round."""

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
    """What a store holds for a key, as anyone but its owner may see it: without the token."""

    status: Status
    attempt: int
    fingerprint: str
    remaining_ms: int
    """In progress: until the lease lapses, 0 once it has. Otherwise: until the record expires."""
    result: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Acquired:
    """The claim stands. Attempt 1 is the first start; each takeover adds one."""

    attempt: int


@dataclass(frozen=True, slots=True)
class Existing:
    """The key is somebody else's, or done; nothing was changed."""

    record: Record


@dataclass(frozen=True, slots=True)
class Settled:
    """The record is completed, by this claim, now or on an earlier try."""


@dataclass(frozen=True, slots=True)
class Lost:
    """The claim no longer stood, and nothing was changed. The record is what stands there instead, if anything."""

    record: Record | None
