"""Measures the layers' verbs, and the machine's lag."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Protocol, Self

__all__ = ["Lag", "Notes", "Watched", "WatchedAsync"]

PULSE = 0.005
"""Seconds between two measurements of the machine's lag."""


class Lag:
    """Measures how late the machine wakes a sleeping thread and the event loop; a verb can be just as late."""

    def __init__(self) -> None:
        self._late: dict[str, list[tuple[float, float]]] = {"thread": [], "loop": []}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def since(self, moment: float) -> float:
        """Return the sum of all delays since that moment, in the thread or in the loop, whichever is larger."""
        return max(sum(by for woke, by in _newest_until(late, moment)) for late in self._late.values())

    def _watch(self) -> None:
        while not self._over.is_set():
            began = time.monotonic()
            time.sleep(PULSE)
            self._note("thread", began)

    async def _watch_loop(self) -> None:
        while True:
            began = time.monotonic()
            await asyncio.sleep(PULSE)
            self._note("loop", began)

    def _note(self, where: str, began: float) -> None:
        woke = time.monotonic()
        self._late[where].append((woke, woke - began - PULSE))

    async def __aenter__(self) -> Self:
        self._thread.start()
        self._task = asyncio.ensure_future(self._watch_loop())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._task.cancel()
        self._over.set()
        self._thread.join()


def _newest_until(late: list[tuple[float, float]], moment: float) -> Iterator[tuple[float, float]]:
    for woke, by in reversed(late):
        if woke < moment:
            return
        yield woke, by


class Notes(Protocol):
    """Receives what the watched layers report."""

    def note_verb(self, began: float) -> None:
        """Note a verb that is over, and when it began."""
        ...

    def note_completed(self, result: bytes | None, outcome: Any) -> None:
        """Note a completion and its outcome."""
        ...


class Watched:
    """A layer whose verbs are timed, and whose acknowledged completions are noted."""

    def __init__(self, layer: Any, notes: Notes) -> None:
        self.layer = layer
        self.notes = notes

    def acquire(self, claim: Any) -> Any:
        """As the layer's."""
        return self._call(self.layer.acquire, claim)

    def extend(self, claim: Any) -> Any:
        """As the layer's."""
        return self._call(self.layer.extend, claim)

    def release(self, claim: Any) -> Any:
        """As the layer's."""
        return self._call(self.layer.release, claim)

    def complete(self, claim: Any, result: Any) -> Any:
        """As the layer's."""
        outcome = self._call(self.layer.complete, claim, result)
        self.notes.note_completed(result, outcome)
        return outcome

    def _call(self, verb: Callable[..., Any], *arguments: Any) -> Any:
        began = time.monotonic()
        try:
            return verb(*arguments)
        finally:
            self.notes.note_verb(began)


class WatchedAsync(Watched):
    """The same for an async layer."""

    async def acquire(self, claim: Any) -> Any:
        """As the layer's."""
        return await self._acall(self.layer.acquire, claim)

    async def extend(self, claim: Any) -> Any:
        """As the layer's."""
        return await self._acall(self.layer.extend, claim)

    async def release(self, claim: Any) -> Any:
        """As the layer's."""
        return await self._acall(self.layer.release, claim)

    async def complete(self, claim: Any, result: Any) -> Any:
        """As the layer's."""
        outcome = await self._acall(self.layer.complete, claim, result)
        self.notes.note_completed(result, outcome)
        return outcome

    async def _acall(self, verb: Callable[..., Any], *arguments: Any) -> Any:
        began = time.monotonic()
        try:
            return await verb(*arguments)
        finally:
            self.notes.note_verb(began)
