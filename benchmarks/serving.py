"""Measures requests a second, and streams, over uvicorn on loopback.

The load generator is part of this module, not wrk: each first request needs a key of its own, and nothing has to
be installed. It keeps its connections open, sends the next request after a whole answer, and checks each status.
"""

import asyncio
import itertools
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.driving import command, interleaved, median_ratio
from benchmarks.environments import ROOT, variables
from benchmarks.workload import BODY
from tests.servers import free_port

__all__ = ["requests_per_second", "stream"]

CONNECTIONS = 50
REQUESTS = 600
"""Requests in one round of one contestant."""
STREAM_BYTES = 50 * 2**20
FIRST_BYTES = 60
"""How often the delay of the first byte is measured, with and without a key."""

_keys = itertools.count()
Part = Callable[[float], None]


@contextmanager
def served(contestant: str, url: str) -> Iterator[tuple[int, int]]:
    """Serve a contestant's app; yield the port and the server's process id."""
    port = free_port()
    process = subprocess.Popen(command(contestant, url, "serve", str(port)), env=variables(), cwd=ROOT)
    try:
        _await_port(port, process)
        yield port, process.pid
    finally:
        process.terminate()
        process.wait(20)


def _await_port(port: int, process: subprocess.Popen[bytes]) -> None:
    ends = time.monotonic() + 30
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            if time.monotonic() > ends or process.poll() is not None:
                raise
            time.sleep(0.05)
        else:
            return


def request(key: bytes | None, path: str = "/payments") -> bytes:
    """Return the bytes of a request."""
    lines = [
        b"POST %b HTTP/1.1" % path.encode(),
        b"Host: payments.example",
        b"User-Agent: python-httpx/0.28.1",
        b"Authorization: Bearer 0123456789abcdef0123456789abcdef",
        b"Content-Type: application/json",
        b"Content-Length: %d" % len(BODY),
    ]
    if key is not None:
        lines.append(b"Idempotency-Key: " + key)
    return b"\r\n".join([*lines, b"", BODY])


class _Client(asyncio.Protocol):
    """One connection that sends requests one after another until there are no more."""

    def __init__(self, requests: Iterator[bytes], status: bytes, done: asyncio.Future[None]) -> None:
        self._requests = requests
        self._wanted = b"HTTP/1.1 " + status
        self._done = done
        self._got = b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._next()

    def data_received(self, data: bytes) -> None:
        self._got += data
        head, separator, body = self._got.partition(b"\r\n\r\n")
        if separator and not head.startswith(self._wanted):
            self._transport.abort()
        elif separator and _is_whole(head, body):
            self._got = b""
            self._next()

    def connection_lost(self, _error: Exception | None) -> None:
        if not self._done.done():
            self._done.set_exception(ConnectionError(f"answered: {self._got[:300]!r}"))

    def _next(self) -> None:
        following = next(self._requests, None)
        if following is not None:
            self._transport.write(following)
        elif not self._done.done():
            self._done.set_result(None)
            self._transport.close()


def _is_whole(head: bytes, body: bytes) -> bool:
    _, declared, rest = head.lower().partition(b"content-length:")
    if declared:
        return len(body) >= int(rest.split(b"\r\n", 1)[0])
    return body.endswith(b"0\r\n\r\n")  # chunked: the replays of one peer


async def load(port: int, requests: Sequence[bytes], status: bytes) -> float:
    """Send all requests over fifty connections; return the seconds that this took."""
    loop = asyncio.get_running_loop()
    turns = iter(requests)
    begun = time.perf_counter()
    done: list[asyncio.Future[None]] = []
    for _ in range(min(CONNECTIONS, len(requests))):
        done.append(loop.create_future())
        await loop.create_connection(partial(_Client, turns, status, done[-1]), "127.0.0.1", port)
    await asyncio.gather(*done)
    return time.perf_counter() - begun


def requests_per_second(
    contestants: Sequence[str], url: str, rounds: int, part: Part
) -> dict[str, dict[str, float | None]]:
    """Return each contestant's requests a second, as a ratio to its bare app in the same round."""
    with ExitStack() as stack:
        ports = {name: stack.enter_context(served(name, url))[0] for name in contestants}
        cases = {
            (name, kind): partial(_seconds, name, port, kind)
            for name, port in ports.items()
            for kind in ("bare", "first", "replay")
        }
        for name, port in ports.items():
            asyncio.run(load(port, [_replayed(name)], b"200"))
        for take in cases.values():
            take()
        seen = interleaved(cases, rounds, part)
    return {
        name: {
            kind: median_ratio(seen, lambda took, n=name, k=kind: took[n, "bare"] / took[n, k])
            for kind in ("first", "replay")
        }
        | {
            f"{kind} over idemkit": median_ratio(
                seen, lambda took, n=name, k=kind: took["idemkit", k] / took[n, k]
            )
            for kind in ("first", "replay")
        }
        for name in contestants
    }


def _replayed(contestant: str) -> bytes:
    return request(b"replayed-" + contestant.encode())


def _seconds(contestant: str, port: int, kind: str) -> float:
    match kind:
        case "bare" if contestant == "idemgate":
            requests = [request(None, "/bare")] * REQUESTS
        case "bare":
            requests = [request(None)] * REQUESTS
        case "first":
            requests = [request(b"load-%d" % next(_keys)) for _ in range(REQUESTS)]
        case _:
            requests = [_replayed(contestant)] * REQUESTS
    forgets = kind == "replay" and contestant == "fastapi-idempotency-key"
    return asyncio.run(load(port, requests, b"422" if forgets else b"200"))


def stream(url: str, ping: Callable[[], object], part: Part) -> dict[str, float]:
    """Measure a stream without Content-Length behind this library.

    `whole`: 1 if all 50 MiB arrived. `first_byte`: the time that the library adds before the first byte, as a
    ratio to the allowed time, 1 ms and a round trip. `memory`: the peak memory that a key adds to a stream, as a
    ratio to `max_response_body`.
    """
    with served("ours-stream", url) as (port, server):
        _peak_of(server, port, None)  # the first stream also causes growth that has other reasons
        bare = _peak_of(server, port, None)
        keyed = _peak_of(server, port, b"stream-%d" % next(_keys))
        waits: dict[bool, list[float]] = {True: [], False: []}
        for number in range(FIRST_BYTES):
            for keyed_too in (True, False):
                key = b"stream-%d" % next(_keys) if keyed_too else None
                waits[keyed_too].append(_receive(port, request(key, "/short"))[0])
            part((number + 1) / FIRST_BYTES)
    trip = median(_seconds_of(ping) for _ in range(200))
    return {
        "whole": float(keyed[1] == bare[1] == STREAM_BYTES),
        "first_byte": max(median(waits[True]) - median(waits[False]), 0.0) / (0.001 + trip),
        "memory": max(keyed[0] - bare[0], 0) / 2**20,
    }


def _seconds_of(do: Callable[[], object]) -> float:
    begun = time.perf_counter()
    do()
    return time.perf_counter() - begun


def _peak_of(server: int, port: int, key: bytes | None) -> tuple[int, int]:
    """Return the growth of the server's resident memory from its start to its peak, and the bytes that arrived."""
    before = _memory(server, "VmRSS")
    Path(f"/proc/{server}/clear_refs").write_text("5")  # resets the peak
    received = _receive(port, request(key, "/long"))[1]
    return _memory(server, "VmHWM") - before, received


def _memory(process: int, name: str) -> int:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":"))


def _receive(port: int, sent: bytes) -> tuple[float, int]:
    """Return the seconds until the body's first byte, and the number of the body's bytes (chunked)."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        begun = time.perf_counter()
        connection.sendall(sent)
        stream = connection.makefile("rb", buffering=2**18)
        while stream.readline().strip():
            pass
        received, first = 0, 0.0
        while size := int(stream.readline(), 16):
            first = first or time.perf_counter() - begun
            received += len(stream.read(size))
            stream.readline()
    return first, received
