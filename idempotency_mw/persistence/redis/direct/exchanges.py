"""Whose reply is whose on a connection that many callers share. A value: it has no loop, no clock and no socket.

One exchange is under way at a time: commands that go out in one write, and as many replies. What is asked
meanwhile goes out in the next one. A waiter gets its reply when all replies of its exchange are there. So a
reply that is lost on the way never makes the next one pass for it: the exchange stays incomplete until its
connection is closed.
"""

from collections.abc import Callable
from math import inf
from typing import Final, Generic, TypeVar

from idempotency_mw.persistence.redis.direct.resp import Reply

__all__ = ["MOST_COMMANDS", "Exchanges"]

Waiter = TypeVar("Waiter")

MOST_COMMANDS: Final = 128
"""The most commands of one exchange. Their replies are held until the last one is there, and a command may have
64 KiB: this bounds what is unsent, and what is held, to 8 MiB."""


class Exchanges(Generic[Waiter]):
    """The exchange under way, and who waits for the next. A waiter is anything hashable, each one used once."""

    __slots__ = ("_deadlines", "_due", "_replies", "_unsent", "_waiting", "is_busy", "were_many")

    def __init__(self) -> None:
        self.is_busy = False
        """An exchange is under way, or is about to begin."""
        self.were_many = False
        """The last exchange had several commands."""
        self._due: list[Waiter] = []
        self._replies: list[Reply] = []
        self._waiting: list[Waiter] = []
        self._unsent: list[bytes] = []
        self._deadlines: dict[Waiter, float] = {}

    def ask(self, waiter: Waiter, command: bytes, deadline: float = inf) -> bool:
        """Put a command into the next exchange. Return whether the caller has to begin it: none is under way."""
        self._unsent.append(command)
        self._waiting.append(waiter)
        self._deadlines[waiter] = deadline
        if self.is_busy:
            return False
        self.is_busy = True
        return True

    def begin(self) -> list[bytes]:
        """Begin the next exchange, and return its commands."""
        commands, self._due = self._unsent, self._waiting
        self._unsent, self._waiting = commands[MOST_COMMANDS:], self._due[MOST_COMMANDS:]
        del commands[MOST_COMMANDS:], self._due[MOST_COMMANDS:]
        return commands

    def begin_alone(self, waiters: list[Waiter]) -> None:
        """Begin an exchange of commands that are sent elsewhere: one reply for each waiter is due."""
        self.is_busy = True
        self._due = waiters

    @property
    def missing(self) -> int:
        """Return how many replies are due."""
        return len(self._due) - len(self._replies)

    def receive(self, replies: list[Reply]) -> tuple[list[Waiter], list[Reply]] | None:
        """Take the next replies. If they complete the exchange, end it, and return its waiters and their replies.

        Replies beyond those that are due come last, and have no waiter.
        """
        held, due = self._replies, self._due
        held += replies
        if len(held) < len(due):
            return None
        self._due, self._replies = [], []
        self.were_many = len(due) > 1
        self.is_busy = bool(self._waiting)
        for waiter in due:
            self._deadlines.pop(waiter, None)
        return due, held

    @property
    def next_in_line(self) -> Waiter | None:
        """Return whose reply comes next; `None` if none is due."""
        return self._due[len(self._replies)] if self._due else None

    def is_deserted(self, has_left: Callable[[Waiter], bool]) -> bool:
        """Tell whether replies are due, and everybody has left who waits for one."""
        return bool(self._due) and all(map(has_left, self._due))

    @property
    def next_deadline(self) -> float:
        """Return the earliest deadline; infinity if there is none."""
        return min(self._deadlines.values(), default=inf)

    def overdue(self, now: float) -> list[Waiter]:
        """Return those whose deadline is over, each once. Their replies are still due."""
        late = [waiter for waiter, deadline in self._deadlines.items() if deadline <= now]
        for waiter in late:
            del self._deadlines[waiter]
        return late

    def abandon(self) -> list[Waiter]:
        """Forget everything, since the connection has ended. Return everybody who waits."""
        left = self._due + self._waiting
        self._due, self._replies, self._waiting, self._unsent, self._deadlines = [], [], [], [], {}
        return left
