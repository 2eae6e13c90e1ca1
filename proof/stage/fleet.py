"""Server processes on one port, as the run sees them: to be killed, stopped past a lease, and continued."""

import contextlib
import math
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from proof.stage.app import Setting
from proof.stage.workers import end_with_parent
from tests.servers import free_port

__all__ = ["COMMANDS", "Fate", "Fleet"]

ROOT = Path(__file__).parents[2]
COMMANDS = {
    "uvicorn": "proof.stage.workers {port} {workers}",
    "gunicorn": "gunicorn proof.stage.workers:application --bind 127.0.0.1:{port} --workers {workers} --preload "
    "--worker-class gthread --threads 32 --graceful-timeout 1 --log-level warning",
}


@dataclass(frozen=True, slots=True)
class Fate:
    """A period in which a process did nothing: from its death on, or while it was stopped."""

    pid: int
    since: float
    until: float = math.inf

    @property
    def is_death(self) -> bool:
        """Whether the process never continued."""
        return self.until == math.inf


class Fleet:
    """Workers of one kind. As a context manager it starts them, and kills them all at the end."""

    def __init__(self, kind: str, setting: Setting, workers: int) -> None:
        self.port = free_port()
        self.fates: list[Fate] = []
        self._stopped: dict[int, float] = {}
        self._log = Path(setting.folder) / "log"
        self._command = COMMANDS[kind].format(port=self.port, workers=workers).split()
        self._environment = {**os.environ, "PYTHONPATH": os.fspath(ROOT), **setting.environment()}
        self._process: subprocess.Popen[bytes] | None = None

    def kill(self, pid: int) -> None:
        """Kill a worker with SIGKILL."""
        self.fates.append(Fate(pid, time.time()))
        os.kill(pid, signal.SIGKILL)

    def stop(self, pid: int) -> None:
        """Stop a worker with SIGSTOP."""
        self._stopped[pid] = time.time()
        os.kill(pid, signal.SIGSTOP)

    def go_on(self, pid: int) -> None:
        """Continue a stopped worker with SIGCONT."""
        os.kill(pid, signal.SIGCONT)
        self.fates.append(Fate(pid, self._stopped.pop(pid), time.time()))

    @property
    def log(self) -> str:
        """The workers' log."""
        return self._log.read_text("utf-8", "replace")

    def __enter__(self) -> Self:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *self._command],
                cwd=ROOT,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=end_with_parent,  # noqa: PLW1509 - it makes one system call
            )
        try:
            self._wait_for_port()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _wait_for_port(self, within: float = 30.0) -> None:
        ends = time.monotonic() + within
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            assert self._process is not None
            if self._process.poll() is not None or time.monotonic() > ends:
                raise RuntimeError(f"the workers did not start: {self.log[-2000:]}")
            time.sleep(0.02)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)  # kills stopped workers too: all are in its group
            self._process.wait()
