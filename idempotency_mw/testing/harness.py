"""The base of the conformance suite: how a layer is made, how time passes, and how verbs are called."""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property, partial
from inspect import isawaitable
from secrets import token_hex
from threading import Barrier
from typing import Any
from unittest import SkipTest

from idempotency_mw.core.record import Acquired, Claim, Existing, Lost, Operation, Record, Settled
from idempotency_mw.persistence.base import is_async

__all__ = ["LONG_MS", "PersistenceHarness", "a_claim", "rival"]

# ruff: noqa: S101 - the assertions are the purpose

LONG_MS = 60_000
"""A duration that outlasts any test: a minute."""


class PersistenceHarness:
    """What a subclass says about its layer, and what the tests call."""

    contenders = 32
    """How many threads or tasks race for one key."""
    moment_ms = 50
    """How long a short lease or retention is: long for one call of the layer, short for a test run."""

    def make_layer(self) -> Any:
        """Return a layer on the store under test, blocking or async. The harness closes it after the test."""
        raise NotImplementedError

    def pass_time(self, seconds: float) -> None:
        """Let this much time pass on the store's clock."""
        time.sleep(seconds)

    def plant(self, storage_key: str, data: bytes) -> None:  # noqa: ARG002 - for subclasses
        """Write these bytes where the record of the key would be, with any expiry longer than a test."""
        raise SkipTest("the test class can't put bytes into this store")

    def peek(self, storage_key: str) -> bytes | None:  # noqa: ARG002 - for subclasses
        """Return the bytes that stand for the key, or None."""
        raise SkipTest("the test class can't look into this store")

    def unreadable(self, in_progress: bytes) -> Sequence[bytes]:
        """Return bytes that are not a record, made from a record's.

        Override it to add what your format forbids.
        """
        lengths = {0, 1, len(in_progress) // 2, len(in_progress) - 1}
        return [*(in_progress[:length] for length in lengths), b"\x00" + in_progress[1:], b"{}", b"\xff" * 500]

    @cached_property
    def layer(self) -> Any:
        """The layer under test, made on first use."""
        return self.make_layer()

    @cached_property
    def _runner(self) -> asyncio.Runner:
        return asyncio.Runner(loop_factory=asyncio.new_event_loop)

    def teardown_method(self) -> None:
        """Close the layer, then the loop."""
        if "layer" in self.__dict__:
            close = getattr(self.layer, "aclose", None) or getattr(self.layer, "close", None)
            if close is not None:
                self.call(close)
        if "_runner" in self.__dict__:
            self._runner.close()

    def call(self, verb: Callable[..., Any], *arguments: Any) -> Any:
        """Call a verb, blocking or async, and return its answer."""
        if not is_async(self.layer):
            return verb(*arguments)
        return self._runner.run(_awaited(partial(verb, *arguments)))

    def together(self, calls: Sequence[Callable[[], Any]]) -> list[Any]:
        """Make all the calls at once, each in its own thread or task, and return the answers in order."""
        if is_async(self.layer):
            return self._runner.run(_gathered(calls))
        start = Barrier(len(calls))
        with ThreadPoolExecutor(len(calls)) as threads:
            return list(threads.map(partial(_started_at, start), calls))

    def acquire(self, claim: Claim) -> Any:
        """Call the verb."""
        return self.call(self.layer.acquire, claim)

    def extend(self, claim: Claim) -> Any:
        """Call the verb."""
        return self.call(self.layer.extend, claim)

    def complete(self, claim: Claim, result: bytes | None) -> Any:
        """Call the verb."""
        return self.call(self.layer.complete, claim, result)

    def release(self, claim: Claim) -> Any:
        """Call the verb."""
        return self.call(self.layer.release, claim)

    def standing(self, claim: Claim) -> Record | None:
        """Return the record of the claim's key as another claim sees it, and leave it unchanged."""
        stranger = replace(rival(claim), may_take_over=False)
        found = self.acquire(stranger)
        if isinstance(found, Existing):
            return found.record
        assert self.release(stranger)
        return None

    def acquired(self, **changes: Any) -> Claim:
        """Return a claim that stands, on a new key."""
        claim = a_claim(**changes)
        assert self.acquire(claim) == Acquired(1)
        return claim

    def lapsed(self, **changes: Any) -> Claim:
        """Return a claim whose lease has lapsed, on a new key."""
        claim = self.acquired(lease_ms=self.moment_ms, **changes)
        self.pass_time(1.5 * self.moment_ms / 1000)
        return claim

    def completed(self, result: bytes | None = b"the answer", **changes: Any) -> Claim:
        """Return a claim that was completed, on a new key."""
        claim = self.acquired(**changes)
        assert self.complete(claim, result) == Settled()
        return claim

    def assert_powerless(self, claim: Claim) -> None:
        """Assert that the claim can't change the record."""
        before = self.standing(claim)
        assert self.extend(claim) is False
        assert self.release(claim) is False
        lost = self.complete(claim, b"a stranger's answer")
        after = self.standing(claim)
        assert isinstance(lost, Lost)
        assert _timeless(lost.record) == _timeless(before) == _timeless(after)


def a_claim(**changes: Any) -> Claim:
    """Return a claim on a new key, with long durations."""
    claim = Claim(Operation(token_hex(32), token_hex(32)), token_hex(16), lease_ms=LONG_MS, retention_ms=LONG_MS)
    return replace(claim, **changes)


def rival(claim: Claim, *, fingerprint: str | None = None) -> Claim:
    """Return another claim on the same key, by default for the same request, with long durations."""
    operation = Operation(claim.storage_key, fingerprint or claim.fingerprint)
    return Claim(operation, token_hex(16), lease_ms=LONG_MS, retention_ms=LONG_MS)


def _timeless(record: Record | None) -> Record | None:
    return None if record is None else replace(record, remaining_ms=0)


async def _awaited(call: Callable[[], Any]) -> Any:
    answer = call()
    return await answer if isawaitable(answer) else answer


async def _gathered(calls: Sequence[Callable[[], Any]]) -> list[Any]:
    return await asyncio.gather(*(call() for call in calls))


def _started_at(start: Barrier, call: Callable[[], Any]) -> Any:
    start.wait()
    return call()
