"""How much the run does."""

from dataclasses import dataclass

__all__ = ["LONGEST", "Amount"]

LONGEST = 60.0
"""Seconds for one part of the run on a busy machine."""


@dataclass(frozen=True, slots=True)
class Amount:
    """How much work is done."""

    kills: int
    writers_killed: int
    clients: int
    answers: int
    """Before and after each kill."""
    flushing_seconds: float
    held: int
