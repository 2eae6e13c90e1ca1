"""Real ASGI servers as processes. The log is a file; the app marks its runs in a folder beside it."""

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
    "read_a_stream",
    "run_with_duplicates",
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
"""One host name for all servers: without a caller, another host makes another request."""

_COMPLAINT = re.compile(
    "Traceback|WARNING|ERROR|CRITICAL|Exception in|Error in ASGI|ASGI flow|"
    "was destroyed|never (?:retrieved|awaited)"
)
# The servers log these for any app. Hypercorn keeps writing to a closed connection, which asyncio reports; and it
# keeps an HTTP/2 connection whose client hung up in mid-stream until it stops, and cancels it then. Granian kills
# a worker that takes longer than --workers-kill-timeout to end, as on a busy machine.
_OF_SERVERS = re.compile(
    r"[^\n]*socket\.send\(\) raised exception"
    r"|[^\n]*Exception in callback StreamReaderProtocol\.connection_made.*?CancelledError"
    r"|[^\n]*Killing worker-\d+ after it refused to gracefully stop",
    re.DOTALL,
)


def complaints(log: str) -> list[str]:
    """Return the lines of a server's log that a healthy server does not write."""
    return [line for line in _OF_SERVERS.sub("", log).splitlines() if _COMPLAINT.search(line)]


@dataclass(frozen=True, slots=True)
class Mark:
    """One start of the app, as the app recorded it."""

    attempt: int
    pid: int


class Marks:
    """The marks that the apps left in their folder. Each start creates a file of its own, so none is missed."""

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
        """Let the run that waits at its gate go on."""
        (self.folder / f"{run}.gate").touch()

    def wait_for(self, run: str, what: str, within: float = 15.0) -> None:
        """Return once the app has left this mark."""
        ends = time.monotonic() + within
        while not self.has(run, what):
            assert time.monotonic() < ends, f"{run}: no {what} within {within} s"
            time.sleep(0.005)


def _end_with_parent() -> None:
    """Let the kernel end this process if the test run is killed and can't end it."""
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
                start_new_session=True,  # a process group, so that its workers can be killed with it
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
        """Send SIGTERM, as an operator does."""
        assert self._process is not None
        self._process.terminate()

    def wait(self, within: float) -> None:
        """Wait until it has ended; raises `subprocess.TimeoutExpired`."""
        assert self._process is not None
        self._process.wait(within)

    def stop(self) -> None:
        """Terminate it, and kill it after five seconds."""
        if self._process is None:
            return
        self.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(5)
        self.kill()

    def kill(self) -> None:
        """Send SIGKILL to the server and its workers."""
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
        """Return the log lines since the last call."""
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
    """One request over its own socket, which can hang up at any moment. Use it as an async context manager."""

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

    def end_writing(self) -> None:
        """Send a FIN; the server's answer can still be read."""
        self._writer.write_eof()

    async def read_until(self, what: bytes, within: float = 10.0) -> None:
        """Read until `what` was received; more may follow it."""
        async with asyncio.timeout(within):
            while what not in self.received:
                data = await self._reader.read(65536)
                assert data, f"the server hung up: {self.received[-300:]!r}"
                self.received += data

    async def hang_up(self, *, reset: bool = False) -> None:
        """Close the connection; with `reset` by an RST instead of a FIN."""
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
    """Retry while the answer is 409, as a client does while the first request still runs."""
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


async def run_with_duplicates(server: Server, client: httpx.AsyncClient, app: str, run: str) -> httpx.Response:
    """Make a request to the app's `/whole` with duplicates during and after its run; return its answer.

    The duplicates must be refused during the run and replayed after it; another body is refused always, and a
    request without a key by the variant of the app that requires one.
    """
    target = f"/{app}/whole?run={run}&hold=0"
    first = asyncio.ensure_future(post(client, target, run))
    await asyncio.to_thread(server.marks.wait_for, run, "begun.1")
    meanwhile = await post(client, target, run)
    other_meanwhile = await post(client, target, run, b'{"other": 1}')
    server.marks.open_gate(run)
    answer = await first
    replay = await post(client, target, f'"{run}"')
    other = await post(client, target, run, b'{"other": 1}')
    missing = await post(client, f"/{app}-required/whole?run={run}", None)

    assert (meanwhile.status_code, slug(meanwhile)) == (409, "in-progress")
    assert 1 <= int(meanwhile.headers["retry-after"]) <= 30
    assert (other_meanwhile.status_code, slug(other_meanwhile)) == (422, "key-reused")
    assert (answer.status_code, answer.headers["x-a"], is_replay(answer)) == (201, "1", False)
    assert (replay.status_code, replay.headers["x-a"], is_replay(replay)) == (201, "1", True)
    assert replay.content == answer.content
    assert (other.status_code, slug(other)) == (422, "key-reused")
    assert (missing.status_code, slug(missing)) == (400, "key-missing")
    assert [mark.attempt for mark in server.marks.begun(run)] == [1]
    return answer


async def read_a_stream(server: Server, client: httpx.AsyncClient, target: str, run: str, *, keyed: bool) -> bytes:
    """Read the first bytes of a stream of four chunks while its app waits; then open the gate and read the rest.

    With a key the whole stream must be replayed.
    """
    headers = {"idempotency-key": run} if keyed else {}
    async with client.stream("POST", target, headers=headers) as first:
        chunks = first.aiter_raw()
        body = await anext(chunks)
        assert not server.marks.has(run, "ended")
        server.marks.open_gate(run)
        async for chunk in chunks:
            body += chunk
    assert body.count(b"data: ") == 4
    assert "content-length" not in first.headers
    if keyed:
        replay = await client.post(target, headers=headers)
        assert (replay.status_code, is_replay(replay), replay.content) == (200, True, body)
        assert replay.headers["content-length"] == str(len(body))
        assert len(server.marks.begun(run)) == 1
    return body
