"""The one place where tests look behind the memory layer's interface, at the records that it holds."""

from collections.abc import Callable
from typing import Any

from idempotency_mw.persistence.memory import MemoryPersistenceLayer

__all__ = ["expiries", "held", "rewrite_results"]


def held(layer: MemoryPersistenceLayer) -> dict[str, Any]:
    """Return the layer's own records by storage key, with the expired ones. Changes to them change the layer."""
    return layer._records


def expiries(layer: MemoryPersistenceLayer) -> int:
    """Return the number of entries on the heap of expiries."""
    return len(layer._expiries)


def rewrite_results(layer: MemoryPersistenceLayer, change: Callable[[bytes], bytes]) -> None:
    """Change the bytes of every record's result."""
    for write in held(layer).values():
        object.__setattr__(write.frame, "result", change(write.frame.result))
