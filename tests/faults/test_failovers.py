"""Servers that restart or fail over, with and without their last writes, and slots that move."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import redis
from redis.crc import key_slot

from idempotency_mw.persistence.redis import RedisConnection
from tests.asgi.driver import until
from tests.clusters import SERVICE, RedisCluster, RedisSentinel
from tests.clusters import until as blocking_until
from tests.faults.conftest import Place
from tests.faults.rows import shows
from tests.faults.stores import RedisGround, RedisStore, is_there
from tests.faults.surfaces import SURFACES, Play
from tests.servers import RedisServer, binaries

QUICK = ("--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1")
KEEPING = ("--appendonly", "yes", "--appendfsync", "always")
FIRST_SHARD = next(f"{{{number}}}" for number in range(100) if key_slot(b"%d" % number) < 16384 // 3)
"""A prefix whose keys are all in the cluster's first shard."""


class Pair:
    """A master and its replica, under a Sentinel or as the first shard of a cluster."""

    def __init__(self, kind: str, master: RedisServer, replica: RedisServer, connection: RedisConnection) -> None:
        self.master, self.replica = master, replica
        self.ground = RedisGround(kind, [master, replica], [])
        self.ground.client.close()
        self.ground.connection = connection

    def hand_over(self) -> None:
        """Make the replica the master, with all that was written.

        In a cluster by the command of an operator. Under a Sentinel the master is killed: a live one would be
        demoted only seconds after its replacement, and the writes that it acknowledges until then would be lost.
        """
        if self.ground.kind == "cluster":
            _tell(self.replica, "CLUSTER", "FAILOVER")
        else:
            blocking_until(lambda: _offset(self.replica) == _offset(self.master))
            self.master.kill()
        self._until_promoted()

    def cut_off(self) -> None:
        """Keep the writes from here on from the replica."""
        self.replica.freeze()
        _tell(self.master, "CLIENT", "KILL", "TYPE", "replica")

    def lose_and_hand_over(self) -> None:
        """Kill the master; the replica takes its place without the last writes."""
        self.master.kill()
        self.replica.thaw()
        if self.ground.kind == "cluster":
            _tell(self.replica, "CLUSTER", "FAILOVER", "TAKEOVER")
        self._until_promoted()

    def _until_promoted(self) -> None:
        blocking_until(lambda: _replication(self.replica)["role"] == "master")
        self.ground.client = self.replica.client()


def _tell(server: RedisServer, *command: str) -> Any:
    with server.client() as client:
        return client.execute_command(*command)


def _replication(server: RedisServer) -> dict[str, Any]:
    with server.client() as client:
        return client.info("replication")


def _offset(server: RedisServer) -> int:
    told = _replication(server)
    return told.get("slave_repl_offset", told["master_repl_offset"])


def _is_synchronous(server: RedisServer) -> bool:
    return _replication(server).get("master_link_status") == "up"


def _under_sentinel(stack: ExitStack) -> Pair:
    binary = next(iter(binaries().values()))
    master = stack.enter_context(RedisServer(binary, *QUICK))
    replica = stack.enter_context(RedisServer(binary, *QUICK, "--replicaof", "127.0.0.1", str(master.port)))
    blocking_until(lambda: _is_synchronous(replica))
    sentinel = stack.enter_context(RedisSentinel(binary, master))
    with redis.Redis(port=sentinel.port) as client:
        blocking_until(lambda: len(client.sentinel_slaves(SERVICE)) == 1)
    address = ("127.0.0.1", sentinel.port)
    connection = RedisConnection(mode="sentinel", sentinels=[address], service_name=SERVICE)
    return Pair("sentinel", master, replica, connection)


def _in_cluster(stack: ExitStack) -> Pair:
    cluster = stack.enter_context(RedisCluster(next(iter(binaries().values())), *QUICK, replicas=1))
    blocking_until(lambda: all(map(_is_synchronous, cluster.replicas)))
    connection = RedisConnection(host="127.0.0.1", port=cluster.masters[1].port, mode="cluster")
    return Pair("cluster", cluster.masters[0], cluster.replicas[0], connection)


class Lone:
    """One server that persists every write that it acknowledges, and restarts with them."""

    def __init__(self, kind: str, stack: ExitStack) -> None:
        self.server = stack.enter_context(RedisServer(binaries()[kind], *KEEPING))
        self.ground = RedisGround(kind, [self.server], [])

    def hand_over(self) -> None:
        self.server.kill()
        self.server.start()


@contextmanager
def hand_over_of(kind: str) -> Iterator[Any]:
    if not is_there(kind):
        pytest.skip(f"no server for {kind} was found")
    makers: dict[str, Callable[[ExitStack], Any]] = {"cluster": _in_cluster, "sentinel": _under_sentinel}
    with ExitStack() as stack:
        yield makers.get(kind, lambda stack: Lone(kind, stack))(stack)


class Run:
    """One surface with a request that runs and another that is completed."""

    def __init__(self, ground: RedisGround, surface: str) -> None:
        self.place = Place(RedisStore(ground, FIRST_SHARD), surface)
        self.gate = asyncio.Event()
        self.surface = self.place.surface(lambda body: Play(waits_for=None if body == b"done" else self.gate))

    async def begin(self) -> None:
        assert (await self.surface.send(b"done", key="over")).answer == b"done"
        self.first = asyncio.ensure_future(self.surface.send())
        await until(lambda: self.surface.runs == 2, within=20)

    def frames(self) -> list[Any]:
        """Return the records of the present master."""
        self.place.store.client = self.place.store.ground.client
        return self.place.store.frames()


@shows(18, at_once=True)
async def test_a_client_does_not_notice_a_failover_without_loss(place):
    with hand_over_of(place) as servers:
        runs = [Run(servers.ground, surface) for surface in SURFACES]
        await asyncio.gather(*(run.begin() for run in runs))
        await asyncio.to_thread(servers.hand_over)
        for run in runs:
            over = await run.surface.send(b"done", key="over")
            assert (over.answer, over.replayed) == (b"done", True)
            assert (await run.surface.send()).refused == "in-progress"
            run.gate.set()
            assert (await run.first).answer == b"done"
            again = await run.surface.send()
            assert (again.answer, again.replayed, run.surface.attempts) == (b"done", True, [1, 1])
            assert [frame.status.value for frame in run.frames()] == ["completed"] * 2
            await run.place.close()
        servers.ground.client.close()


@shows(19, at_once=True)
async def test_after_a_failover_with_loss_a_second_run_wins_and_the_first_changes_nothing(place):
    with hand_over_of(place) as servers:
        runs = [Run(servers.ground, surface) for surface in SURFACES]
        await asyncio.to_thread(servers.cut_off)
        await asyncio.gather(*(run.begin() for run in runs))
        await asyncio.to_thread(servers.lose_and_hand_over)
        for run in runs:
            other = run.place.surface(Play(chunks=(b"the second",)))
            seen = await other.send()
            assert (seen.answer, seen.replayed, other.attempts) == (b"the second", False, [1])
            seconds = run.frames()
            run.gate.set()
            late = await run.first
            assert (late.answer, late.replayed) == (b"the second", True)
            assert run.frames() == seconds
            assert [frame.status.value for frame in seconds] == ["completed"]
            await run.place.close()
        servers.ground.client.close()


# Slots.


class Move:
    """The migration of the slot of a store's only record from one master to another."""

    def __init__(self, store: RedisStore) -> None:
        (storage_key,) = store.records()
        self.name = store.prefix + storage_key
        self.slot = str(key_slot(self.name.encode()))
        servers = store.ground.servers
        self.source = next(server for server in servers if _has(server, self.name))
        self.target = next(server for server in servers if server is not self.source)
        self.servers = servers

    def begin(self) -> None:
        """Migrate the record, and leave the slot between the two: clients get ASK redirections."""
        _tell(self.target, "CLUSTER", "SETSLOT", self.slot, "IMPORTING", _id(self.source))
        _tell(self.source, "CLUSTER", "SETSLOT", self.slot, "MIGRATING", _id(self.target))
        _tell(self.source, "MIGRATE", "127.0.0.1", str(self.target.port), self.name, "0", "5000")

    def end(self) -> None:
        """Assign the slot to the target: clients get MOVED redirections."""
        for server in (self.target, self.source, *self.servers):
            _tell(server, "CLUSTER", "SETSLOT", self.slot, "NODE", _id(self.target))


def _has(server: RedisServer, name: str) -> bool:
    with server.client() as client:
        return name.encode() in client.keys(name)


def _id(server: RedisServer) -> str:
    return _tell(server, "CLUSTER", "MYID").decode()


@pytest.mark.parametrize("meets", ["ASK", "MOVED"])
@shows(21)
async def test_a_client_does_not_notice_a_slot_that_moves_while_the_app_runs(place, meets):
    moves = []

    def app(body):
        moves.append(Move(place.store))
        moves[0].begin()
        if meets == "MOVED":
            moves[0].end()

    surface = place.surface(Play(seen=app))
    seen = await surface.send()
    assert (seen.answer, seen.replayed) == (b"done", False)
    await place.assert_kept(surface, b"done")
    moves[0].end()
    await place.assert_kept(surface, b"done")
    assert (surface.attempts, place.status()) == ([1], "completed")


@shows(21)
async def test_a_verb_is_repeated_after_tryagain(place):
    surface = place.surface()
    await surface.send(key="before")
    place.store.lose()
    tried = b"-TRYAGAIN Multiple keys request during rehashing of slot\r\n"
    place.store.when(b"EVAL", "answer request", times=2, reply=tried)
    assert (await surface.send()).answer == b"done"
    assert surface.attempts == [1, 1]
    await place.assert_kept(surface, b"done")
