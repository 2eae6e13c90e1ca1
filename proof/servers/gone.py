"""Scripts and records that a server drops while the library needs them."""

import asyncio
import time
import warnings
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from proof.figures import Figure, in_short
from proof.servers.amount import LONGEST, Amount
from proof.stage.judging import contradictions
from proof.stage.scene import Scene, folder
from proof.stage.stores import PREFIX
from tests.servers import RedisServer, binaries

__all__ = ["evicting", "flushed"]

LEAST_FLUSHES = 50
"""The fewest flushes, even if the time is over before."""


def flushed(amount: Amount) -> Iterator[Figure]:
    """Row 6: the script cache is flushed every few milliseconds."""
    binary = next(iter(binaries().values()))
    with folder() as where, RedisServer(binary) as server, server.client() as client:
        yield asyncio.run(_flush(where, client, server.url, amount))


async def _flush(where: Path, client: Any, url: str, amount: Amount) -> Figure:
    flushes = 0
    async with (
        asyncio.timeout(LONGEST + amount.flushing_seconds),
        Scene(where, {"url": url}, timeout_seconds=8) as scene,
    ):
        async with scene.clients("flush", amount.clients // 2) as clients:
            ends = time.monotonic() + amount.flushing_seconds
            while time.monotonic() < ends or flushes < LEAST_FLUSHES:
                client.script_flush()
                flushes += 1
                await asyncio.sleep(0.003)
        scene.reader.read()
        wrong = contradictions(scene.reader, clients.answers)
        trouble = {name: count for name, count in clients.trouble.items() if name != "in-progress"}
    text = f"0 of {len(scene.reader.executions):,} runs, {flushes:,} times flushed"
    shown = in_short(wrong) or str(trouble or "") or text
    return Figure("I1 #6", "errors and second runs while scripts are flushed", "0", shown, shown == text)


def evicting(_: Amount) -> Iterator[Figure]:
    """Row 20: an evicted record is like a new key, and a late completion creates no record."""
    binary = next(iter(binaries().values()))
    options = ("--maxmemory-policy", "allkeys-lru")
    with folder() as where, RedisServer(binary, *options) as server, server.client() as client:
        yield from asyncio.run(_evict(where, client, server.url))


async def _evict(where: Path, client: Any, url: str) -> list[Figure]:
    async with asyncio.timeout(LONGEST), Scene(where, {"url": url}) as scene:
        warned = await _warnings(scene)
        clients = scene.clients("evict", 1)
        done, lonely, raced = (clients.new_key() for _ in range(3))
        clients.wishes |= {lonely: b'{"gate": "lonely"}', raced: b'{"gate": "raced"}'}
        first = await clients.ask_until_answered(done, 10)
        running = [asyncio.create_task(clients.ask_until_answered(key, 60)) for key in (lonely, raced)]
        await scene.have_begun(3)
        _evict_all(client)
        scene.open_gate("lonely")
        late = await running[0]
        created = client.exists(*_names(scene, lonely))
        second = await clients.ask_until_answered(done, 10)
        winner = await clients.ask_until_answered(raced, 10)
        scene.open_gate("raced")
        loser = await running[1]
        scene.reader.read()
        lost = len(scene.reader.events("lost"))
    as_new = (first.status, second.status, second.is_replay) == (201, 201, False)
    nothing = (late.status, created) == (201, 0)
    same = (winner.digest, winner.is_replay, loser.is_replay) == (loser.digest, False, True)
    return [
        Figure("#20", "an evicted record", "as a new key", "as a new key" if as_new else str(second), as_new),
        Figure("I3 #20", "a completion after eviction", "creates nothing, refused",
               f"{created} created, {lost} of 2 refused", nothing and lost == 2),
        Figure("I2 #20", "the first owner's client, after another run", "the other's answer",
               "the other's answer" if same else str(loser), same),
        Figure("", "check() and acheck() warn of allkeys-lru", "2 warnings", f"{warned} warnings", warned == 2),
    ]  # fmt: skip


async def _warnings(scene: Scene) -> int:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        scene.blocking.check()
        await scene.asynchronous.acheck()
    return sum("allkeys-lru" in str(each.message) for each in caught)


def _names(scene: Scene, key: str) -> list[str]:
    return [PREFIX + each.storage_key for each in scene.reader.of_key[key]]


def _evict_all(client: Any) -> None:
    """Fill the server's memory until it has evicted all of our records."""
    client.config_set("maxmemory", client.info("memory")["used_memory"] + (1 << 20))
    with closing(client):
        for number in range(20_000):
            client.set(f"filler-{number}", b"x" * 4096)
            if number % 50 == 0 and not list(client.scan_iter(PREFIX + "*", count=10_000)):
                return
    raise TimeoutError("nothing was evicted")
