"""How many round trips a request costs: two for a first one, one for each duplicate, whatever its answer."""

import pytest

from idempotency_mw.asgi import IdempotencyMiddleware
from idempotency_mw.core.config import IdempotencyConfig
from idempotency_mw.persistence.redis import AsyncRedisPersistenceLayer, RedisPersistenceLayer
from tests.proxy import Proxy

httpx = pytest.importorskip("httpx")


@pytest.fixture
def proxy(any_server):
    with Proxy(any_server.port) as proxy:
        yield proxy


async def app(scope, receive, send):
    await receive()
    await send({"type": "http.response.start", "status": 201, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


class Client:
    """Sends requests, and counts the messages that each of them sent to the store."""

    def __init__(self, layer, proxy):
        wrapped = IdempotencyMiddleware(app, persistence_store=layer, config=IdempotencyConfig())
        self.http = httpx.AsyncClient(transport=httpx.ASGITransport(wrapped), base_url="http://test")
        self.proxy = proxy

    async def post(self, key, content=b"{}"):
        before = len(self.proxy.requests)
        answer = await self.http.post("/", content=content, headers={"Idempotency-Key": key})
        return answer.status_code, len(self.proxy.requests) - before


@pytest.fixture(params=["async", "blocking"])
async def client(request, proxy):
    kinds = {"async": AsyncRedisPersistenceLayer, "blocking": RedisPersistenceLayer}
    layer = kinds[request.param].from_url(proxy.url)
    client = Client(layer, proxy)
    await client.post(f"warm-{proxy.port}")  # connects, and loads the scripts
    yield client
    await client.http.aclose()
    if request.param == "async":
        await layer.aclose()
    else:
        layer.close()


@pytest.mark.row(34, 35)
async def test_a_first_request_takes_two_round_trips_and_a_replay_one(client):
    key = f"replayed-{client.proxy.port}"
    assert await client.post(key) == (201, 2)
    for _ in range(3):
        assert await client.post(key) == (201, 1)


@pytest.mark.fault(6)
async def test_each_lost_script_costs_one_round_trip_more(client, any_server):
    with any_server.client() as store:
        store.script_flush()
    assert await client.post(f"lost-{client.proxy.port}") == (201, 4)


@pytest.mark.row(36)
async def test_another_payload_takes_one_round_trip(client):
    key = f"reused-{client.proxy.port}"
    assert await client.post(key) == (201, 2)
    assert await client.post(key, b'{"other": 1}') == (422, 1)


@pytest.mark.row(37)
async def test_a_duplicate_of_a_running_request_takes_one_round_trip(client, any_server):
    key = f"running-{client.proxy.port}"
    await client.post(key)
    with any_server.client() as store:
        for name in store.scan_iter("idempotency:*"):
            record = store.get(name)
            if record[1:2] == b"C":  # turn it back into a record in progress
                store.set(name, b"1P" + record[2:119], keepttl=True)
    assert await client.post(key) == (409, 1)
