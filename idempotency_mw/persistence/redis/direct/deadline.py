"""When a verb of the blocking layer must be over. Knows no client."""

from threading import local
from time import monotonic

__all__ = ["Deadline", "bounded"]

_LEAST = 0.001


class Deadline(local):
    """When the verb that runs in this thread must be over."""

    ends = float("inf")

    def start(self, seconds: float) -> None:
        """Begin what may take so long."""
        self.ends = monotonic() + seconds

    def left(self) -> float:
        """Return the seconds that are left, as a time-out for a socket."""
        return bounded(self.ends - monotonic())


def bounded(left: float) -> float:
    """Return a time-out for a socket: of nothing it would think that it must not wait at all."""
    return left if left > _LEAST else _LEAST  # noqa: FURB136 - max() takes several times as long
