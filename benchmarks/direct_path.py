"""Compare ways to talk to a standalone server: redis-py's client, and three with fewer layers.

    python -m benchmarks.direct_path

"client" is redis.asyncio's client. "connections" drives redis-py's own connection objects, one exchange at a
time on each, from a pool of 50. "pipelined" and "direct" share a connection between all callers, and read plain
replies themselves. "pipelined" writes what is asked in a turn of the loop, and hands each reply out as it comes.
"direct", which is the package's, has one exchange under way at a time, and hands the replies out when all are
there.

Counts instructions under callgrind, where valgrind is: a difference of two lengths, free of start-up. Then
requests a second, processor time and sockets, the ways in turn, several rounds: the machine is noisy, only ratios
count. A request is an acquire and a complete, as they are sent when they are repeated. The parser is the one that
redis-py chooses: install hiredis beside it to see that one.
"""
# ruff: noqa: D101, D102, SLF001 -- a script: it runs valgrind, and prints

import asyncio
import gc
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from math import inf
from pathlib import Path
from typing import Any
from uuid import uuid4

import redis
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from idempotency_mw.core.record import Claim, Operation
from idempotency_mw.persistence.redis import AsyncRedisPersistenceLayer, commands
from idempotency_mw.persistence.redis.commands import RAW, Call
from idempotency_mw.persistence.redis.direct.async_connection import Connection
from idempotency_mw.persistence.redis.direct.asynchronous import DirectRedis
from tests.servers import RedisServer, binaries

LENGTHS = (50, 200)
CROWDS = {1: 200, 50: 1000, 1000: 2000}
ROUNDS = 4
WAITS: dict[str, Any] = {
    "socket_timeout": None,
    "socket_connect_timeout": None,
    "retry": Retry(NoBackoff(), 0),
    "max_connections": 2000,
}


class Connections(redis.asyncio.Redis):
    """redis-py's connection objects, without its client and pool."""

    def __init__(self, connection_pool: Any) -> None:
        super().__init__(connection_pool=connection_pool)
        self.idle: list[Any] = []
        self.places = asyncio.Semaphore(50)

    async def execute_command(self, *args: Any, **_options: Any) -> Any:
        async with self.places:
            connection = self.idle.pop() if self.idle else await self.connected()
            try:
                await connection.send_packed_command(connection.pack_command(*args), check_health=False)
                reply = await connection.read_response(disable_decoding=True)
            except redis.ResponseError:
                self.idle.append(connection)
                raise
            except BaseException:
                await connection.disconnect(nowait=True)
                raise
            self.idle.append(connection)
            return reply

    async def connected(self) -> Any:
        connection = self.connection_pool.make_connection()
        await connection.connect()
        self.connection_pool._in_use_connections.add(connection)
        return connection


class PipelinedConnection(Connection):
    def __init__(self, connection: Any, lent: Any) -> None:
        super().__init__(connection, lent)
        self._due: list[asyncio.Future[Any]] = []
        self._unsent: list[bytes] = []

    def ask(self, command: bytes, ends: float = inf) -> asyncio.Future[Any]:  # noqa: ARG002
        answer = self._loop.create_future()
        if not self._due:
            self._transport.write(command)
        else:
            if not self._unsent:
                self._loop.call_soon(self._flush)
            self._unsent.append(command)
        self._due.append(answer)
        return answer

    def _flush(self) -> None:
        self._transport.writelines(self._unsent)
        self._unsent = []

    def data_received(self, data: bytes) -> None:
        for event in self._reader.read(data):
            answer = self._due.pop(0)
            if not answer.done():
                answer.set_result(event)


class Pipelined(DirectRedis):
    async def _new_connection(self, patience: float = inf) -> Connection:  # noqa: ARG002
        connection = self.connection_pool.make_connection()
        await connection.connect()
        return PipelinedConnection(connection, self.connection_pool._in_use_connections)


def client_of(way: str, url: str) -> Any:
    client = redis.asyncio.Redis.from_url(url, **WAITS)
    match way:
        case "client":
            return client
        case "connections":
            return Connections(client.connection_pool)
        case "pipelined":
            return Pipelined(client.connection_pool, patience=1.0)
        case _:
            return DirectRedis(client.connection_pool, patience=1.0)


WAYS = ("client", "connections", "pipelined", "direct")


def a_claim() -> Claim:
    return Claim(Operation(uuid4().hex * 2, uuid4().hex * 2), uuid4().hex, 30_000, 60_000)


async def said(client: Any, call: Call) -> Any:
    """Say it as the layer does: the first try of the direct path, else redis-py's way."""
    if isinstance(client, DirectRedis):
        command = call.packed()
        if (connection := client.connection_for(command)) is not None:
            return await connection.ask(command, asyncio.get_running_loop().time() + 2.0)
    return await client.execute_command(*call.by_digest, **RAW)


async def ask(client: Any, requests: int) -> None:
    """Send an acquire and a complete, over and over: each is answered as the first time."""
    for _ in range(requests):
        for call in (ACQUIRE, COMPLETE):
            assert await said(client, call) == 1


RUNNING, DONE = (Claim(Operation(one * 64, one * 64), one * 32, 30_000, 600_000) for one in "ab")
ACQUIRE = commands.acquire(RUNNING.storage_key, RUNNING)
COMPLETE = commands.complete(DONE.storage_key, DONE, b"x" * 182)
AGAIN = commands.acquire(DONE.storage_key, DONE)


async def spread(client: Any, requests: int, tasks: int) -> None:
    await asyncio.gather(*(ask(client, requests // tasks) for _ in range(tasks)))


async def first(layer: Any, requests: int) -> None:
    for _ in range(requests):
        claim = a_claim()
        await layer.acquire(claim)
        await layer.complete(claim, b"x" * 182)


async def replay(layer: Any, requests: int) -> None:
    claim = a_claim()
    await layer.acquire(claim)
    await layer.complete(claim, b"x" * 182)
    for _ in range(requests):
        await layer.acquire(claim)


async def bare_replay(client: Any, requests: int) -> None:
    for _ in range(requests):
        assert (await said(client, AGAIN))[0] == 0


async def count(way: str, what: str, requests: int, url: str) -> None:
    """Do one case that is counted."""
    if what.startswith("layer"):
        async with AsyncRedisPersistenceLayer.from_url(url, direct=way == "direct") as layer:
            await (replay if "replay" in what else first)(layer, requests)
        return
    client = client_of(way, url)
    match what:
        case "replay":
            await bare_replay(client, requests)
        case _:
            await spread(client, requests, 50 if "50" in what else 1)
    await client.connection_pool.disconnect()


COUNTED = [
    *((way, what) for what in ("first", "first, 50 tasks", "replay") for way in WAYS),
    *((way, what) for what in ("layer, first", "layer, replay") for way in ("client", "direct")),
]


def run_all(url: str) -> None:
    """Run each case in a fork of this process, and print its process id and how it ended."""
    for way, what in COUNTED:
        asyncio.run(count(way, what, 50, url))  # what is imported late
    gc.collect()
    gc.freeze()
    for way, what in COUNTED:
        for requests in LENGTHS:
            child = os.fork()
            if child == 0:
                asyncio.run(count(way, what, requests, url))
                os._exit(0)
            _, status = os.waitpid(child, 0)
            print(child, status, flush=True)


def instructions(valgrind: str, url: str) -> dict[tuple[str, str], float]:
    """Return what one request takes in each case."""
    with tempfile.TemporaryDirectory(prefix="direct-") as folder:
        options = ["--tool=callgrind", "--callgrind-out-file=/dev/null", f"--log-file={folder}/%p"]
        done = subprocess.run(
            [valgrind, *options, sys.executable, "-m", "benchmarks.direct_path", "--run", url],
            env={**os.environ, "PYTHONHASHSEED": "0"},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        children = [line.split() for line in done.stdout.splitlines()]
        if any(status != "0" for _, status in children):
            raise SystemExit("A case failed under valgrind.")
        counted = [collected((Path(folder) / child).read_text()) for child, _ in children]
    short, long = LENGTHS
    pairs = zip(counted[::2], counted[1::2], strict=True)
    return {case: (more - less) / (long - short) for case, (less, more) in zip(COUNTED, pairs, strict=True)}


def collected(log: str) -> int:
    found = re.search(r"Collected : (\d+)", log)
    if found is None:
        raise SystemExit(f"valgrind did not say what it counted:\n{log}")
    return int(found[1])


def show_instructions(url: str) -> None:
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        print("valgrind is not installed: instructions were not counted.")
        return
    print("Counting instructions under callgrind; this takes about a minute.", flush=True)
    counted = instructions(valgrind, url)
    print(f"\n{'instructions of':<16}  {'way':<12}  {'a request':>10}  {'over bare calls':>15}")
    for (way, what), each in counted.items():
        bare = counted["client", "replay" if "replay" in what else "first, 50 tasks" if "50" in what else "first"]
        print(f"{what:<16}  {way:<12}  {each:>10,.0f}  {each / bare:>15.2f}")


async def show_rates(url: str) -> None:
    print(f"\n{'tasks':>5}  {'way':<12}  {'requests/s, over the client':>27}  {'CPU of it':>12}  {'sockets':>7}")
    for tasks, requests in CROWDS.items():
        clients = {way: client_of(way, url) for way in WAYS}
        took: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
        for _ in range(ROUNDS):
            for way, client in clients.items():
                wall, cpu = time.perf_counter(), time.process_time()
                await spread(client, requests, tasks)
                took[way].append((time.perf_counter() - wall, time.process_time() - cpu))
        best = {way: [min(each) for each in zip(*rounds[1:], strict=True)] for way, rounds in took.items()}
        for way, client in clients.items():
            pool = client.connection_pool
            sockets = len(pool._in_use_connections) + len(pool._available_connections)
            faster, cheaper = best["client"][0] / best[way][0], best[way][1] / best["client"][1]
            print(f"{tasks:>5}  {way:<12}  {faster:>27.2f}  {cheaper:>12.2f}  {sockets:>7}")
            await pool.disconnect()


def prepare(server: RedisServer) -> None:
    """Make the server know the scripts and one of the two records; the same ones in every process."""
    with server.client() as client:
        for verb in (
            commands.acquire(DONE.storage_key, DONE),
            commands.complete(DONE.storage_key, DONE, b"x" * 182),
        ):
            client.execute_command(*verb.by_text)


def main() -> int:
    found = binaries()
    if not found:
        print("No Redis or Valkey server was found: nothing was measured.")
        return 2
    name, binary = next(iter(found.items()))
    parser = redis.asyncio.Connection()._parser
    print(f"redis-py {redis.__version__}, its parser {type(parser).__name__}, server {name}")
    with RedisServer(binary) as server:
        prepare(server)
        show_instructions(server.url)
        asyncio.run(show_rates(server.url))
    return 0


if __name__ == "__main__":
    if "--run" in sys.argv:
        run_all(sys.argv[-1])
    else:
        sys.exit(main())
