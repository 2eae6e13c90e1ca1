"""How much the run does."""

from dataclasses import dataclass

__all__ = ["LONGEST", "Amount"]

LONGEST = 60.0
"""Seconds for one failover, with starting its servers, on a busy machine."""


@dataclass(frozen=True, slots=True)
class Amount:
    """How much work is done."""

    failovers: int
    """For each kind (Sentinel, cluster) that many without loss, and as many with loss."""
    slots: int
    clients: int = 24
