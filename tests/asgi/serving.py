"""Real ASGI servers as processes, with their log in a file and the app's runs counted in a folder beside it."""

import asyncio
import contextlib
import ctypes
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from tests.servers import free_port

__all__ = [
    "KINDS",
    "Caller",
    "Mark",
    "Marks",
    "Server",
    "complaints",
    "is_replay",
    "post",
    "post_until_settled",
    "slug",
]

ROOT = Path(__file__).parents[2]

COMMANDS = {
    "uvicorn": "uvicorn {app} --host 127.0.0.1 --port {port} --workers {workers} "
    "--no-access-log --log-level info --timeout-graceful-shutdown 1",
    "hypercorn": "hypercorn {app} --bind 127.0.0.1:{port} --workers {workers} --graceful-timeout 1",
    "granian": "granian {app} --interface asgi --host 127.0.0.1 --port {port} --workers {workers} "
    "--no-access-log --log-level info --workers-kill-timeout 1",
}
KINDS = sorted(COMMANDS)
HOST = "idempotency.test"
"""One name for all servers: without a caller, another host is another request."""

_COMPLAINT = re.compile(
    "Traceback|WARNING|ERROR|CRITICAL|Exception in|Error in ASGI|ASGI flow|"
    "was destroyed|never (?:retrieved|awaited)"
)
# What hypercorn does to any app: it writes on to a connection that is closed, and asyncio remarks on that; and it
# forgets an HTTP/2 connection whose client hung up in mid-stream, until it stops and cancels it.
# On a busy machine granian also kills a worker that has closed its files and is about to end.
_OF_THE_SERVER = re.compile(
    r"[^\n]*socket\.send\(\) raised exception"
    r"|[^\n]*Exception in callback StreamReaderProtocol\.connection_made.*?CancelledError"
    r"|[^\n]*Killing worker-\d+ after it refused to gracefully stop",
    re.DOTALL,
)


def complaints(log: str) -> list[str]:
    """Return the lines of a server's log that no healthy server writes."""
    return [line for line in _OF_THE_SERVER.sub("", log).splitlines() if _COMPLAINT.search(line)]


@dataclass(frozen=True, slots=True)
class Mark:
    """One start of the app, as the app itself wrote it down."""

    attempt: int
    pid: int


class Marks:
    """What the apps wrote down in their folder. Each start is a file that none other can be, so none is missed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)

    def begun(self, run: str) -> list[Mark]:
        """Return every start of the run."""
        files = sorted(self.folder.glob(f"{run}.begun.*"))
        return [Mark(*(int(each) for each in file.read_text().split())) for file in files]

    def has(self, run: str, what: str) -> bool:
        return (self.folder / f"{run}.{what}").exists()

    def open_gate(self, run: str) -> None:
        """Let a run go on that waits at its gate."""
        (self.folder / f"{run}.gate").touch()

    def wait_for(self, run: str, what: str, within: float = 15.0) -> None:
        """Return once the app has written this down."""
        ends = time.monotonic() + within
        while not self.has(run, what):
            assert time.monotonic() < ends, f"{run}: no {what} within {within} s"
            time.sleep(0.005)


def _end_with_parent() -> None:
    """Have the kernel end this process if the test run is killed, and can't end it itself."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


class Server:
    """One server with its workers. Used as a context manager."""

    commands = COMMANDS

    def __init__(
        self,
        kind: str,
        folder: Path,
        *,
        store: str,
        app: str = "tests.asgi.apps:app",
        workers: int = 1,
        config: dict[str, Any] | None = None,
        http: dict[str, Any] | None = None,
        marks: Marks | None = None,
    ) -> None:
        self.kind = kind
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.marks = marks or Marks(folder / "marks")
        self._log = folder / f"{kind}-{self.port}.log"
        self._read = 0
        self._workers = workers
        self._command = self.commands[kind].format(app=app, port=self.port, workers=workers).split()
        self._environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, (os.fspath(ROOT), os.environ.get("PYTHONPATH")))),
            "TEST_STORE": store,
            "TEST_MARKS": os.fspath(self.marks.folder),
            "TEST_CONFIG": json.dumps(config or {}),
            "TEST_HTTP": json.dumps(http or {}),
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, within: float = 30.0) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *self._command],
                cwd=ROOT,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # so that its workers can be ended with it
                preexec_fn=_end_with_parent if sys.platform == "linux" else None,
            )
        ends = time.monotonic() + within
        while not self._is_ready():
            assert self._process.poll() is None, self._log.read_text()
            assert time.monotonic() < ends, f"{self.kind} is not ready: {self._log.read_text()}"
            time.sleep(0.05)

    def _is_ready(self) -> bool:
        # A worker of granian that is told to end before it has started does not end, and is killed.
        if self.kind == "granian" and self._log.read_text("utf-8").count("Started worker-") < self._workers:
            return False
        try:
            return httpx.get(f"{self.url}/ready", timeout=10, trust_env=False, verify=False).status_code == 204
        except httpx.TransportError:
            return False

    def terminate(self) -> None:
        """Ask it to end, as an operator does."""
        assert self._process is not None
        self._process.terminate()

    def wait(self, within: float) -> None:
        """Return once it has ended; raises `subprocess.TimeoutExpired`."""
        assert self._process is not None
        self._process.wait(within)

    def stop(self) -> None:
        """Ask it to end, and then end by force whatever is left of it."""
        if self._process is None:
            return
        self.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(5)
        self.kill()

    def kill(self) -> None:
        """As kill -9 of the server and of its workers."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process = None

    def freeze(self) -> None:
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGCONT)

    def new_log(self) -> str:
        """Return what was logged since this was asked last."""
        with self._log.open("rb") as log:
            log.seek(self._read)
            text = log.read()
        self._read += len(text)
        return text.decode("utf-8", "replace")

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class Caller:
    """One request over a socket of its own, which can hang up at any moment. Used as an async context manager."""

    def __init__(self, server: Server, target: str, key: str | None, body: bytes = b"{}") -> None:
        self._port = server.port
        field = "" if key is None else f"Idempotency-Key: {key}\r\n"
        head = f"POST {target} HTTP/1.1\r\nHost: {HOST}\r\n{field}Content-Type: application/json\r\n"
        self.head = head.encode()
        self._body = body
        self.received = b""

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.hang_up()

    async def send(self) -> None:
        """Send the whole request."""
        await self.write(self.head + b"Content-Length: %d\r\n\r\n" % len(self._body) + self._body)

    async def write(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def read_until(self, what: bytes, within: float = 10.0) -> None:
        """Read until this was received, and perhaps more."""
        async with asyncio.timeout(within):
            while what not in self.received:
                data = await self._reader.read(65536)
                assert data, f"the server hung up: {self.received[-300:]!r}"
                self.received += data

    async def hang_up(self, *, reset: bool = False) -> None:
        """Close the connection; reset: without so much as a FIN."""
        if reset:
            linger = struct.pack("ii", 1, 0)
            self._writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()


async def post(client: httpx.AsyncClient, target: str, key: str | None, body: bytes = b"{}") -> httpx.Response:
    headers = {"host": HOST, "content-type": "application/json"} | (
        {} if key is None else {"idempotency-key": key}
    )
    return await client.post(target, content=body, headers=headers)


async def post_until_settled(client: httpx.AsyncClient, target: str, key: str) -> httpx.Response:
    """Retry as a client does that gets 409 while the first is still running."""
    async with asyncio.timeout(10):
        while (answer := await post(client, target, key)).status_code == 409:
            await asyncio.sleep(0.01)
    return answer


def slug(answer: httpx.Response) -> str:
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert problem["status"] == answer.status_code
    return str(problem["type"].rsplit(":", 1)[-1])


def is_replay(answer: httpx.Response) -> bool:
    return answer.headers.get("idempotent-replayed") == "true"
