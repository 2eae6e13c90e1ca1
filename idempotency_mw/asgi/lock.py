"""A lock for the tasks of one event loop, fair as `asyncio.Lock`, and cheaper while nobody has to wait.

`release` hands the lock to the task that has waited longest; a newcomer can't take it in between.

    if not lock.acquire():
        await lock.wait()
    try:
        ...
    finally:
        lock.release()
"""

import asyncio
from collections import deque

__all__ = ["FairLock"]


class FairLock:
    """`acquire` the lock, or `wait` for it if that returned False; then `release` it."""

    __slots__ = ("_waiting", "is_locked")

    def __init__(self) -> None:
        self.is_locked = False
        self._waiting: deque[asyncio.Future[None]] | None = None

    def acquire(self) -> bool:
        """Take the lock if it is free, and tell whether it was."""
        was_free, self.is_locked = not self.is_locked, True
        return was_free

    async def wait(self) -> None:
        """Take the lock after all tasks that began to wait earlier."""
        if self._waiting is None:
            self._waiting = deque()
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except BaseException:
            # time 0: `release` sets the result of this turn; the lock is this task's
            # time 1: this task is cancelled before it runs again, so it has to pass the lock on
            if not turn.cancel() and not turn.cancelled():
                self.release()
            raise

    def release(self) -> None:
        """Hand the lock to the task that has waited longest, or free it."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self.is_locked = False
