"""How clients are closed, and dropped when their event loop is over."""

import asyncio
import gc
import os
import selectors
import warnings
import weakref

import pytest
import redis
import redis.asyncio

from idempotency_mw.core.record import Acquired, Existing, Settled
from idempotency_mw.persistence.redis import (
    AsyncRedisPersistenceLayer,
    RedisConnection,
    RedisPersistenceLayer,
)
from idempotency_mw.persistence.redis.clients.asynchronous import async_client
from idempotency_mw.persistence.redis.clients.closing import closers, drop
from idempotency_mw.persistence.redis.pipelines import RAW
from tests.clusters import SERVICE, until
from tests.persistence.driven import a_claim, driven, rival
from tests.persistence.redis.direct.blocking_talk import ids
from tests.persistence.redis.test_building import quick
from tests.proxy import Proxy


def test_a_client_that_is_brought_along_is_not_closed(any_server):
    client = quick(port=any_server.port, client_name="brought")
    with RedisPersistenceLayer(client) as layer:
        layer.acquire(a_claim())
        before = ids(any_server, "brought")
    assert len(before) == 1
    client.ping()
    assert ids(any_server, "brought") == before
    client.close()


async def test_an_async_client_that_is_brought_along_is_not_closed(any_server):
    client = redis.asyncio.Redis(port=any_server.port, client_name="brought_async")
    async with AsyncRedisPersistenceLayer(client) as layer:
        await layer.acquire(a_claim())
        before = ids(any_server, "brought_async")
    assert len(before) == 1
    await client.ping()
    assert ids(any_server, "brought_async") == before
    await closers(client)[0]()


def connections(server, cluster, sentinel):
    """Return the address of each server, by mode."""
    return {
        "standalone": RedisConnection(url=server.url),
        "cluster": RedisConnection(mode="cluster", host="127.0.0.1", port=cluster.masters[0].port),
        "sentinel": RedisConnection(
            mode="sentinel", sentinels=[("127.0.0.1", sentinel.port)], service_name=SERVICE
        ),
    }


def connections_to(*servers):
    """Return how many connections the servers have, except those of this function, Sentinels and nodes."""
    total = 0
    for server in servers:
        with server.client() as store:
            names = [each["name"] for each in store.client_list()]
        total += sum(not name.startswith("sentinel") for name in names) - 1
    return total


@pytest.mark.parametrize("mode", ["standalone", "cluster", "sentinel"])
def test_a_client_that_the_layer_built_is_closed_and_built_again(kind, mode, any_server, cluster, sentinel):
    where = connections(any_server, cluster, sentinel)[mode]
    servers = [any_server, sentinel, *cluster.masters]
    before = connections_to(*servers)
    with driven(kind.connect(where)) as layer:
        assert layer.acquire(a_claim()) == Acquired(1)
        assert connections_to(*servers) > before
        layer.close()
        until(lambda: connections_to(*servers) == before, within=2)
        assert layer.acquire(a_claim()) == Acquired(1)
    until(lambda: connections_to(*servers) == before, within=2)


@pytest.mark.parametrize("mode", ["standalone", "cluster", "sentinel"])
def test_each_event_loop_has_a_client_of_its_own_and_a_closed_one_is_dropped_in_silence(
    mode, any_server, cluster, sentinel
):
    where = connections(any_server, cluster, sentinel)[mode]
    servers = [any_server, sentinel, *cluster.masters]
    layer = AsyncRedisPersistenceLayer.connect(where)
    claim, loops = a_claim(), []

    async def acquire(claim):
        loops.append(weakref.ref(asyncio.get_running_loop()))
        return await layer.acquire(claim)

    assert asyncio.run(acquire(claim)) == Acquired(1)
    first = connections_to(*servers)
    for _ in range(3):
        assert isinstance(asyncio.run(acquire(rival(claim))), Existing)
    gc.collect()  # warnings of objects that are collected come here
    assert [each() is None for each in loops] == [True, True, True, False]
    until(lambda: connections_to(*servers) <= first + 1, within=2)  # a loop may ask another node of the cluster
    asyncio.run(_settled(layer, claim))
    gc.collect()


async def _settled(layer, claim):
    async with layer:
        assert await layer.complete(claim, b"done") == Settled()


def test_a_loop_that_was_closed_in_mid_verb_is_dropped_in_silence(any_server):
    with Proxy(any_server.port) as proxy:
        layer = AsyncRedisPersistenceLayer.from_url(proxy.url)
        asyncio.run(layer.acquire(a_claim()))
        loop = asyncio.new_event_loop()
        proxy.when(b"EVALSHA", "hang reply")
        task = loop.create_task(layer.acquire(a_claim()))
        loop.run_until_complete(asyncio.sleep(0.1))
        task.cancel()
        loop.run_until_complete(asyncio.wait([task]))
        for left in asyncio.all_tasks(loop):
            left.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        asyncio.run(_used_and_closed(layer))
    gc.collect()


async def _used_and_closed(layer):
    async with layer:
        assert await layer.acquire(a_claim()) == Acquired(1)


def test_a_layer_is_used_on_both_sides_of_a_fork(any_server):
    with RedisPersistenceLayer.from_url(any_server.url) as layer:
        claim = a_claim()
        assert layer.acquire(claim) == Acquired(1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 and later warn of forks with threads
            child = os.fork()
        if child == 0:
            os._exit(0 if layer.complete(claim, b"the child's") == Settled() else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert layer.acquire(rival(claim)).record.result == b"the child's"


def test_a_fork_leaves_the_connection_of_its_parents_loop_alone(any_server):
    claim = a_claim()
    with Proxy(any_server.port) as proxy, asyncio.Runner() as runner:
        layer = AsyncRedisPersistenceLayer.from_url(proxy.url)
        assert runner.run(layer.acquire(claim)) == Acquired(1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 and later warn of forks with threads
            child = os.fork()
        if child == 0:
            found = asyncio.run(layer.acquire(rival(claim)))
            os._exit(0 if isinstance(found, Existing) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        proxy.requests.clear()
        assert isinstance(runner.run(layer.acquire(rival(claim))), Existing)
        assert len(proxy.requests) == 1  # so it used the connection that it had
        runner.run(layer.aclose())


@pytest.mark.parametrize("direct", [True, False], ids=["direct", "usual"])
def test_a_client_that_another_process_made_is_dropped_and_its_sockets_stay_registered(any_server, direct):
    async def connected():
        client = async_client(RedisConnection(url=any_server.url), 2.0, direct=direct)
        assert await client.execute_command("ECHO", "x", **RAW) == b"x"
        return client

    selector = selectors.DefaultSelector()
    loop = asyncio.SelectorEventLoop(selector)
    before = len(selector.get_map())
    client = loop.run_until_complete(connected())
    registered = set(selector.get_map())
    assert len(registered) == before + 1
    drop(client, loop, os.getpid() + 1)
    assert set(selector.get_map()) == registered
    loop.close()


def test_a_transport_that_can_not_be_aborted_is_left_to_the_collector():
    class Transport:
        def abort(self):
            raise RuntimeError("Event loop is closed")

    class Writer:
        transport = Transport()

    class Connection:
        def __init__(self, writer):
            self._writer = self._reader = writer

    writer = Writer()

    class Pool:
        _available_connections = (Connection(writer),)

    class Client:
        connection_pool = Pool()

    left = weakref.ref(writer)
    del writer
    loop = asyncio.new_event_loop()
    loop.close()
    drop(Client(), loop, os.getpid())
    assert left() is None
