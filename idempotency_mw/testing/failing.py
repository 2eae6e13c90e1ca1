"""Layers around a layer that fail on demand: before the verb, or after it, with the reply lost.

layer = FailingPersistenceLayer(MemoryPersistenceLayer())
layer.fail_before("acquire")                 # the next acquire never reaches the store
layer.lose_reply("complete", times=2)        # the next two completes take effect, and raise
layer.fail_before("extend", times=None)      # every extend from now on
"""

from dataclasses import dataclass
from typing import Literal, TypeVar

from idempotency_mw.core.record import Acquired, Claim, Existing, Lost, Settled
from idempotency_mw.errors import IdempotencyPersistenceConnectionError
from idempotency_mw.persistence.base import AsyncPersistenceLayer, PersistenceLayer

__all__ = ["AsyncFailingPersistenceLayer", "FailingPersistenceLayer"]

Answer = TypeVar("Answer")
Verb = Literal["acquire", "extend", "complete", "release"]


@dataclass(slots=True)
class _Fault:
    verb: Verb
    moment: Literal["before", "after"]
    error: Exception
    times: int | None

    def use_up(self) -> bool:
        """Count one use, and tell whether it was the last."""
        if self.times is not None:
            self.times -= 1
        return self.times == 0


class _Failing:
    """The planned faults, and the calls so far."""

    def __init__(self) -> None:
        self.calls: list[Verb] = []
        """The verbs in the order in which they were called, failed ones included."""
        self._faults: list[_Fault] = []

    def fail_before(self, verb: Verb, error: Exception | None = None, *, times: int | None = 1) -> None:
        """Raise the error instead of calling the verb, for the next `times` calls; None means for ever."""
        self._faults.append(_Fault(verb, "before", error or _unreachable(), times))

    def lose_reply(self, verb: Verb, error: Exception | None = None, *, times: int | None = 1) -> None:
        """Call the verb, and raise the error instead of returning its answer; `times` as above."""
        self._faults.append(_Fault(verb, "after", error or _unreachable(), times))

    def heal(self) -> None:
        """Drop the planned faults."""
        self._faults.clear()

    def _begin(self, verb: Verb) -> _Fault | None:
        """Note the call; raise, or return the fault that is to follow it."""
        self.calls.append(verb)
        fault = next((fault for fault in self._faults if fault.verb == verb), None)
        if fault is None:
            return None
        if fault.use_up():
            self._faults.remove(fault)
        if fault.moment == "before":
            raise fault.error
        return fault


class FailingPersistenceLayer(_Failing):
    """A blocking layer around a blocking layer."""

    def __init__(self, layer: PersistenceLayer) -> None:
        super().__init__()
        self._layer = layer

    def acquire(self, claim: Claim) -> Acquired | Existing:
        """As `PersistenceLayer.acquire`."""
        fault = self._begin("acquire")
        return _unless(fault, self._layer.acquire(claim))

    def extend(self, claim: Claim) -> bool:
        """As `PersistenceLayer.extend`."""
        fault = self._begin("extend")
        return _unless(fault, self._layer.extend(claim))

    def complete(self, claim: Claim, result: bytes | None) -> Settled | Lost:
        """As `PersistenceLayer.complete`."""
        fault = self._begin("complete")
        return _unless(fault, self._layer.complete(claim, result))

    def release(self, claim: Claim) -> bool:
        """As `PersistenceLayer.release`."""
        fault = self._begin("release")
        return _unless(fault, self._layer.release(claim))


class AsyncFailingPersistenceLayer(_Failing):
    """An async layer around an async layer."""

    def __init__(self, layer: AsyncPersistenceLayer) -> None:
        super().__init__()
        self._layer = layer

    async def acquire(self, claim: Claim) -> Acquired | Existing:
        """As `PersistenceLayer.acquire`."""
        fault = self._begin("acquire")
        return _unless(fault, await self._layer.acquire(claim))

    async def extend(self, claim: Claim) -> bool:
        """As `PersistenceLayer.extend`."""
        fault = self._begin("extend")
        return _unless(fault, await self._layer.extend(claim))

    async def complete(self, claim: Claim, result: bytes | None) -> Settled | Lost:
        """As `PersistenceLayer.complete`."""
        fault = self._begin("complete")
        return _unless(fault, await self._layer.complete(claim, result))

    async def release(self, claim: Claim) -> bool:
        """As `PersistenceLayer.release`."""
        fault = self._begin("release")
        return _unless(fault, await self._layer.release(claim))


def _unless(fault: _Fault | None, answer: Answer) -> Answer:
    if fault is not None:
        raise fault.error
    return answer


def _unreachable() -> IdempotencyPersistenceConnectionError:
    return IdempotencyPersistenceConnectionError("the store can't be reached, as planned by the test")
