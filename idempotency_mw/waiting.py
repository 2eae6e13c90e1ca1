"""How a duplicate waits for the one that runs: how long, how often it asks again, and how many may at once."""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

__all__ = ["Left", "Waiters", "pauses", "waitable"]

Left = Callable[[], float]
"""Tells the seconds that are left of a process's life. Asked for each claim: waiting has used some of them."""

SHORTEST_PAUSE = 0.05
LONGEST_PAUSE = 1.0

WAITED_SHARE = 0.9
"""Of the time that is left. Who waits to the last moment is killed before it can answer."""


class Waiters:
    """Counts who waits for each key, so that a herd costs this process no more than it may. Safe to share."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._waiting: Counter[str] = Counter()
        self._counting = threading.Lock()

    def enter(self, storage_key: str) -> bool:
        """Count one more, if one more may wait for this key. Who is counted leaves."""
        with self._counting:
            if self._waiting[storage_key] >= self._most:
                return False
            self._waiting[storage_key] += 1
            return True

    def leave(self, storage_key: str) -> None:
        """Count one less, and forget a key for which nobody waits."""
        with self._counting:
            self._waiting[storage_key] -= 1
            if not self._waiting[storage_key]:
                del self._waiting[storage_key]


def waitable(seconds: float, left: Left | None) -> float:
    """Return how much of so many seconds may be spent waiting, with so many left to live."""
    return seconds if left is None else min(seconds, left() * WAITED_SHARE)


def pauses(wait_seconds: float) -> Iterator[float]:
    """Yield the seconds between two tries, doubling and jittered, until the time to wait is over."""
    ends = time.monotonic() + wait_seconds
    longest = SHORTEST_PAUSE
    while (left := ends - time.monotonic()) > 0:
        yield min(left, random.uniform(longest / 2, longest))  # noqa: S311 - spreads load, guards nothing
        longest = min(longest * 2, LONGEST_PAUSE)
