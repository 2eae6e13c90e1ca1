"""Closing a layer over a cluster that lost a node."""

import pytest

from idempotency_mw.errors import IdempotencyPersistenceConnectionError
from idempotency_mw.testing.harness import a_claim
from tests.asgi.driver import until
from tests.faults.stores import is_there


@pytest.fixture
def cluster(grounds):
    if not is_there("cluster"):
        pytest.skip("no server for cluster was found")
    store = grounds.open("cluster")
    yield store
    store.close()


def connections(cluster):
    """Return how many connections each master has."""
    counts = []
    for server in cluster.ground.servers:
        with server.client() as client:
            counts.append(client.info("clients")["connected_clients"])
    return counts


async def test_closing_after_a_node_was_lost_closes_the_connections_to_the_others(cluster):
    cluster.records()  # connects the test's own client
    before = connections(cluster)
    layer = cluster.layer(is_async=True, timeout_seconds=10)
    for _ in range(12):  # connects to the nodes
        await layer.acquire(a_claim())
    assert sum(connections(cluster)) >= sum(before) + 2
    layer.timeout_seconds = 0.2
    cluster.when(b"EVAL", "cut request", times=None)
    with pytest.raises(IdempotencyPersistenceConnectionError):
        await layer.acquire(a_claim())
    await layer.aclose()
    await until(lambda: connections(cluster) == before)
