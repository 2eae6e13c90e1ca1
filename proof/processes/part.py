"""What is done to the workers, and the times that are allowed."""

from dataclasses import dataclass

__all__ = ["FREE_WITHIN", "LEASE", "RETENTION", "Part"]

LEASE = 0.8
"""Seconds: short, so that a run sees many leases end; long enough for a heartbeat on a busy machine."""
FREE_WITHIN = 0.25
"""Seconds after the end of a dead owner's lease within which its key must be free: I4's limit."""
RETENTION = 3600
"""Seconds: longer than the run, so that no completed record expires in it."""


@dataclass(frozen=True, slots=True)
class Part:
    """What is done to the workers of one kind, over one store."""

    kind: str
    store: str
    kills: int
    deaths: int
    """How many workers kill themselves, at each of `MOMENTS` in turn."""
    stops: int
    workers: int = 3
    clients: int = 10
