"""The recorded operations: each message that asks for a verb, its begin and end, and its answer.

A message without an answer is open-ended: it may take effect at any later time, or never. Times are those of
CLOCK_MONOTONIC, which all processes of a machine share.
"""

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from idempotency_mw.core.record import Claim

__all__ = ["History", "Operation", "Seen", "told"]


class Seen(NamedTuple):
    """What an answer told about the record."""

    status: str
    attempt: int
    fingerprint: str
    has_lapsed: bool
    """In progress, with a lease that is over."""
    result: bytes | None
    token: str | None = None
    """The owner's token, if it was told."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One message."""

    verb: str
    claim: Claim
    result: bytes | None
    """The result of a complete."""
    begun: float
    """Milliseconds."""
    ended: float | None = None
    outcome: Any = None
    """`("acquired", attempt)`, `("existing", Seen)`, `("settled",)`, `("lost", Seen or None)`, or a bool."""


class History:
    """Records the operations of one process."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []

    def begin(self, verb: str, claim: Claim, result: bytes | None = None) -> Callable[..., None]:
        """Record that a message is sent; return a function that records its end, with an outcome or open-ended."""
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
    """Return an operation as a readable line."""
    ended = "open" if operation.ended is None else f"{operation.ended:.2f}"
    claim = operation.claim
    asked = f"{operation.verb} {claim.token[:4]} {claim.fingerprint[:2]} lease {claim.lease_ms}"
    return f"{operation.begun:.2f} to {ended}  {asked}  ->  {operation.outcome}"


def now_ms() -> float:
    """Return the time in milliseconds, on a clock that all processes share."""
    return time.monotonic_ns() / 1e6
