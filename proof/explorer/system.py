"""What is explored, as one value: the four verbs and the machine's decisions, each replaceable.

`PRODUCTION` holds the library's own functions, not copies. A mutant is that value with one function replaced, so
no source has to be patched.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from idempotency_mw.core import machine
from idempotency_mw.persistence import verbs

__all__ = ["PRODUCTION", "System"]


@dataclass(frozen=True, slots=True)
class System:
    """The verbs of a store, and the machine's decisions."""

    acquire: Callable[..., Any] = verbs.acquire
    extend: Callable[..., Any] = verbs.extend
    complete: Callable[..., Any] = verbs.complete
    release: Callable[..., Any] = verbs.release
    on_acquired: Callable[..., Any] = machine.on_acquired
    on_store_failure: Callable[..., Any] = machine.on_store_failure
    may_wait: Callable[..., bool] = machine.may_wait
    on_ended: Callable[..., Any] = machine.on_ended
    on_completed: Callable[..., Any] = machine.on_completed
    has_fresh_tokens: bool = True
    """Whether each attempt to acquire uses a new token."""


PRODUCTION = System()
