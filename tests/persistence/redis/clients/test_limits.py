"""How many commands are under way on an async client at once."""

import asyncio

import pytest

from idempotency_mw.core.record import Acquired
from idempotency_mw.persistence.redis import AsyncRedisPersistenceLayer
from idempotency_mw.persistence.redis.clients.limits import Limits
from tests.persistence.driven import a_claim


class Crowded:
    """A client that counts how many commands are under way on it at once, and claims whatever is asked."""

    def __init__(self, limit=None):
        self.most = self.now = 0
        if limit is not None:
            self.connection_pool = type("Pool", (), {"max_connections": limit})

    async def execute_command(self, *words, **_):
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0)
        self.now -= 1
        return 1


@pytest.mark.parametrize(("limit", "most"), [(None, 50), (1000, 50), (7, 7)])
async def test_a_crowd_waits_in_line_for_the_client_instead_of_being_refused_by_its_pool(limit, most):
    client = Crowded(limit)
    layer = AsyncRedisPersistenceLayer(client)
    won = await asyncio.gather(*(layer.acquire(a_claim()) for _ in range(400)))
    assert won == [Acquired(1)] * 400
    assert client.most == most


async def test_a_crowd_opens_a_few_connections_and_not_one_each(any_server):
    async with AsyncRedisPersistenceLayer.from_url(any_server.url, client_name="herd") as layer:
        await asyncio.gather(*(layer.acquire(a_claim()) for _ in range(400)))
        with any_server.client() as store:
            assert 1 <= sum(each["name"] == "herd" for each in store.client_list()) <= 50


def test_an_open_loop_keeps_its_limit_while_other_loops_come_and_go():
    limits = Limits(for_replicas=False)

    async def limit():
        return limits.semaphore_for(Crowded())

    with asyncio.Runner() as open_yet:
        before = open_yet.run(limit())
        others = [asyncio.run(limit()) for _ in range(3)]
        assert before not in others
        assert open_yet.run(limit()) is before
