"""Layers around a layer: slow, blocked, failing, as no real store is on demand."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from idempotency_mw.errors import IdempotencyPersistenceConnectionError
from idempotency_mw.persistence.base import VERBS
from idempotency_mw.persistence.threaded import as_async


class AroundLayer:
    """Passes the verbs on to `store` and lists them in `calls`, their claims in `claims`."""

    def __init__(self, store: Any) -> None:
        self.store = store
        self.inner = as_async(store)
        self.calls: list[str] = []
        self.claims: list[Any] = []

    async def _call(self, verb: str, *arguments: Any) -> Any:
        return await getattr(self.inner, verb)(*arguments)

    async def _counted(self, verb: str, *arguments: Any) -> Any:
        self.calls.append(verb)
        self.claims.append(arguments[0])
        return await self._call(verb, *arguments)

    async def acquire(self, claim: Any) -> Any:
        return await self._counted("acquire", claim)

    async def extend(self, claim: Any) -> Any:
        return await self._counted("extend", claim)

    async def complete(self, claim: Any, result: Any) -> Any:
        return await self._counted("complete", claim, result)

    async def release(self, claim: Any) -> Any:
        return await self._counted("release", claim)


class SlowLayer(AroundLayer):
    """Waits some loop iterations before and after the named verbs; the write happens in between."""

    def __init__(self, store: Any, *, before: int = 5, after: int = 5, verbs: tuple[str, ...] = VERBS) -> None:
        super().__init__(store)
        self.before = before
        self.after = after
        self.verbs = verbs

    async def _call(self, verb: str, *arguments: Any) -> Any:
        slow = verb in self.verbs
        for _ in range(self.before * slow):
            await asyncio.sleep(0)
        answer = await super()._call(verb, *arguments)
        for _ in range(self.after * slow):
            await asyncio.sleep(0)
        return answer


class GatedLayer(AroundLayer):
    """Holds the named verbs until `gate` is set; `reached` is set when a verb waits there."""

    def __init__(self, store: Any, *verbs: str) -> None:
        super().__init__(store)
        self.verbs = verbs
        self.gate = asyncio.Event()
        self.reached = asyncio.Event()

    async def _call(self, verb: str, *arguments: Any) -> Any:
        if verb in self.verbs:
            self.reached.set()
            await self.gate.wait()
        return await super()._call(verb, *arguments)


class FailingLayer(AroundLayer):
    """Fails the named verbs always: without the write, or after it (`applied`)."""

    def __init__(
        self,
        store: Any,
        *verbs: str,
        applied: bool = False,
        error: Callable[[], Exception] = lambda: IdempotencyPersistenceConnectionError("no store"),
    ) -> None:
        super().__init__(store)
        self.verbs = verbs
        self.applied = applied
        self.error = error

    async def _call(self, verb: str, *arguments: Any) -> Any:
        if verb not in self.verbs:
            return await super()._call(verb, *arguments)
        if self.applied:
            await super()._call(verb, *arguments)
        raise self.error()


class HookedLayer(AroundLayer):
    """Calls a hook with the claim just before a verb reaches the store."""

    def __init__(self, store: Any, **hooks: Callable[[Any], Awaitable[object] | object]) -> None:
        super().__init__(store)
        self.hooks = hooks

    async def _call(self, verb: str, *arguments: Any) -> Any:
        if verb in self.hooks:
            done = self.hooks[verb](arguments[0])
            if asyncio.iscoroutine(done):
                await done
        return await super()._call(verb, *arguments)
