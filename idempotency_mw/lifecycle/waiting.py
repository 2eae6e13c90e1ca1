"""How a duplicate waits for the running request: how long, how often it asks, and how many may wait at once."""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

__all__ = ["RemainingSeconds", "Waiters", "pauses", "waitable"]

RemainingSeconds = Callable[[], float]
"""Returns the seconds that this process has to live.

Asked again for each claim, because waiting uses some of them.
"""

SHORTEST_PAUSE = 0.05
"""The first pause is at most so many seconds: most requests take longer, and each try is one round trip."""

LONGEST_PAUSE = 1.0
"""The longest pause, in seconds. A waiter learns of an answer at most so much later."""

WAITED_SHARE = 0.9
"""The share of the remaining time that may be spent waiting. A duplicate that waits to the last moment is
killed before it can answer."""


class Waiters:
    """Counts the duplicates that wait for each key, to bound what a herd costs this process.

    Safe between threads.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._waiting: Counter[str] = Counter()
        self._counting = threading.Lock()

    def enter(self, storage_key: str) -> bool:
        """Count one more waiter for this key. Return False, and count none, if as many as may wait already do.

        Pair every `enter` that returned True with `leave`.
        """
        with self._counting:
            if self._waiting[storage_key] >= self._most:
                return False
            self._waiting[storage_key] += 1
            return True

    def leave(self, storage_key: str) -> None:
        """Count one less, and forget a key for which none waits."""
        with self._counting:
            self._waiting[storage_key] -= 1
            if not self._waiting[storage_key]:
                del self._waiting[storage_key]


def waitable(seconds: float, remaining: RemainingSeconds | None) -> float:
    """Return how many of these seconds may be spent waiting in a process that has `remaining` to live."""
    return seconds if remaining is None else min(seconds, remaining() * WAITED_SHARE)


def pauses(wait_seconds: float) -> Iterator[float]:
    """Yield the seconds between two tries, doubling and jittered, until `wait_seconds` have passed."""
    ends = time.monotonic() + wait_seconds
    longest = SHORTEST_PAUSE
    while (left := ends - time.monotonic()) > 0:
        yield min(left, random.uniform(longest / 2, longest))  # noqa: S311 - spreads load, guards nothing
        longest = min(longest * 2, LONGEST_PAUSE)
