"""How long waits may be: the deadline of a blocking call, and the rest after which a connection is not trusted."""

from threading import local
from time import monotonic
from typing import Final

__all__ = ["IDLE_SECONDS", "Deadline", "bounded"]

IDLE_SECONDS: Final = 30.0
"""A connection that was idle for longer is not used for a pipeline or by a thread again: a firewall or load
balancer may have forgotten it, and what it then swallows is a result. Azure's forgets after 4 minutes by
default, AWS's (NLB) after 350 s; a private firewall may be stricter."""

_LEAST: Final = 0.001
"""The shortest time-out of a socket, 1 ms. 0 would put the socket into non-blocking mode, and less is an error."""


class Deadline(local):
    """When the call that runs in this thread must be over, by `monotonic()`."""

    ends = float("inf")

    def start(self, seconds: float) -> None:
        """Begin a call that may take so long."""
        self.ends = monotonic() + seconds

    def left(self) -> float:
        """Return the seconds that are left, as a time-out for a socket."""
        return bounded(self.ends - monotonic())


def bounded(left: float) -> float:
    """Return a number of seconds as a time-out for a socket: at least 1 ms."""
    return left if left > _LEAST else _LEAST  # noqa: FURB136 - max() takes several times as long
