"""One at a time on an event loop, first come first served: as `asyncio.Lock`, and cheap while nobody has to wait.

A turn is passed on, and not given up for whoever comes next: who comes later never gets between.
"""

import asyncio
from collections import deque

__all__ = ["Turns"]


class Turns:
    """`take` a turn, or `wait` for one where that says no; then `end` it."""

    __slots__ = ("_waiting", "is_taken")

    def __init__(self) -> None:
        self.is_taken = False
        self._waiting: deque[asyncio.Future[None]] | None = None

    def take(self) -> bool:
        """Begin a turn, if nobody has one, and tell whether it was begun."""
        was_free, self.is_taken = not self.is_taken, True
        return was_free

    async def wait(self) -> None:
        """Begin a turn once those are over that were asked for before."""
        if self._waiting is None:
            self._waiting = deque()
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except BaseException:
            if not turn.cancel() and not turn.cancelled():  # it has come in the same moment
                self.end()
            raise

    def end(self) -> None:
        """Pass the turn on to the next who still waits."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self.is_taken = False
