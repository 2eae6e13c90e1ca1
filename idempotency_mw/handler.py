"""Does what the machine says: acquires, waits, keeps the lease, settles. Knows no HTTP.

The blocking handler stands above the async one, line for line the same, but for what only one of them has to
mind: cancellation.

    decision = handler.begin(operation)
    if it is Execute:
        heartbeat = handler.heartbeat(decision.claim); heartbeat.start()
        … run the app …
        heartbeat.stop()
        reply = handler.settle(decision.claim, ending, encode, sent=…)

Where there is nothing between the parts, `handle` is all of it:

    handler.handle(Call("payment-17", name="charge"), lambda: charge(17))
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import cached_property
from os import urandom
from typing import Generic, Self, TypeVar, assert_never

from idempotency_mw import report
from idempotency_mw.calls import Call, handle, handle_async
from idempotency_mw.core.config import IdempotencyConfig
from idempotency_mw.core.machine import (
    Abandon,
    Complete,
    Deliver,
    Ending,
    Execute,
    Kept,
    Reject,
    Release,
    Replay,
    Unprotected,
    may_wait,
    on_acquired,
    on_completed,
    on_ended,
    on_store_failure,
)
from idempotency_mw.core.record import Claim, Lost, Operation, Settled
from idempotency_mw.errors import IdempotencyPersistenceLayerError, IdempotencyRecordError
from idempotency_mw.heartbeat import AsyncHeartbeat, AsyncPulse, Heartbeat
from idempotency_mw.persistence.base import AsyncPersistenceLayer, PersistenceLayer
from idempotency_mw.shielding import to_its_end
from idempotency_mw.waiting import Left, Waiters, pauses, waitable

__all__ = ["AsyncIdempotencyHandler", "Decision", "Encode", "IdempotencyHandler"]

Decision = Execute | Replay | Reject | Unprotected
Encode = Callable[[Kept], bytes | None]
"""Returns the result to keep, or None where it can't be kept. Asked only after the machine chose to keep one."""

Answer = TypeVar("Answer")
Store = TypeVar("Store")

SHORTEST_LEASE_MS = 1000
LONGEST_FINISH = 5.0


class _Handler(Generic[Store]):
    """What both handlers have in common: what they are made of. Immutable, and shared by all threads or tasks."""

    def __init__(
        self,
        persistence_store: Store,
        config: IdempotencyConfig,
        *,
        left: Left | None = None,
        waiters: Waiters | None = None,
    ) -> None:
        self.store = persistence_store
        self.config = config
        self._left = left
        self._lease_ms = config.lease_ms
        self._retention_ms = config.retention_ms
        self._may_take_over = config.after_crash == "retry"
        self._waiters = waiters or Waiters(config.max_waiters)

    def within(self, left: Left) -> Self:
        """Return a handler for a process that dies when `left()` seconds are over.

        What is left when a claim is made is its lease, whatever the configuration says, nobody extends it, and
        waiting does not exceed it.
        """
        config = replace(self.config, heartbeat=False)
        return type(self)(self.store, config, left=left, waiters=self._waiters)

    def waitable(self, seconds: float) -> float:
        """Return how much of so many seconds may be spent waiting."""
        return waitable(seconds, self._left)

    def _claim(self, operation: Operation) -> Claim:
        lease_ms = self._lease_ms if self._left is None else max(round(self._left() * 1000), SHORTEST_LEASE_MS)
        return Claim(operation, urandom(16).hex(), lease_ms, self._retention_ms, self._may_take_over)


class IdempotencyHandler(_Handler[PersistenceLayer]):
    """For blocking code and blocking layers."""

    def begin(
        self,
        operation: Operation,
        *,
        wait_seconds: float | None = None,
        pause: Callable[[float], object] = time.sleep,
    ) -> Decision:
        """Decide what the request gets; a duplicate of one that runs waits, for `wait_seconds` at most.

        Where `max_waiters` wait for this key already, it is refused at once. `pause` spends the seconds between
        two tries; what it raises ends the waiting, and no claim is held then.
        """
        decision = self._try(operation)
        longest = self.config.wait_seconds if wait_seconds is None else wait_seconds
        if longest <= 0 or not may_wait(decision) or not self._waiters.enter(operation.storage_key):
            return decision
        try:
            for seconds in pauses(self.waitable(longest)):
                pause(seconds)
                decision = self._try(operation, waited=True)
                if not may_wait(decision):
                    break
        finally:
            self._waiters.leave(operation.storage_key)
        return decision

    def handle(self, call: Call, function: Callable[[], Answer]) -> Answer:
        """Run the function, or return what it returned for this key before; a refusal is raised as its error."""
        return handle(self, call, function)

    def heartbeat(self, claim: Claim) -> Heartbeat:
        """Return what keeps the claim's lease, not started."""
        return Heartbeat(self.store, claim, self.config)

    def settle(
        self, claim: Claim, ending: Ending, encode: Encode, *, sent: bool = False
    ) -> Deliver | Replay | Reject:
        """End the claim as its run ended, and decide what its client gets. `sent`: part of an answer is out.

        Whatever the layer raises is reported: the effect has happened, and its answer must not be lost with it.
        """
        ended = on_ended(ending, self.config.on_error)
        match ended:
            case Complete(kept):
                return self._complete(claim, ended, _result(kept, encode, claim), sent=sent)
            case Release():
                return self._release(claim, ended)
            case Abandon():
                return Deliver()
            case _:
                assert_never(ended)

    def _try(self, operation: Operation, *, waited: bool = False) -> Decision:
        claim = self._claim(operation)
        try:
            return on_acquired(claim, self.store.acquire(claim))
        except IdempotencyPersistenceLayerError as error:
            return _without_store(claim, self.config, error, waited=waited)

    def _complete(
        self, claim: Claim, ended: Complete, result: bytes | None, *, sent: bool
    ) -> Deliver | Replay | Reject:
        try:
            outcome = self.store.complete(claim, result)
        except Exception as error:  # noqa: BLE001 - a layer of the user's own raises what it likes
            return _unsettled(claim, ended, error)
        return _completed(claim, outcome, sent=sent)

    def _release(self, claim: Claim, ended: Release) -> Deliver:
        try:
            self.store.release(claim)
        except Exception as error:  # noqa: BLE001 - as above
            return _unsettled(claim, ended, error)
        return Deliver()


class AsyncIdempotencyHandler(_Handler[AsyncPersistenceLayer]):
    """For asyncio code and async layers."""

    async def begin(
        self,
        operation: Operation,
        *,
        wait_seconds: float | None = None,
        pause: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> Decision:
        """Decide what the request gets; a duplicate of one that runs waits, for `wait_seconds` at most.

        Where `max_waiters` wait for this key already, it is refused at once. `pause` spends the seconds between
        two tries; what it raises ends the waiting, and no claim is held then.
        """
        decision = await self._try(operation)
        longest = self.config.wait_seconds if wait_seconds is None else wait_seconds
        if longest <= 0 or not may_wait(decision) or not self._waiters.enter(operation.storage_key):
            return decision
        try:
            for seconds in pauses(self.waitable(longest)):
                await pause(seconds)
                decision = await self._try(operation, waited=True)
                if not may_wait(decision):
                    break
        finally:
            self._waiters.leave(operation.storage_key)
        return decision

    async def handle(self, call: Call, function: Callable[[], Awaitable[Answer]]) -> Answer:
        """Run the function, or return what it returned for this key before; a refusal is raised as its error."""
        return await handle_async(self, call, function)

    def heartbeat(self, claim: Claim) -> AsyncHeartbeat:
        """Return what keeps the claim's lease, not started."""
        return AsyncHeartbeat(self.store, claim, self.config, self._pulse)

    @cached_property
    def _pulse(self) -> AsyncPulse:
        return AsyncPulse(self.config.lease_seconds / 3)

    async def settle(
        self, claim: Claim, ending: Ending, encode: Encode, *, sent: bool = False
    ) -> Deliver | Replay | Reject:
        """End the claim as its run ended, and decide what its client gets. `sent`: part of an answer is out.

        Whatever the layer raises is reported: the effect has happened, and its answer must not be lost with it.
        Cancelled, it still writes and reports, and the cancellation goes on after that.
        """
        ended = on_ended(ending, self.config.on_error)
        match ended:
            case Complete(kept):
                result = _result(kept, encode, claim)
                return await to_its_end(self._complete, claim, ended, result, sent)
            case Release():
                return await to_its_end(self._release, claim, ended)
            case Abandon():
                return Deliver()
            case _:
                assert_never(ended)

    async def finish(self) -> None:
        """Wait for releases that the store still has under way, as long as this process may; then stop them.

        For a process that is frozen when its call is over: nothing of ours may go on in the next one.
        """
        self._pulse.line().rest()
        until_released = getattr(self.store, "until_released", None)
        if until_released is not None:
            await until_released(self.waitable(LONGEST_FINISH))

    async def _try(self, operation: Operation, *, waited: bool = False) -> Decision:
        claim = self._claim(operation)
        try:
            return on_acquired(claim, await self.store.acquire(claim))
        except IdempotencyPersistenceLayerError as error:
            return _without_store(claim, self.config, error, waited=waited)

    async def _complete(
        self,
        claim: Claim,
        ended: Complete,
        result: bytes | None,
        sent: bool,  # noqa: FBT001 - passed on in order
    ) -> Deliver | Replay | Reject:
        try:
            outcome = await self.store.complete(claim, result)
        except Exception as error:  # noqa: BLE001 - a layer of the user's own raises what it likes
            return _unsettled(claim, ended, error)
        return _completed(claim, outcome, sent=sent)

    async def _release(self, claim: Claim, ended: Release) -> Deliver:
        try:
            await self.store.release(claim)
        except Exception as error:  # noqa: BLE001 - as above
            return _unsettled(claim, ended, error)
        return Deliver()


def _without_store(
    claim: Claim, config: IdempotencyConfig, error: IdempotencyPersistenceLayerError, *, waited: bool
) -> Reject | Unprotected:
    unreadable = isinstance(error, IdempotencyRecordError)
    decision = on_store_failure(unreadable=unreadable, policy=config.on_store_failure, waited=waited)
    if isinstance(decision, Unprotected):
        report.store_passed_by(claim.storage_key, error)
    else:
        report.store_refused(claim.storage_key, error)
        decision = replace(decision, cause=error)
    return decision


def _result(kept: Kept, encode: Encode, claim: Claim) -> bytes | None:
    if kept is Kept.NOTHING:
        report.answer_not_kept(claim.storage_key)
        return None
    result = encode(kept)
    if result is None:
        report.answer_not_storable(claim.storage_key)
    return result


def _completed(claim: Claim, outcome: Settled | Lost, *, sent: bool) -> Deliver | Replay | Reject:
    if isinstance(outcome, Lost):
        report.completion_lost(claim.storage_key)
    return on_completed(claim, outcome, sent=sent)


def _unsettled(claim: Claim, ended: Complete | Release, error: Exception) -> Deliver:
    report.claim_not_settled(claim.storage_key, ended, error)
    return Deliver()
