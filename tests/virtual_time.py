"""An event loop whose clock jumps to the next timer, for tests of what asyncio code does over time.

Such a test sleeps without taking time, and a busy machine can't change the order in which its timers fire. It must
use no I/O and no threads: the clock would jump while they work.
"""

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any

__all__ = ["on_virtual_time"]


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        self._selector.select, self._poll = self._jump, self._selector.select  # type: ignore[attr-defined]

    def time(self) -> float:
        return self._now

    def _jump(self, timeout: float | None = None) -> Any:
        """Return what is ready; if nothing is, move the clock on by the time that the loop would wait."""
        ready = self._poll(0)
        if not ready:
            assert timeout is not None, "every task waits, and no timer is set"
            self._now += timeout
        return ready


def on_virtual_time(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an async test on such a loop."""

    @functools.wraps(test)
    def run(*arguments: Any, **options: Any) -> None:
        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            runner.run(test(*arguments, **options))

    return run
