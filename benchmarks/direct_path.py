"""Compares ways to talk to a standalone server: redis-py's client, its connections alone, and the direct path.

    python -m benchmarks.direct_path

client        redis.asyncio's client
connections   redis-py's connection objects without its client and pool: one exchange at a time on each of 50
direct        this package's way: all callers share one connection; one exchange is under way at a time

A request is an acquire and a complete, sent as a repetition, so that the server's work is always the same.

First, where valgrind is installed, it counts instructions under callgrind, as the difference of two lengths, which
leaves start-up out. Then it compares requests a second, CPU time and sockets: the ways take turns in several
rounds, and only ratios are shown, because the machine is noisy. redis-py chooses its parser: with hiredis
installed, that one is measured.
"""
# ruff: noqa: D102 -- a script: it runs valgrind, and prints

import asyncio
import gc
import os
import sys
import time
from importlib.util import find_spec
from typing import Any
from uuid import uuid4

import redis
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from benchmarks.callgrind import counted_forks, in_fork, valgrind
from idempotency_mw.core.record import Claim, Operation
from idempotency_mw.persistence.redis import AsyncRedisPersistenceLayer, commands
from idempotency_mw.persistence.redis.commands import RAW, Call
from idempotency_mw.persistence.redis.direct.asynchronous import DirectRedis
from tests.servers import RedisServer, binaries

LENGTHS = (50, 200)
CROWDS = {1: 200, 50: 1000, 1000: 2000}
"""Requests of one round, by the number of tasks that send them."""
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
        self.all: list[Any] = []
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
        self.all.append(connection)
        return connection


def client_of(way: str, url: str) -> Any:
    client = redis.asyncio.Redis.from_url(url, client_name=way, **WAITS)
    match way:
        case "client":
            return client
        case "connections":
            return Connections(client.connection_pool)
        case _:
            return DirectRedis(client.connection_pool, patience=1.0)


async def close(client: Any) -> None:
    for connection in getattr(client, "all", ()):
        await connection.disconnect()
    await client.connection_pool.disconnect()


WAYS = ("client", "connections", "direct")


def a_claim() -> Claim:
    return Claim(Operation(uuid4().hex * 2, uuid4().hex * 2), uuid4().hex, 30_000, 60_000)


async def said(client: Any, call: Call) -> Any:
    """Send a call as the layer does: on the direct path if possible, otherwise through the client."""
    if isinstance(client, DirectRedis):
        command = call.packed()
        if (connection := client.connection_for(command)) is not None:
            return await connection.ask(command, asyncio.get_running_loop().time() + 2.0)
    return await client.execute_command(*call.by_digest, **RAW)


async def ask(client: Any, requests: int) -> None:
    """Send the same acquire and the same complete again and again; each repetition gets the same answer."""
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
    """Run one case."""
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
    await close(client)


COUNTED = [
    *((way, what) for what in ("first", "first, 50 tasks", "replay") for way in WAYS),
    *((way, what) for what in ("layer, first", "layer, replay") for way in ("client", "direct")),
]


def run_all(url: str) -> None:
    """Run each case in a fork of this process, for `counted_forks`."""
    for way, what in COUNTED:
        asyncio.run(count(way, what, 50, url))  # so that late imports are not counted
    gc.collect()
    gc.freeze()
    for way, what in COUNTED:
        for requests in LENGTHS:
            in_fork(lambda way=way, what=what, requests=requests: asyncio.run(count(way, what, requests, url)))


def instructions(url: str) -> dict[tuple[str, str], float]:
    """Return the instructions of one request in each case."""
    command = [sys.executable, "-m", "benchmarks.direct_path", "--run", url]
    counted = [found for _, found in counted_forks(command, {**os.environ, "PYTHONHASHSEED": "0"})]
    short, long = LENGTHS
    pairs = zip(counted[::2], counted[1::2], strict=True)
    return {case: (more - less) / (long - short) for case, (less, more) in zip(COUNTED, pairs, strict=True)}


def show_instructions(url: str) -> None:
    if valgrind() is None:
        print("valgrind is not installed: instructions were not counted.")
        return
    print("Counting instructions under callgrind; this takes about a minute.", flush=True)
    counted = instructions(url)
    print(f"\n{'instructions of':<16}  {'way':<12}  {'a request':>10}  {'over bare calls':>15}")
    for (way, what), each in counted.items():
        bare = counted["client", "replay" if "replay" in what else "first, 50 tasks" if "50" in what else "first"]
        print(f"{what:<16}  {way:<12}  {each:>10,.0f}  {each / bare:>15.2f}")


async def show_rates(server: RedisServer) -> None:
    print(f"\n{'tasks':>5}  {'way':<12}  {'requests/s, over the client':>27}  {'CPU of it':>12}  {'sockets':>7}")
    for tasks, requests in CROWDS.items():
        clients = {way: client_of(way, server.url) for way in WAYS}
        took: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
        for _ in range(ROUNDS):
            for way, client in clients.items():
                wall, cpu = time.perf_counter(), time.process_time()
                await spread(client, requests, tasks)
                took[way].append((time.perf_counter() - wall, time.process_time() - cpu))
        best = {way: [min(each) for each in zip(*rounds[1:], strict=True)] for way, rounds in took.items()}
        sockets = sockets_of(server)
        for way, client in clients.items():
            faster, cheaper = best["client"][0] / best[way][0], best[way][1] / best["client"][1]
            print(f"{tasks:>5}  {way:<12}  {faster:>27.2f}  {cheaper:>12.2f}  {sockets.count(way):>7}")
            await close(client)


def sockets_of(server: RedisServer) -> list[str]:
    """Return the name of each connection that the server has: the way that opened it."""
    with server.client() as client:
        return [each["name"] for each in client.client_list()]


def prepare(server: RedisServer) -> None:
    """Load the scripts, and complete the record DONE; all processes use the same records."""
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
    parser = "hiredis" if find_spec("hiredis") else "in Python"
    print(f"redis-py {redis.__version__}, its parser {parser}, server {name}")
    with RedisServer(binary) as server:
        prepare(server)
        show_instructions(server.url)
        asyncio.run(show_rates(server))
    return 0


if __name__ == "__main__":
    if "--run" in sys.argv:
        run_all(sys.argv[-1])
    else:
        sys.exit(main())
