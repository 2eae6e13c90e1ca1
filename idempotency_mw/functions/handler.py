"""The way without a decorator: a handler runs any call under its key.

handler = IdempotencyHandler(store, config)
handler.handle(Call("payment-17", name="charge"), lambda: charge(17))
"""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from idempotency_mw.core.config import IdempotencyConfig
from idempotency_mw.errors import IdempotencyConfigurationError
from idempotency_mw.functions.calls import Call
from idempotency_mw.functions.run import run, run_async, runs_async
from idempotency_mw.lifecycle.claims import AsyncClaimLifecycle, ClaimLifecycle
from idempotency_mw.lifecycle.startup import announce, warn_of_shared_namespace
from idempotency_mw.persistence.adapted import Store, for_async, for_blocking
from idempotency_mw.persistence.base import PersistenceLayer

__all__ = ["AsyncIdempotencyHandler", "IdempotencyHandler"]

Answer = TypeVar("Answer")


class IdempotencyHandler:
    """Runs plain functions. `persistence_store` is a blocking layer.

    Raises `IdempotencyConfigurationError` if the layer is async, or no layer.
    """

    def __init__(self, persistence_store: PersistenceLayer, config: IdempotencyConfig) -> None:
        self._lifecycle = ClaimLifecycle(for_blocking(persistence_store, config), config)
        _announce(self, persistence_store, config)

    def handle(self, call: Call, function: Callable[[], Answer]) -> Answer:
        """Run the function, or return what it returned for this key before. A refusal is raised as its error.

        Raises `IdempotencyKeyError` if the call has no key, and `IdempotencyConfigurationError` if the function
        is async.
        """
        if runs_async(function):
            raise IdempotencyConfigurationError("an async function needs an AsyncIdempotencyHandler")
        return run(self._lifecycle, call.keyed(self._lifecycle.config), function)


class AsyncIdempotencyHandler:
    """Runs async functions. `persistence_store` is an async layer, or a blocking one, which is run in threads.

    Raises `IdempotencyConfigurationError` if it is no layer.
    """

    def __init__(self, persistence_store: Store, config: IdempotencyConfig) -> None:
        self._lifecycle = AsyncClaimLifecycle(for_async(persistence_store, config), config)
        _announce(self, persistence_store, config)

    async def handle(self, call: Call, function: Callable[[], Awaitable[Answer]]) -> Answer:
        """As `IdempotencyHandler.handle`, for an async function."""
        return await run_async(self._lifecycle, call.keyed(self._lifecycle.config), function)


def _announce(handler: object, persistence_store: object, config: IdempotencyConfig) -> None:
    surface = type(handler).__name__
    announce(surface, ("key given with each call",), persistence_store, config)
    warn_of_shared_namespace(surface, persistence_store, config)
