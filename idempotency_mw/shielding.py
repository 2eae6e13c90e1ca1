"""Sees a thing done though its task is cancelled, once or at each turn of the loop."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import TypeVar, TypeVarTuple

__all__ = ["to_its_end", "until_done"]

Answer = TypeVar("Answer")
Values = TypeVarTuple("Values")


async def to_its_end(step: Callable[[*Values], Awaitable[Answer]], *values: *Values) -> Answer:
    """Await a step that settles; cancelled, see it done first, and then let the cancellation go on.

    The step that was cancelled may have reached the store or not, and is simply taken again: repeated, it changes
    nothing. So no task is needed unless somebody cancels. What the second one returns nobody hears: it reports for
    itself what has to be known.
    """
    try:
        return await step(*values)
    except asyncio.CancelledError:
        await until_done(asyncio.ensure_future(step(*values)))
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
