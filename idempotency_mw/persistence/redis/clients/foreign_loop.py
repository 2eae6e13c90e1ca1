"""An event loop that is over, or was copied by a fork: connections on it are closed without running it.

A loop is over when it is closed, as `asyncio.run` leaves it, or when another one runs in its thread. Lambda
handlers and scripts that call `asyncio.run` again and again leave clients on such loops, and nothing can be
awaited there any more. Two things stand in the way of closing their sockets, and each is put aside for as long
as that takes.

uvloop's transports never look at either of these names of their loop. A closed uvloop has closed its sockets
itself. On one that was only stopped, an aborted connection closes when the loop runs again, is closed, or is
collected.
"""

import asyncio
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import Context

__all__ = ["callbacks_run_at_once", "sockets_stay_registered"]


@contextmanager
def callbacks_run_at_once(loop: asyncio.AbstractEventLoop) -> Generator[None]:
    """Run a transport's callbacks at once, instead of in the loop's next turn, which may never come.

    asyncio's transports close their socket in such a callback. On a closed loop `call_soon` raises, the socket
    stays open, and asyncio complains of it when the transport is collected. Other callbacks are those of tasks
    that wait for the connection: they run when the loop runs again, or never.
    """
    usual = loop.call_soon

    def call_soon(callback: Callable[..., object], *args: object, context: Context | None = None) -> object:
        if isinstance(getattr(callback, "__self__", None), asyncio.BaseTransport | asyncio.BaseProtocol):
            return callback(*args)
        return None if loop.is_closed() else usual(callback, *args, context=context)

    loop.call_soon = call_soon  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        del loop.call_soon


@contextmanager
def sockets_stay_registered(loop: asyncio.AbstractEventLoop) -> Generator[None]:
    """Keep a loop that a fork copied from taking the sockets away from its original.

    time 0: the parent's loop registers a socket with its epoll. Time 1: the process forks; parent and child have
    one epoll between them. Time 2: the child closes its copy of the socket, and its loop removes it from the
    epoll. From then on the parent would hear nothing on its own connection.

    `_remove_reader` and `_remove_writer` are asyncio's names, Python 3.11 to 3.14.
    """
    names = [name for name in ("_remove_reader", "_remove_writer") if hasattr(loop, name)]
    for name in names:
        setattr(loop, name, _nothing)
    try:
        yield
    finally:
        for name in names:
            delattr(loop, name)


def _nothing(_socket: object) -> bool:
    return False
