"""How long something takes, measured so that a busy machine does not make a test fail."""

import time
from collections.abc import Callable

__all__ = ["fastest", "seconds"]


def seconds(act: Callable[[], object]) -> float:
    """Return how long it took."""
    begun = time.monotonic()
    act()
    return time.monotonic() - begun


def fastest(measure: Callable[[], float], within: float, runs: int = 5) -> float:
    """Return the shortest time that `measure` returned; it is not called again once that is at most `within`.

    Other processes only make a run longer. So one run within the bound shows that the code keeps it, and code that
    exceeds it does so in every run.
    """
    shortest = float("inf")
    for _ in range(runs):
        shortest = min(shortest, measure())
        if shortest <= within:
            break
    return shortest
