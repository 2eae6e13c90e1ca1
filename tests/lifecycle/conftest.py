"""Both lifecycles behind one interface, and a time for waiting duplicates that passes while they pause."""

import inspect
from typing import Any

import pytest

from idempotency_mw import IdempotencyConfig
from idempotency_mw.lifecycle import waiting
from idempotency_mw.lifecycle.claims import AsyncClaimLifecycle, ClaimLifecycle
from idempotency_mw.lifecycle.waiting import Waiters
from tests.lifecycle.scripted import CLAIM, OPERATION, AsyncScriptedStore, ScriptedStore


class Either:
    """The blocking or the async lifecycle, called in the same way."""

    store: ScriptedStore
    waiters: Waiters
    lifecycle: Any

    def __init__(self, kind: str) -> None:
        self.is_async = kind == "async"

    def over(self, config: IdempotencyConfig | None = None, **answers: list[Any]) -> "Either":
        """Build the lifecycle over a store with these answers."""
        config = config or IdempotencyConfig()
        self.store = (AsyncScriptedStore if self.is_async else ScriptedStore)(**answers)
        self.waiters = Waiters(config.max_waiters)
        kind: Any = AsyncClaimLifecycle if self.is_async else ClaimLifecycle
        self.lifecycle = kind(self.store, config, waiters=self.waiters)
        return self

    async def begin(self, *, pause: Any = None, **options: Any) -> Any:
        if pause is not None:

            async def async_pause(seconds: float) -> None:
                pause(seconds)

            options["pause"] = async_pause if self.is_async else pause
        return await _result(self.lifecycle.begin(OPERATION, **options))

    async def settle(self, ending: Any, *, encode: Any = lambda kept: b"result", **options: Any) -> Any:
        return await _result(self.lifecycle.settle(CLAIM, ending, encode, **options))


async def _result(returned: Any) -> Any:
    return await returned if inspect.isawaitable(returned) else returned


@pytest.fixture(params=["blocking", "async"])
def either(request: pytest.FixtureRequest) -> Either:
    return Either(request.param)


class PausedTime:
    """Stands for the module `time` in `waiting`: its seconds pass only by `pause`."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pauses: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> PausedTime:
    paused = PausedTime()
    monkeypatch.setattr(waiting, "time", paused)
    return paused
