"""What only a cluster does: nodes that go, slots that move."""

import pytest

from idempotency_mw.errors import IdempotencyPersistenceConnectionError
from idempotency_mw.testing.harness import a_claim
from tests.faults.stores import is_there


@pytest.fixture
def cluster(grounds):
    if not is_there("cluster"):
        pytest.skip("no server for cluster was found")
    store = grounds.open("cluster")
    yield store
    store.close()


async def test_closing_after_a_node_was_lost_closes_the_connections_to_the_others(cluster):
    layer = cluster.layer(is_async=True, timeout_seconds=10)
    for _ in range(12):  # a connection to each node
        await layer.acquire(a_claim())
    layer.timeout_seconds = 0.2
    cluster.when(b"EVAL", "cut request", times=None)
    with pytest.raises(IdempotencyPersistenceConnectionError):
        await layer.acquire(a_claim())
    nodes = list(layer._client().nodes_manager.nodes_cache.values())
    await layer.aclose()
    assert len(nodes) == 3
    assert [connection for node in nodes for connection in node._connections if connection.is_connected] == []
