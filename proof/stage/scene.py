"""The app in the run's own process, over an async and a blocking layer, for runs that disturb the servers."""

import asyncio
import logging
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Self

from idempotency_mw.persistence.threaded import as_async
from proof.stage.app import Setting, Stage, asgi_app
from proof.stage.asking import Ask, asking
from proof.stage.clients import Clients
from proof.stage.journal import Reader

__all__ = ["Scene", "folder"]


@contextmanager
def folder() -> Iterator[Path]:
    """Make a temporary folder, and remove it at the end."""
    with TemporaryDirectory(prefix="stage-") as path:
        yield Path(path)


class Scene:
    """The app on both layers. An async context manager, to be used in the event loop in which the app is asked."""

    def __init__(self, where: Path, store: dict[str, Any], *, timeout_seconds: float = 2.0, **config: Any) -> None:
        # Hundreds of refusals are logged, as they should be. The run shows their number, not the log.
        logging.getLogger("idempotency_mw").addHandler(logging.NullHandler())
        config = {"lease_seconds": 10, "expires_after_seconds": 3600} | config
        setting = Setting(str(where), store, config, timeout_seconds)
        self.folder = where
        self.stage = Stage(setting)
        self.reader = Reader(setting.journal)
        self.asynchronous = setting.layer(is_async=True)
        self.blocking = setting.layer(is_async=False)
        self.asks: list[Ask] = [
            asking(asgi_app(setting, self.stage, layer)) for layer in (self.asynchronous, as_async(self.blocking))
        ]

    def clients(self, seed: str, count: int, longest: float = 0.05, **more: Any) -> Clients:
        """Return clients over both layers, whose executions take at most `longest` seconds."""

        def wish(draw: random.Random) -> dict[str, Any]:
            return {"seconds": round(draw.uniform(0, longest), 3)}

        return Clients(self.asks, wish, seed=seed, count=count, **more)

    def open_gate(self, gate: str) -> None:
        """Let the executions go on that wait at this gate."""
        (self.folder / gate).touch()

    async def have_begun(self, count: int) -> None:
        """Return once that many executions have begun."""
        self.reader.read()
        while len(self.reader.executions) < count:
            await asyncio.sleep(0.01)
            self.reader.read()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.asynchronous.aclose()
        await asyncio.to_thread(self.blocking.close)
        self.stage.journal.close()
