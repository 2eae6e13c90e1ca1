"""When a verb of the blocking layer must be over. Knows no client."""

from threading import local
from time import monotonic

__all__ = ["Deadline"]


class Deadline(local):
    """When the verb that runs in this thread must be over."""

    ends = float("inf")

    def start(self, seconds: float) -> None:
        """Begin a verb that may take so long."""
        self.ends = monotonic() + seconds

    def left(self) -> float:
        """Return the seconds that are left; never nothing, which a socket would take for non-blocking."""
        return max(self.ends - monotonic(), 0.001)
