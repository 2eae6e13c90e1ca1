"""Cluster clients, while callers come at once and slots move."""

import asyncio
import threading

import pytest
from redis.crc import key_slot

from idempotency_mw.persistence.redis import (
    AsyncRedisPersistenceLayer,
    RedisConnection,
    RedisPersistenceLayer,
)
from idempotency_mw.persistence.redis.clients.blocking import blocking_client
from idempotency_mw.persistence.redis.direct.deadline import Deadline
from tests.clusters import RedisCluster
from tests.persistence.driven import a_claim


def test_threads_that_begin_at_once_ask_a_cluster_for_its_slots_once(cluster):
    def slots_asked():
        total = 0
        for master in cluster.masters:
            with master.client() as store:
                stats = store.info("commandstats")
            total += sum(each["calls"] for name, each in stats.items() if name in SLOTS)
        return total

    before = slots_asked()
    where = RedisConnection(mode="cluster", host="127.0.0.1", port=cluster.masters[0].port)
    with RedisPersistenceLayer.connect(where, timeout_seconds=10) as layer:
        threads = [threading.Thread(target=layer.acquire, args=(a_claim(),)) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert 1 <= slots_asked() - before <= 2


SLOTS = ("cmdstat_cluster|slots", "cmdstat_cluster|shards")


def test_a_connection_that_is_not_open_opens_to_send(any_server):
    deadline = Deadline()
    deadline.start(10.0)
    client = blocking_client(RedisConnection(url=any_server.url), deadline, direct=False)
    connection = client.connection_pool.make_connection()
    connection.send_packed_command(connection.pack_command("PING"))
    assert connection.read_response() in (b"PONG", "PONG")
    connection.disconnect()


def redirections(client):
    """Return how many commands the client's server has answered with MOVED."""
    return client.info("errorstats").get("errorstat_MOVED", {"count": 0})["count"]


@pytest.mark.fault(21)
async def test_slots_that_have_moved_do_not_cost_connections_on_which_others_wait(any_binary):
    with RedisCluster(any_binary) as cluster:
        source, *others = clients = [master.client() for master in cluster.masters]
        target_id = others[0].execute_command("CLUSTER", "MYID")
        async with AsyncRedisPersistenceLayer.connect(RedisConnection(mode="cluster", url=cluster.url)) as layer:
            claims = [a_claim() for _ in range(60)]
            await asyncio.gather(*(layer.extend(claim) for claim in claims))
            slots = {key_slot((layer.key_prefix + claim.storage_key).encode()) for claim in claims}
            moved = [slot for slot in slots if slot <= 16384 // 3 - 1]
            before = {each["id"] for client in clients for each in client.client_list()}
            for node in (others[0], source, others[1]):
                for slot in moved:
                    node.execute_command("CLUSTER", "SETSLOT", slot, "NODE", target_id)
            redirected = sum(map(redirections, clients))
            for claim in claims:
                assert await layer.extend(claim) is False
            after = {each["id"] for client in clients for each in client.client_list()}
            seen = sum(map(redirections, clients))
    assert seen - redirected == len(moved) >= 5
    assert before <= after
