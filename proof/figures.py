"""The result of a run (figures), and the two sizes of a run."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

__all__ = ["Figure", "Progress", "Size", "in_short"]

Progress = Callable[[int, int], None]
"""Called with how many units of work are done, and how many there are."""


class Size(Enum):
    """How much work a run does."""

    CI = "ci"
    """Minutes on two cores."""
    LONG = "long"


@dataclass(frozen=True, slots=True)
class Figure:
    """One row of the table: what was tried, what was expected, and what was seen."""

    shows: str
    """The invariants (I1 …) or the rows of the fault matrix (#5 …) that it shows, for example "I1 #24"."""
    what: str
    wanted: str
    seen: str
    holds: bool


def in_short(violations: list[str]) -> str:
    """Return the number of violations and the first one; "" if there is none."""
    return f"{len(violations)}: {violations[0]}" if violations else ""
