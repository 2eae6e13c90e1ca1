"""I5: writers and servers are killed under load, and no acknowledged completion is lost."""

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

from proof.figures import Figure, in_short
from proof.servers.amount import LONGEST, Amount
from proof.stage.fleet import ROOT
from proof.stage.judging import contradictions, lost_completions
from proof.stage.scene import Scene, folder
from proof.stage.stores import RedisLook, SQLiteLook
from tests.servers import RedisServer, binaries

__all__ = ["killed", "sqlite"]


def killed(amount: Amount) -> Iterator[Figure]:
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


def sqlite(amount: Amount) -> Iterator[Figure]:
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
