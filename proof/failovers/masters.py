"""Masters are killed, behind a Sentinel and in a cluster."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from proof.failovers.amount import LONGEST, Amount
from proof.figures import Figure, in_short
from proof.stage.asking import Answer
from proof.stage.clients import Clients
from proof.stage.judging import contradictions, lost_completions
from proof.stage.scene import Scene, folder
from proof.stage.slots import SLOTS, slot_of
from proof.stage.stores import EveryLook
from tests.clusters import SERVICE, RedisCluster, RedisSentinel, until
from tests.proxy import Proxy
from tests.servers import RedisServer

__all__ = ["fail_over"]

WITHIN = 5.0
"""Seconds after a master's death until completions are acknowledged again."""
LEASE = 5
"""Seconds."""
HELD = 20
"""How many executions wait at the gate while the master dies."""


def fail_over(kind: str, binary: Path, amount: Amount) -> Iterator[Figure]:
    """Make the failovers of one kind, "Sentinel" or "cluster"; yield the figures."""
    enter = partial(_sentinel if kind == "Sentinel" else _cluster, binary)
    seen = _Seen()
    for turn in range(amount.failovers):
        _make(seen, enter, _without_loss, f"{kind}-{turn}", amount)
        _make(seen, enter, _with_loss, f"{kind}-{turn}-lossy", amount)
    yield from seen.figures(kind, amount.failovers)


@dataclass(slots=True)
class _Seen:
    """What the failovers of one kind showed."""

    away: list[float] = field(default_factory=list)
    settled: int = 0
    refused: int = 0
    wrong: list[str] = field(default_factory=list)
    lossy: int = 0
    lost_claims: int = 0
    unlike: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    def figures(self, kind: str, failovers: int) -> Iterator[Figure]:
        away = f"{', '.join(f'{each:.1f}' for each in self.away[-4:])} s ({self.refused} refused with 503)"
        is_held = len(self.away) == 2 * failovers and max(self.away) <= WITHIN and not self.broken
        what = f"{kind} failovers: writable again after SIGKILL"
        yield Figure(
            "#18 #19", what, f"{2 * failovers} within {WITHIN:g} s", in_short(self.broken) or away, is_held
        )
        what = f"{kind} failover without loss: lost, changed or run twice"
        text = f"0 of {self.settled:,} acknowledged"
        yield Figure("I1 I2 #18", what, "0", in_short(self.wrong) or text, not self.wrong and self.settled > 0)
        what = f"{kind} failover that loses claims: the second run wins"
        text = in_short(self.unlike) or f"so for all {self.lost_claims} lost claims"
        is_held = not self.unlike and self.lossy == failovers
        yield Figure("I3 #19", what, "2 runs, 1st refused, 1 answer", text, is_held)


@dataclass(frozen=True, slots=True)
class _Stage:
    """A master that will be killed, its replica, and where clients find them."""

    store: dict[str, Any]
    master: RedisServer
    replica: RedisServer
    cut: Callable[[], None]
    """After this call nothing that the master writes reaches its replica."""
    servers: tuple[RedisServer, ...]
    """All servers that may hold records after the master's death."""
    slots: range

    def has(self, storage_key: str) -> bool:
        """Tell whether the record is in one of the dying master's slots."""
        return slot_of(storage_key) in self.slots


def _sentinel(binary: Path, stack: ExitStack) -> _Stage:
    master = stack.enter_context(RedisServer(binary))
    relay = stack.enter_context(Proxy(master.port))
    replica = stack.enter_context(RedisServer(binary, "--replicaof", "127.0.0.1", str(relay.port)))
    until(lambda: replica.client().info("replication")["master_link_status"] == "up")
    sentinel = stack.enter_context(RedisSentinel(binary, master))
    until(lambda: len(sentinel.client().execute_command("SENTINEL", "REPLICAS", SERVICE)) == 1)
    store = {"mode": "sentinel", "sentinels": [["127.0.0.1", sentinel.port]], "service_name": SERVICE}
    return _Stage(store, master, replica, relay.freeze, (replica,), range(SLOTS))


def _cluster(binary: Path, stack: ExitStack) -> _Stage:
    cluster = stack.enter_context(RedisCluster(binary, replicas=1))
    master, replica = cluster.masters[0], cluster.replicas[0]
    until(lambda: replica.client().info("replication")["master_link_status"] == "up")

    def cut() -> None:
        # Clients of a cluster connect to the port that its nodes announce, so a proxy in front of the master does
        # not help. A replica with wrong credentials can't replicate either.
        with replica.client() as its, master.client() as masters:
            its.config_set("masteruser", "nobody")
            its.config_set("masterauth", "nothing")
            masters.execute_command("CLIENT", "KILL", "TYPE", "REPLICA")
        until(lambda: replica.client().info("replication")["master_link_status"] == "down")

    store = {"mode": "cluster", "url": cluster.masters[1].url}
    return _Stage(store, master, replica, cut, (replica, *cluster.masters[1:]), range(SLOTS // 3))


Make = Callable[[_Seen, _Stage, Scene, str, Amount], Any]


def _make(seen: _Seen, enter: Callable[[ExitStack], _Stage], make: Make, name: str, amount: Amount) -> None:
    async def made(stage: _Stage, where: Path) -> None:
        async with asyncio.timeout(LONGEST), Scene(where, stage.store, lease_seconds=LEASE) as scene:
            await make(seen, stage, scene, name, amount)

    try:
        with ExitStack() as stack:
            where = stack.enter_context(folder())
            asyncio.run(made(enter(stack), where))
    except Exception as error:
        seen.broken.append(f"{name}: {error!r}")


async def _without_loss(seen: _Seen, stage: _Stage, scene: Scene, name: str, amount: Amount) -> None:
    async with scene.clients(name, amount.clients, longest=0.2) as clients:
        await clients.have_answered(5 * amount.clients)
        seen.away.append(await _killed(stage, scene))
        await clients.have_answered(clients.answered + 5 * amount.clients)
    await clients.ask_all_again()
    scene.reader.read()
    seen.settled += len(scene.reader.events("settled"))
    seen.refused += clients.trouble["store-unavailable"]
    seen.wrong += contradictions(scene.reader, clients.answers)
    seen.wrong += lost_completions(scene.reader, EveryLook(*(server.client() for server in stage.servers)))


async def _with_loss(seen: _Seen, stage: _Stage, scene: Scene, name: str, amount: Amount) -> None:
    """A failover that loses claims.

    The first owner's completion changes nothing, and its client gets the second owner's answer.
    """
    async with scene.clients(name, amount.clients, longest=0.2) as clients:
        await clients.have_answered(amount.clients)
        stage.cut()
        firsts = await _held(scene, clients)
        lost = [key for key in firsts if stage.has(scene.reader.of_key[key][0].storage_key)]
        seen.away.append(await _killed(stage, scene))
        seconds = await _run_again(scene, clients, lost)
        scene.open_gate("gate")
        answers = {key: await firsts[key] for key in firsts}
        thirds = {key: await clients.ask_until_answered(key, 10) for key in lost}
    scene.reader.read()
    refused = {line.more["storage_key"] for line in scene.reader.events("lost")}
    for key in lost:
        runs, some = scene.reader.of_key[key], (await seconds[key], answers[key], thirds[key])
        shown = ([each.attempt for each in runs], [each.is_replay for each in some])
        is_one = len({each.digest for each in some}) == 1 and runs[0].storage_key in refused
        if shown != ([1, 1], [False, True, True]) or not is_one:
            seen.unlike.append(f"{key}: {shown}")
    seen.lost_claims += len(lost)
    seen.lossy += bool(lost)


async def _run_again(scene: Scene, clients: Clients, keys: list[str]) -> dict[str, "asyncio.Task[Answer]"]:
    """Run each key a second time; return while some of these executions are over and some still run."""
    seconds = {key: asyncio.create_task(clients.ask_until_answered(key, LONGEST)) for key in keys}
    while not all(len(scene.reader.of_key[key]) == 2 for key in keys):
        await asyncio.sleep(0.01)
        scene.reader.read()
    return seconds


async def _held(scene: Scene, clients: Clients) -> dict[str, "asyncio.Task[Answer]"]:
    """Begin executions that wait at a gate. Among so many keys some are in the dying master's slots."""
    keys = [clients.new_key() for _ in range(HELD)]
    clients.wishes.update(dict.fromkeys(keys[::2], b'{"gate": "gate"}'))
    clients.wishes.update(dict.fromkeys(keys[1::2], b'{"gate": "gate", "seconds_again": 1.5}'))
    firsts = {key: asyncio.create_task(clients.ask_until_answered(key, LONGEST)) for key in keys}
    while not all(key in scene.reader.of_key for key in keys):
        await asyncio.sleep(0.01)
        scene.reader.read()
    return firsts


async def _killed(stage: _Stage, scene: Scene) -> float:
    """Kill the master; return the seconds until its successor acknowledged a completion."""
    stage.master.kill()
    began = time.time()
    while True:
        await asyncio.sleep(0.02)
        scene.reader.read()
        for line in scene.reader.events("settled"):
            # A reply that the master sent before its death may still be read now; after 0.3 s it has been.
            if line.at > began + 0.3 and stage.has(line.more["storage_key"]):
                return line.at - began
