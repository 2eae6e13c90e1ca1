"""Servers under load are killed, filled, flushed, and made to evict.

killed      SIGKILL to a server with an append-only file, restarted at once: no acknowledged completion is lost
SQLite      processes that write into the file are killed while they write: no acknowledged completion is lost
full        no memory left and nothing evicted: no new execution begins, and no result is lost
flushed     the script cache is flushed every few milliseconds: no client sees an error
evicting    an evicted record is like a new key, and a late completion creates no record
"""

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import redis

from proof.figures import Figure, Progress, Size, in_short
from proof.stage.asking import Answer
from proof.stage.fleet import ROOT
from proof.stage.judging import contradictions, lost_completions
from proof.stage.scene import Scene, folder
from proof.stage.stores import PREFIX, RedisLook, SQLiteLook
from tests.servers import RedisServer, binaries

__all__ = ["Amount", "made", "run"]

LONGEST = 60.0
"""Seconds for one part of the run on a busy machine."""
LEAST_FLUSHES = 50


@dataclass(frozen=True, slots=True)
class Amount:
    """How much work is done."""

    kills: int
    writers_killed: int
    clients: int
    answers: int
    """Before and after each kill."""
    flushing_seconds: float
    held: int


AMOUNTS = {
    Size.CI: Amount(kills=5, writers_killed=5, clients=40, answers=300, flushing_seconds=3.0, held=10),
    Size.LONG: Amount(kills=60, writers_killed=60, clients=60, answers=2000, flushing_seconds=60.0, held=50),
}


def run(size: Size, progress: Progress) -> Iterator[Figure]:
    """Do all of it; yield the figures."""
    return made(AMOUNTS[size], progress)


def made(amount: Amount, progress: Progress) -> Iterator[Figure]:
    """Yield the figures of that much work."""
    scenes: tuple[Callable[[Amount], Iterator[Figure]], ...] = (_killed, _sqlite, _full, _flushed, _evicting)
    for number, scene in enumerate(scenes):
        progress(number, len(scenes))
        try:
            yield from scene(amount)
        except Exception as error:
            yield Figure("", f"servers: {scene.__name__.strip('_')}", "it finishes", repr(error), holds=False)


# Killed


def _killed(amount: Amount) -> Iterator[Figure]:
    """I5: SIGKILL to the server under load; its append-only file is synced every second, or with each write."""
    seen: dict[str, Any] = {"kills": 0, "settled": 0, "away": 0.0, "refused": 0, "lost": [], "wrong": []}
    seen |= {"records": 0, "unexpiring": 0}
    names = sorted(binaries())
    for number in range(amount.kills):
        binary = binaries()[names[number % len(names)]]
        sync = ("everysec", "always")[number // len(names) % 2]
        with folder() as where, RedisServer(binary, "--appendonly", "yes", "--appendfsync", sync) as server:
            asyncio.run(_kill(server, where, number, amount, seen))
    text = f"0 of {seen['settled']:,} acknowledged, {seen['kills']} kills"
    what = "completions lost by kill -9 of a server with AOF"
    is_held = not seen["lost"] and seen["kills"] == amount.kills and seen["settled"] > 0
    yield Figure("I5", what, "0", in_short(seen["lost"]) or text, is_held)
    text = f"0; away for at most {seen['away'] * 1000:.0f} ms, {seen['refused']} refused with 503"
    yield Figure("I1 I2", "second runs and other answers over those kills", "0", in_short(seen["wrong"]) or text,
                 not seen["wrong"])  # fmt: skip
    text = f"{seen['unexpiring']} of {seen['records']:,}"
    yield Figure("I4", "records without expiry, after those kills", "0", text,
                 seen["unexpiring"] == 0 < seen["records"])  # fmt: skip


async def _kill(server: RedisServer, where: Path, number: int, amount: Amount, seen: dict[str, Any]) -> None:
    async with asyncio.timeout(LONGEST), Scene(where, {"url": server.url}) as scene:
        async with scene.clients(f"kill-{number}", amount.clients) as clients:
            await clients.have_answered(amount.answers)
            began = time.monotonic()
            server.kill()
            seen["kills"] += 1
            await asyncio.sleep(random.Random(number).uniform(0, 0.3))
            await asyncio.to_thread(server.start)
            seen["away"] = max(seen["away"], time.monotonic() - began)
            await clients.have_answered(clients.answered + amount.answers)
        await clients.ask_all_again()
        scene.reader.read()
        seen["settled"] += len(scene.reader.events("settled"))
        seen["refused"] += clients.trouble["store-unavailable"]
        with server.client() as client:
            seen["lost"] += lost_completions(scene.reader, RedisLook(client))
            bad, count = RedisLook(client).unexpiring()
            seen["unexpiring"] += bad
            seen["records"] += count
        seen["wrong"] += contradictions(scene.reader, clients.answers)


# SQLite


def _sqlite(amount: Amount) -> Iterator[Figure]:
    """I5: processes that write into a SQLite file are killed while they write."""
    lost: list[str] = []
    settled = killed = 0
    for durability, kills in (("full", amount.writers_killed // 2), ("normal", -(-amount.writers_killed // 2))):
        with folder() as where:
            path = where / "records.sqlite3"
            acknowledged = _written(path, durability, kills)
            look = SQLiteLook(path, 4000)
            settled += len(acknowledged)
            killed += kills
            for storage_key, digest in acknowledged:
                frame = look.frame(storage_key)
                if frame is None or sha256(frame.result).hexdigest() != digest:
                    lost.append(f"{storage_key[:12]}: acknowledged, and gone ({durability})")
    text = f"0 of {settled:,} acknowledged, {killed} kills"
    what = "completions lost by kill -9 of SQLite's writers"
    yield Figure("I5", what, "0", in_short(lost) or text, not lost and settled > 100 * killed)


def _written(path: Path, durability: str, kills: int) -> list[tuple[str, str]]:
    """Let three processes write; kill one after another; return what was acknowledged."""
    command = [sys.executable, "-m", "proof.stage.writers", str(path), "3", durability]
    acknowledged: list[tuple[str, str]] = []
    writers = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, start_new_session=True)
    assert writers.stdout is not None
    try:
        for _ in range(kills):
            for _ in range(200):
                pid, storage_key, digest = writers.stdout.readline().decode().split()
                acknowledged.append((storage_key, digest))
            os.kill(int(pid), signal.SIGKILL)
    finally:
        os.killpg(writers.pid, signal.SIGKILL)
        writers.wait()
    rest = [line.decode().split() for line in writers.stdout]
    writers.stdout.close()
    return acknowledged + [(line[1], line[2]) for line in rest]


# Full


def _full(amount: Amount) -> Iterator[Figure]:
    """Rows 5 and 16: no new execution begins, and no result is lost."""
    for name, binary in sorted(binaries().items())[:2]:
        with folder() as where, RedisServer(binary) as server, server.client() as client:
            yield from asyncio.run(_fill(name, where, client, server.url, amount))


async def _fill(name: str, where: Path, client: Any, url: str, amount: Amount) -> list[Figure]:
    async with asyncio.timeout(LONGEST), Scene(where, {"url": url}) as scene:
        clients = scene.clients(f"full-{name}", amount.clients)
        done = [clients.new_key() for _ in range(amount.held)]
        await asyncio.gather(*(clients.ask_until_answered(key, 10) for key in done))
        held = [clients.new_key() for _ in range(amount.held)]
        clients.wishes.update(dict.fromkeys(held, b'{"gate": "gate"}'))
        running = [asyncio.create_task(clients.ask_until_answered(key, 60)) for key in held]
        await scene.have_begun(len(done) + len(held))
        _fill_up(client)
        new = [clients.new_key() for _ in range(2 * amount.held)]
        refused = await _problems(clients, new)
        duplicates = await _problems(clients, held)
        replays = await _problems(clients, done)
        scene.reader.read()
        begun = len(scene.reader.executions)
        scene.open_gate("gate")
        late = await asyncio.gather(*running)
        replays += await _problems(clients, held)
        _empty(client)
        await asyncio.gather(*(clients.ask_until_answered(key, 10) for key in new))
        scene.reader.read()
        wrong = contradictions(scene.reader, clients.answers) + lost_completions(scene.reader, RedisLook(client))
    runs = begun - len(done) - len(held)
    refusals = f"{refused.count('store-unavailable')} of {len(new)} refused with 503, {runs} runs"
    is_held = refused == ["store-unavailable"] * len(new) and runs == 0
    yielded = [
        Figure("I7 #5", f"new keys on a full server ({name})", "all refused with 503, 0 runs", refusals, is_held)
    ]
    kept = len(late) + len(replays) - sum(answer.status != 201 for answer in late)
    text = f"{replays.count(None)} replays, {len(duplicates)} refused with 409; {kept} answers in all"
    is_held = not wrong and set(replays) == {None} and set(duplicates) == {"in-progress"}
    what = f"results and duplicates on a full server ({name})"
    return [*yielded, Figure("I2 #16", what, "all kept, all answered", in_short(wrong) or text, is_held)]


async def _problems(clients: Any, keys: list[str]) -> list[str | None]:
    """Ask once with each key; return the problem of each answer, None for a result."""
    answers = await asyncio.gather(*(clients.ask_once(key, 10) for key in keys))
    return [answer.problem for answer in answers if isinstance(answer, Answer)]


def _fill_up(client: Any) -> None:
    """Fill the server until it accepts no write."""
    client.config_set("maxmemory", client.info("memory")["used_memory"] + (2 << 20))
    client.config_set("maxmemory-policy", "noeviction")
    for size in (1 << 16, 1 << 10, 16):
        try:
            for number in range(100_000):
                client.set(f"filler-{size}-{number}", b"x" * size)
        except redis.OutOfMemoryError:
            continue
    # Connection buffers count as used memory, and their size changes; half of it leaves no room in any case.
    client.config_set("maxmemory", client.info("memory")["used_memory"] // 2)


def _empty(client: Any) -> None:
    client.config_set("maxmemory", 0)
    for key in client.scan_iter("filler-*", count=1000):
        client.delete(key)


# Flushed


def _flushed(amount: Amount) -> Iterator[Figure]:
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


# Evicting


def _evicting(_: Amount) -> Iterator[Figure]:
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
