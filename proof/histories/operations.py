"""What is recorded: each message that asked for a verb, from when to when, and what was answered.

A message without an answer is open-ended: it may take effect at any later time, or never. The times are those of
CLOCK_MONOTONIC, which is one clock for all processes of a machine.
"""

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from idempotency_mw.core.record import Claim

__all__ = ["History", "Operation", "Seen", "told"]


class Seen(NamedTuple):
    """What was told of a record that stands there."""

    status: str
    attempt: int
    fingerprint: str
    has_lapsed: bool
    """In progress, and its lease is over."""
    result: bytes | None
    token: str | None = None
    """Whose it is, where that was told."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One message."""

    verb: str
    claim: Claim
    result: bytes | None
    """What a complete is to keep."""
    begun: float
    """Milliseconds."""
    ended: float | None = None
    outcome: Any = None
    """`("acquired", attempt)`, `("existing", Seen)`, `("settled",)`, `("lost", Seen or None)`, or a bool."""


class History:
    """The operations of one process, as they go on."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []

    def begin(self, verb: str, claim: Claim, result: bytes | None = None) -> Callable[..., None]:
        """Note that a message is sent; return what notes how it ended: with an outcome, or open-ended."""
        begun = now_ms()

        def end(outcome: Any = None, *, is_open: bool = False) -> None:
            ended = None if is_open else now_ms()
            self.operations.append(Operation(verb, claim, result, begun, ended, outcome))

        return end

    def by_key(self) -> dict[str, list[Operation]]:
        """Return the operations of each key."""
        keys: dict[str, list[Operation]] = defaultdict(list)
        for operation in self.operations:
            keys[operation.claim.storage_key].append(operation)
        return keys


def told(operation: Operation) -> str:
    """Return an operation as a line that one can read."""
    ended = "open" if operation.ended is None else f"{operation.ended:.2f}"
    claim = operation.claim
    asked = f"{operation.verb} {claim.token[:4]} {claim.fingerprint[:2]} lease {claim.lease_ms}"
    return f"{operation.begun:.2f} to {ended}  {asked}  ->  {operation.outcome}"


def now_ms() -> float:
    """Return the time on the clock that all processes share."""
    return time.monotonic_ns() / 1e6
