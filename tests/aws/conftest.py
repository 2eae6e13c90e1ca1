"""Loops and stores as a Lambda environment has them: made once, used by call after call."""

import asyncio
import gc
from uuid import uuid4

import pytest

from idempotency_mw.persistence.memory import MemoryPersistenceLayer
from idempotency_mw.persistence.redis import AsyncRedisPersistenceLayer
from idempotency_mw.persistence.sqlite import SQLitePersistenceLayer


@pytest.fixture(autouse=True)
def loop():
    """The current loop, as Mangum finds one. A test may close it, or set another."""
    gc.freeze()  # `silence` need not look for garbage in what was there before
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield loop
    asyncio.set_event_loop(None)
    loop.close()


class Valkey(AsyncRedisPersistenceLayer):
    """A layer whose connections can be told from those of other tests on the same server."""

    def connections(self, server) -> list[int]:
        """Return the server's numbers of our connections."""
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
    """Nothing is warned about, nor logged by asyncio; what is collected as garbage included."""
    yield
    gc.collect()  # a warning in there fails the test too
    assert [record.getMessage() for record in caplog.records if record.name == "asyncio"] == []
