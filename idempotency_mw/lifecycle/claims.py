"""The life of one claim, as the machine decides it: acquire, wait, keep the lease, settle.

    decision = lifecycle.begin(operation)
    if it is Execute:
        heartbeat = lifecycle.heartbeat(decision.claim)
        heartbeat.start()
        ... run the app ...
        heartbeat.stop()
        reply = lifecycle.settle(decision.claim, ending, encode, sent=...)

Every run that began is told to `settle` how it ended, also if it was stopped (`Stopped`): what becomes of its
claim is the machine's decision, like every other.

The blocking lifecycle stands above the async one and equals it line by line. They differ only where one of them
has to handle cancellation.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import cached_property
from os import urandom
from typing import Generic, Self, TypeVar, assert_never

from idempotency_mw import report
from idempotency_mw.core.config import IdempotencyConfig
from idempotency_mw.core.machine import (
    Abandon,
    Complete,
    Deliver,
    Ending,
    Execute,
    Reject,
    Release,
    Replay,
    Unprotected,
    may_wait,
    on_acquired,
    on_ended,
    on_store_failure,
)
from idempotency_mw.core.record import Claim, Operation
from idempotency_mw.errors import IdempotencyPersistenceLayerError, IdempotencyRecordError
from idempotency_mw.lifecycle.async_heartbeat import AsyncHeartbeat, AsyncPulse
from idempotency_mw.lifecycle.heartbeat import Heartbeat
from idempotency_mw.lifecycle.settling import Encode, after_completion, not_settled, result_to_keep
from idempotency_mw.lifecycle.shielding import to_its_end
from idempotency_mw.lifecycle.waiting import RemainingSeconds, Waiters, pauses, waitable
from idempotency_mw.persistence.base import AsyncPersistenceLayer, PersistenceLayer

__all__ = ["AsyncClaimLifecycle", "ClaimLifecycle", "Decision"]

Decision = Execute | Replay | Reject | Unprotected

Store = TypeVar("Store")

SHORTEST_LEASE_MS = 1000
"""The least lease on Lambda. With a few milliseconds left, a lease of that length would lapse before the reply
of the acquire has arrived, and a duplicate could take the key over from an owner that has just begun."""

LONGEST_FINISH_SECONDS = 5.0
"""How long the end of a Lambda call waits for releases that are under way, if the context has so much time left.
A layer bounds each release by its `timeout_seconds`, 2.0 by default."""


class _Lifecycle(Generic[Store]):
    """What both lifecycles are made of. Immutable, and shared by all threads or tasks."""

    def __init__(
        self,
        persistence_store: Store,
        config: IdempotencyConfig,
        *,
        remaining: RemainingSeconds | None = None,
        waiters: Waiters | None = None,
    ) -> None:
        self.store = persistence_store
        self.config = config
        self._remaining = remaining
        self._lease_ms = config.lease_ms
        self._retention_ms = config.retention_ms
        self._may_take_over = config.after_crash == "retry"
        self._waiters = waiters or Waiters(config.max_waiters)

    def within(self, remaining: RemainingSeconds) -> Self:
        """Return a lifecycle for a process that dies when `remaining()` seconds have passed.

        The lease of a claim is what remains when the claim is made, whatever `lease_seconds` says. No heartbeat
        extends it, and waiting does not exceed it.
        """
        config = replace(self.config, heartbeat=False)
        return type(self)(self.store, config, remaining=remaining, waiters=self._waiters)

    def waitable(self, seconds: float) -> float:
        """Return how many of these seconds may be spent waiting."""
        return waitable(seconds, self._remaining)

    def _claim(self, operation: Operation) -> Claim:
        remaining = self._remaining
        lease_ms = self._lease_ms if remaining is None else max(round(remaining() * 1000), SHORTEST_LEASE_MS)
        return Claim(operation, urandom(16).hex(), lease_ms, self._retention_ms, self._may_take_over)


class ClaimLifecycle(_Lifecycle[PersistenceLayer]):
    """For blocking code and blocking layers."""

    def begin(
        self,
        operation: Operation,
        *,
        wait_seconds: float | None = None,
        pause: Callable[[float], object] = time.sleep,
    ) -> Decision:
        """Decide what the request gets. A duplicate of a running request waits up to `wait_seconds`.

        `wait_seconds=None` takes the configuration's. If `max_waiters` already wait for this key, the duplicate is
        refused at once. `pause` spends the seconds between two tries; an exception from it ends the waiting, and
        no claim is held then.
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

    def heartbeat(self, claim: Claim) -> Heartbeat:
        """Return the heartbeat that keeps the claim's lease, not started."""
        return Heartbeat(self.store, claim, self.config)

    def settle(
        self, claim: Claim, ending: Ending, encode: Encode, *, sent: bool = False
    ) -> Deliver | Replay | Reject:
        """End the claim according to how its run ended, and decide what its client gets.

        `sent` says that part of the run's own answer is out. An exception from the layer is reported, not raised:
        the effect has happened, and its answer must not be lost. After `Stopped` there is no I/O.
        """
        ended = on_ended(ending, self.config.on_error)
        match ended:
            case Complete(kept):
                return self._complete(claim, ended, result_to_keep(kept, encode, claim), sent=sent)
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
        except Exception as error:  # noqa: BLE001 - a user's own layer may raise anything
            return not_settled(claim, ended, error)
        return after_completion(claim, outcome, sent=sent)

    def _release(self, claim: Claim, ended: Release) -> Deliver:
        try:
            self.store.release(claim)
        except Exception as error:  # noqa: BLE001 - as above
            return not_settled(claim, ended, error)
        return Deliver()


class AsyncClaimLifecycle(_Lifecycle[AsyncPersistenceLayer]):
    """For asyncio code and async layers."""

    async def begin(
        self,
        operation: Operation,
        *,
        wait_seconds: float | None = None,
        pause: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> Decision:
        """As `ClaimLifecycle.begin`."""
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

    def heartbeat(self, claim: Claim) -> AsyncHeartbeat:
        """Return the heartbeat that keeps the claim's lease, not started."""
        return AsyncHeartbeat(self.store, claim, self.config, self._pulse)

    @cached_property
    def _pulse(self) -> AsyncPulse:
        return AsyncPulse(self.config.lease_seconds / 3)

    async def settle(
        self, claim: Claim, ending: Ending, encode: Encode, *, sent: bool = False
    ) -> Deliver | Replay | Reject:
        """As `ClaimLifecycle.settle`. When it is cancelled, it writes and reports first, then stays cancelled.

        After `Stopped` it never suspends, so that the coroutine of a run can be closed.
        """
        ended = on_ended(ending, self.config.on_error)
        match ended:
            case Complete(kept):
                result = result_to_keep(kept, encode, claim)
                return await to_its_end(self._complete, claim, ended, result, sent)
            case Release():
                return await to_its_end(self._release, claim, ended)
            case Abandon():
                return Deliver()
            case _:
                assert_never(ended)

    async def finish(self) -> None:
        """Wait for releases that are still under way, within the time that this process has; then stop them.

        For a process that is frozen after its call: nothing of ours may go on in the next call.
        """
        self._pulse.line().rest()
        until_released = getattr(self.store, "until_released", None)
        if until_released is not None:
            await until_released(self.waitable(LONGEST_FINISH_SECONDS))

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
        sent: bool,  # noqa: FBT001 - `to_its_end` passes values by position
    ) -> Deliver | Replay | Reject:
        try:
            outcome = await self.store.complete(claim, result)
        except Exception as error:  # noqa: BLE001 - a user's own layer may raise anything
            return not_settled(claim, ended, error)
        return after_completion(claim, outcome, sent=sent)

    async def _release(self, claim: Claim, ended: Release) -> Deliver:
        try:
            await self.store.release(claim)
        except Exception as error:  # noqa: BLE001 - as above
            return not_settled(claim, ended, error)
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
