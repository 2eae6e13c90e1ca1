"""Many claims at once for one key: one wins, on every layer, whether the key is free or its lease has lapsed."""

import asyncio
import multiprocessing
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from secrets import token_hex
from threading import Barrier

import pytest

from idempotency_mw.core.record import Acquired, Claim, Operation
from idempotency_mw.persistence.memory import MemoryPersistenceLayer
from idempotency_mw.persistence.redis import AsyncRedisPersistenceLayer, RedisConnection, RedisPersistenceLayer
from idempotency_mw.persistence.sqlite import SQLitePersistenceLayer
from idempotency_mw.persistence.threaded import as_async
from tests.clusters import SERVICE

ROUNDS = 100
CONTENDERS = 64
PROCESSES = 4
LONG_MS = 60_000
PATIENCE = 20.0  # long, because the verbs queue up here; deadlines have tests of their own
pytestmark = [pytest.mark.row(39), pytest.mark.no_cover]  # many equal rounds, not counted as coverage


def sqlite(path):
    return SQLitePersistenceLayer(path, durability="normal", timeout_seconds=PATIENCE)


def redis_at(url):
    return RedisPersistenceLayer.from_url(url, timeout_seconds=PATIENCE)


def redis_through(connection):
    return RedisPersistenceLayer.connect(connection, timeout_seconds=PATIENCE)


def maker(name, request):
    """Return a picklable function that makes the named layer, in this process or another."""
    if name == "memory":
        return MemoryPersistenceLayer
    if name == "sqlite":
        return partial(sqlite, request.getfixturevalue("tmp_path") / "records.db")
    if name == "cluster":
        port = request.getfixturevalue("cluster").masters[0].port
        return partial(redis_through, RedisConnection(mode="cluster", host="127.0.0.1", port=port))
    if name == "sentinel":
        where = [("127.0.0.1", request.getfixturevalue("sentinel").port)]
        return partial(redis_through, RedisConnection(mode="sentinel", sentinels=where, service_name=SERVICE))
    return partial(redis_at, request.getfixturevalue("any_server").url)


def contender(key, lease_ms=LONG_MS):
    return Claim(Operation(key, "f" * 64), token_hex(16), lease_ms, LONG_MS)


def lapsed_keys(layer, rounds=ROUNDS):
    keys = [token_hex(16) for _ in range(rounds)]
    for key in keys:
        assert layer.acquire(contender(key, lease_ms=1)) == Acquired(1)
    time.sleep(0.01)
    return keys


def prizes(answers):
    return [answer for answer in answers if isinstance(answer, Acquired)]


@pytest.fixture(params=["free", "lapsed"])
def state(request):
    return request.param


def keys_and_prize(layer, state, rounds=ROUNDS):
    """Return a key for each round, and the answer to its winner."""
    if state == "free":
        return [token_hex(16) for _ in range(rounds)], Acquired(1)
    return lapsed_keys(layer, rounds), Acquired(2)


@pytest.mark.fault(24)
@pytest.mark.parametrize(
    ("name", "rounds"),
    [
        ("memory", ROUNDS),
        ("sqlite", ROUNDS),
        ("redis", ROUNDS),
        ("cluster", ROUNDS // 4),
        ("sentinel", ROUNDS // 4),
    ],
)
def test_one_of_64_threads_wins_each_round(name, rounds, state, request):
    def run(number):
        for key in keys:
            start.wait()
            answers[key].append(layer.acquire(contender(key)))

    start = Barrier(CONTENDERS)
    with closing(maker(name, request)()) as layer:
        keys, prize = keys_and_prize(layer, state, rounds)
        answers = {key: [] for key in keys}
        with ThreadPoolExecutor(CONTENDERS) as threads:
            list(threads.map(run, range(CONTENDERS)))
    assert [prizes(each) for each in answers.values()] == [[prize]] * rounds
    assert {len(each) for each in answers.values()} == {CONTENDERS}


@pytest.mark.parametrize("name", ["memory", "sqlite", "redis"])
async def test_one_of_64_tasks_over_a_blocking_layer_wins_each_round(name, state, request):
    with closing(maker(name, request)()) as layer:
        keys, prize = keys_and_prize(layer, state)
        await _race_of_tasks(as_async(layer), keys, prize)


async def test_one_of_64_tasks_wins_each_round(server, state):
    async with AsyncRedisPersistenceLayer.from_url(server.url, timeout_seconds=PATIENCE) as layer:
        with closing(redis_at(server.url)) as blocking:
            keys, prize = keys_and_prize(blocking, state)
        await _race_of_tasks(layer, keys, prize)


async def test_one_of_64_tasks_on_a_cluster_wins_each_round(cluster, state):
    where = RedisConnection(mode="cluster", host="127.0.0.1", port=cluster.masters[0].port)
    async with AsyncRedisPersistenceLayer.connect(where, timeout_seconds=PATIENCE) as layer:
        with closing(redis_through(where)) as blocking:
            keys, prize = keys_and_prize(blocking, state, ROUNDS // 4)
        await _race_of_tasks(layer, keys, prize)


async def _race_of_tasks(layer, keys, prize):
    for key in keys:
        answers = await asyncio.gather(*(layer.acquire(contender(key)) for _ in range(CONTENDERS)))
        assert prizes(answers) == [prize]


def contend(make, keys, start, answers):
    """The body of a process."""
    layer = make()
    won = []
    for key in keys:
        start.wait()
        answer = layer.acquire(contender(key))
        if isinstance(answer, Acquired):
            won.append((key, answer.attempt))
    layer.close()
    answers.put(won)


@pytest.mark.parametrize("name", ["sqlite", "redis"])
def test_one_of_4_processes_wins_each_round(name, request):
    make = maker(name, request)
    free = [token_hex(16) for _ in range(ROUNDS)]
    with closing(make()) as layer:
        lapsed = lapsed_keys(layer)
    apart = multiprocessing.get_context("spawn")
    start, answers = apart.Barrier(PROCESSES), apart.Queue()
    processes = [
        apart.Process(target=contend, args=(make, free + lapsed, start, answers)) for _ in range(PROCESSES)
    ]
    for process in processes:
        process.start()
    won = [each for _ in processes for each in answers.get(timeout=50)]
    for process in processes:
        process.join()
    assert sorted(won) == sorted([(key, 1) for key in free] + [(key, 2) for key in lapsed])
