"""Finishes a step although its task is cancelled, once or at every turn of the loop."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import TypeVar, TypeVarTuple

__all__ = ["to_its_end", "until_done"]

Answer = TypeVar("Answer")
Values = TypeVarTuple("Values")


async def to_its_end(step: Callable[[*Values], Awaitable[Answer]], *values: *Values) -> Answer:
    """Await a step that settles. If the task is cancelled, finish the step first, then stay cancelled.

    The cancelled step may or may not have reached the store, so it is taken again from its beginning: settling
    twice changes nothing. This way a task is made only when somebody cancels. The second step's return value is
    dropped; the step itself reports what has to be known.
    """
    try:
        return await step(*values)
    except asyncio.CancelledError:
        await until_done(asyncio.ensure_future(step(*values)))
        raise


async def until_done(future: asyncio.Future[Answer]) -> None:
    """Wait until the future is done, however often the waiting is cancelled."""
    with _shield():
        while not future.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([future])


def _shield() -> AbstractContextManager[object]:
    """Return a scope in which anyio, if it is installed, does not cancel again at every turn of the loop."""
    try:
        from anyio import CancelScope
    except ImportError:
        return nullcontext()
    return CancelScope(shield=True)
