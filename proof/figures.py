"""What a run shows: figures, in the size of CI or of a long night."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

__all__ = ["Figure", "Progress", "Size"]

Progress = Callable[[int, int], None]
"""Told how much of how much is done."""


class Size(Enum):
    """How much a run does."""

    CI = "ci"
    """What two cores do in minutes."""
    LONG = "long"


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table: what was tried, what had to be seen, and what was."""

    shows: str
    """The invariants or rows of the fault matrix, say "I1 I3"."""
    what: str
    wanted: str
    seen: str
    holds: bool
