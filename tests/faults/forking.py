"""Processes that run one request and are killed or stopped during it.

    with ForkServer() as fork_server:
        child = fork_server.run(surface, store.address(), "after the effect", folder)
        await child.until_dead()     # or until_stopped()

The fork server is one process with one thread that has imported everything; it forks a child for each request. A
fork takes milliseconds; a new interpreter takes a second.
"""

import asyncio
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.asgi.driver import until

MOMENTS = ("before the effect", "after the effect", "before complete")


@dataclass
class Child:
    """One request in a process of its own."""

    pid: int
    folder: Path

    @property
    def effects(self) -> int:
        return (self.folder / "effects").read_text().count("!") if (self.folder / "effects").exists() else 0

    @property
    def answer(self) -> dict[str, Any] | None:
        path = self.folder / "answer"
        return json.loads(path.read_text()) if path.exists() else None

    def state(self) -> str:
        """Return the kernel's letter for its state, or "-" once it is gone."""
        try:
            return Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return "-"

    async def until_dead(self) -> None:
        await until(lambda: self.state() in "Z-", within=20)

    async def until_stopped(self) -> None:
        await until(lambda: self.state() == "T", within=20)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)


class ForkServer:
    """Forks children on demand."""

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "tests.faults.forking"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._pids: list[int] = []
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()

    def run(self, surface: str, store: dict[str, Any], how: str, folder: Path) -> Child:
        """Start a request that is killed at one of the `MOMENTS`, or with "stopped" stops itself while it runs."""
        line = json.dumps({"surface": surface, "store": store, "how": how, "folder": str(folder)})
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return Child(int(self._process.stdout.readline()), folder)


# In the fork server and its children.


def _serve_forks() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # dead children leave no zombies
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            try:
                asyncio.run(_request(**json.loads(line)))
            finally:
                os._exit(0)
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()


async def _request(surface: str, store: dict[str, Any], how: str, folder: str) -> None:
    from idempotency_mw import IdempotencyConfig
    from tests.faults.surfaces import Play, surface_over

    place = Path(folder)
    layer = _layer(store, is_async=surface in ("asgi", "async function"))
    if how == "before complete":
        layer = _KilledBeforeComplete(layer) if not _is_async(layer) else _KilledBeforeCompleteAsync(layer)

    def app(body: bytes) -> None:
        if how == "before the effect":
            _kill()
        with (place / "effects").open("a") as effects:
            effects.write("!")
        if how == "after the effect":
            _kill()
        if how == "stopped":
            os.kill(os.getpid(), signal.SIGSTOP)
            time.sleep(0.2)  # another thread may stop before this one

    play = Play(seen=app, chunks=(b"the first",))
    seen = await surface_over(surface, layer, play, config=IdempotencyConfig()).send()
    temporary = place / "answer.new"
    temporary.write_text(json.dumps({"answer": (seen.answer or b"").decode(), "replayed": seen.replayed}))
    temporary.rename(place / "answer")


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def _layer(store: dict[str, Any], *, is_async: bool) -> Any:
    from idempotency_mw.persistence.redis import AsyncRedisPersistenceLayer, RedisConnection, RedisPersistenceLayer
    from idempotency_mw.persistence.sqlite import SQLitePersistenceLayer

    if "path" in store:
        return SQLitePersistenceLayer(store["path"], durability="normal", timeout_seconds=20)
    kind = AsyncRedisPersistenceLayer if is_async else RedisPersistenceLayer
    options = store["connection"]
    if options.get("sentinels"):
        options = options | {"sentinels": [tuple(each) for each in options["sentinels"]]}
    return kind.connect(RedisConnection(**options), key_prefix=store["prefix"], timeout_seconds=20)


def _is_async(layer: Any) -> bool:
    return asyncio.iscoroutinefunction(layer.acquire)


class _KilledBeforeComplete:
    def __init__(self, layer: Any) -> None:
        self.acquire, self.extend, self.release = layer.acquire, layer.extend, layer.release

    def complete(self, claim: Any, result: Any) -> Any:
        _kill()


class _KilledBeforeCompleteAsync:
    def __init__(self, layer: Any) -> None:
        self.acquire, self.extend, self.release = layer.acquire, layer.extend, layer.release

    async def complete(self, claim: Any, result: Any) -> Any:
        _kill()


if __name__ == "__main__":
    for name in ("idempotency_mw.persistence.redis", "idempotency_mw.persistence.sqlite", "tests.faults.surfaces"):
        importlib.import_module(name)  # once, for every child
    _serve_forks()
