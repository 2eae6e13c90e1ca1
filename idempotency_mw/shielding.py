"""Sees a thing done though its task is cancelled, once or at each turn of the loop."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import TypeVar

from idempotency_mw.errors import IdempotencyPersistenceLayerError

__all__ = ["to_its_end", "until_done"]

Answer = TypeVar("Answer")


async def to_its_end(
    verb: Callable[[], Awaitable[Answer]], on_failure: Callable[[IdempotencyPersistenceLayerError], object]
) -> Answer:
    """Await a verb that settles; cancelled, see it done first, and then let the cancellation go on.

    The verb that was cancelled may have reached the store or not, and is simply said again: repeated, it changes
    nothing. So no task is needed unless somebody cancels. Only then is a failure handed to `on_failure`.
    """
    try:
        return await verb()
    except asyncio.CancelledError:
        again = asyncio.ensure_future(verb())
        await until_done(again)
        error = again.exception()
        if isinstance(error, IdempotencyPersistenceLayerError):
            on_failure(error)
        raise


async def until_done(future: asyncio.Future[Answer]) -> None:
    """Wait until it is done, however often the waiting is cancelled."""
    with _shield():
        while not future.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([future])


def _shield() -> AbstractContextManager[object]:
    """Return a scope in which anyio, where it is installed, does not cancel again at each turn of the loop."""
    try:
        from anyio import CancelScope
    except ImportError:
        return nullcontext()
    return CancelScope(shield=True)
