"""Loops and stores as in a Lambda environment: created once, used by one call after the other."""

import asyncio
import gc
from uuid import uuid4

import pytest

from idempotency_mw.persistence.memory import MemoryPersistenceLayer
from idempotency_mw.persistence.redis import AsyncRedisPersistenceLayer
from idempotency_mw.persistence.sqlite import SQLitePersistenceLayer


@pytest.fixture(autouse=True)
def loop():
    """The current event loop, which Mangum uses. A test may close it or set another."""
    gc.freeze()  # so that the collection in `silence` is fast
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield loop
    asyncio.set_event_loop(None)
    loop.close()


class Valkey(AsyncRedisPersistenceLayer):
    """A layer whose connections the server lists under a name of its own."""

    def connections(self, server) -> list[int]:
        """Return the server's ids of this layer's connections."""
        with server.client() as client:
            name = self._client_options["client_name"]
            return [int(each["id"]) for each in client.client_list() if each["name"] == name]


@pytest.fixture
def valkey(any_server, loop):
    layer = Valkey.from_url(any_server.url, client_name=uuid4().hex, key_prefix=f"{uuid4().hex}:")
    yield layer
    asyncio.run(layer.aclose())


@pytest.fixture(params=["memory", "sqlite", "valkey"])
def store(request, tmp_path):
    """Each kind of layer in turn."""
    if request.param == "valkey":
        yield request.getfixturevalue("valkey")
        return
    memory = request.param == "memory"
    with MemoryPersistenceLayer() if memory else SQLitePersistenceLayer(tmp_path / "records") as layer:
        yield layer


@pytest.fixture
def silence(caplog):
    """Fail if asyncio logs anything, or if anything warns while garbage is collected."""
    yield
    gc.collect()  # a warning during it fails the test
    assert [record.getMessage() for record in caplog.records if record.name == "asyncio"] == []
