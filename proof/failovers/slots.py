"""Slots are moved from master to master while executions run in them."""

import asyncio
import json
import sys
from asyncio.subprocess import PIPE
from collections.abc import Iterator
from pathlib import Path

from proof.failovers.amount import LONGEST, Amount
from proof.figures import Figure, in_short
from proof.stage.fleet import ROOT
from proof.stage.judging import contradictions, lost_completions
from proof.stage.scene import Scene, folder
from proof.stage.stores import EveryLook
from tests.clusters import RedisCluster

__all__ = ["slots"]


def slots(binary: Path, amount: Amount) -> Iterator[Figure]:
    """Move slots under load; yield the figures."""
    try:
        with folder() as where, RedisCluster(binary) as cluster:
            yield from asyncio.run(_moved(where, cluster, amount))
    except Exception as error:
        yield Figure("#21", "slots moved under load", f"{amount.slots:,}", repr(error), holds=False)


async def _moved(where: Path, cluster: RedisCluster, amount: Amount) -> list[Figure]:
    store = {"mode": "cluster", "url": cluster.url}
    async with asyncio.timeout(LONGEST + amount.slots / 10), Scene(where, store) as scene:
        async with scene.clients("slots", amount.clients // 2, longest=0.3) as clients:
            await clients.have_answered(amount.clients)
            moved = await _move_slots(scene, cluster, amount.slots)
        redirected = _redirected(cluster)
        look = EveryLook(*(master.client() for master in cluster.masters))
        await clients.ask_all_again()
        scene.reader.read()
        wrong = contradictions(scene.reader, clients.answers)
        wrong += lost_completions(scene.reader, look)
        again = [each for some in scene.reader.of_key.values() for each in some[1:]]
        bad, count = look.unexpiring()
    trouble = {name: seen for name, seen in clients.trouble.items() if name != "in-progress"}
    text = f"{moved['moved']:,} moved, {moved['records']:,} records with them"
    is_moved = moved["moved"] == amount.slots and moved["records"] > 0
    what = "second runs while slots move"
    won = in_short(wrong) or f"{len(again)} of {len(scene.reader.executions):,} runs"
    told = str(trouble or "") or f"0 ({', '.join(f'{name} {seen:,}' for name, seen in redirected.items())})"
    return [
        Figure("#21", "slots moved under load", f"{amount.slots:,}", text, is_moved),
        Figure("I1 I2 #21", what, "0", won, not wrong and not again),
        Figure(
            "#21", "errors that clients saw while slots moved", "0", told, not trouble and redirected["MOVED"] > 0
        ),
        Figure("I4", "records without expiry, after all moves", "0", f"{bad} of {count:,}", bad == 0 < count),
    ]


async def _move_slots(scene: Scene, cluster: RedisCluster, count: int) -> dict[str, int]:
    ports = [str(master.port) for master in cluster.masters]
    arguments = ("-m", "proof.stage.slots", str(scene.reader.path), str(count), "1", *ports)
    mover = await asyncio.create_subprocess_exec(sys.executable, *arguments, cwd=ROOT, stdout=PIPE)
    try:
        said, _ = await mover.communicate()
    finally:
        if mover.returncode is None:
            mover.kill()
            await mover.wait()
    done: dict[str, int] = json.loads(said)
    return done


def _redirected(cluster: RedisCluster) -> dict[str, int]:
    """Return how often the servers redirected their clients."""
    names = ("MOVED", "ASK", "TRYAGAIN")
    found = dict.fromkeys(names, 0)
    for master in cluster.masters:
        with master.client() as client:
            stats = client.info("errorstats")
        for name in names:
            found[name] += stats.get(f"errorstat_{name}", {}).get("count", 0)
    return found
