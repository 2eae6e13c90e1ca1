"""Plain and async functions in one suite: a test's body is async, and runs at once where the function is plain."""

import inspect
from uuid import uuid4

import pytest

from idempotency_mw import idempotent_function
from idempotency_mw.persistence.memory import MemoryPersistenceLayer
from idempotency_mw.persistence.redis import AsyncRedisPersistenceLayer, RedisPersistenceLayer
from idempotency_mw.persistence.sqlite import SQLitePersistenceLayer
from idempotency_mw.testing import FailingPersistenceLayer, ManualClock


class FailingInPlace(FailingPersistenceLayer):
    """Called where it stands: a failure that comes back from a thread is not seen by coverage (Python 3.11)."""

    runs_in_place = True


def to_its_end(coroutine):
    """Run a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("the coroutine waits")


class Surface:
    """One way of decorating and calling: plain or async, over one layer."""

    def __init__(self, kind, layer, clock=None):
        self.is_async = kind == "async"
        self.layer = layer
        self.clock = clock
        self.runs = []

    def function(self, body=None, **options):
        """Decorate a function of one payload that notes its runs and does what the async body does."""

        async def counted(payload):
            self.runs.append(payload)
            return payload if body is None else await body(payload)

        def plain(payload):
            return to_its_end(counted(payload))

        options = {"persistence_store": self.layer, "key_prefix": uuid4().hex} | options
        return idempotent_function(counted if self.is_async else plain, **options)

    async def call(self, function, *args, **kwargs):
        result = function(*args, **kwargs)
        return await result if inspect.isawaitable(result) else result


@pytest.fixture(params=["plain", "async"])
def kind(request):
    return request.param


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def surface(kind, clock):
    """Over memory, with a clock that is moved by hand."""
    return Surface(kind, MemoryPersistenceLayer(clock=clock), clock)


@pytest.fixture(params=["memory", "sqlite", "valkey"])
async def stored(request, kind, tmp_path):
    """Over each kind of store."""
    if request.param == "memory":
        yield Surface(kind, MemoryPersistenceLayer())
    elif request.param == "sqlite":
        with SQLitePersistenceLayer(tmp_path / "records.sqlite3") as layer:
            yield Surface(kind, layer)
    elif kind == "async":
        async with AsyncRedisPersistenceLayer.from_url(request.getfixturevalue("any_server").url) as layer:
            yield Surface(kind, layer)
    else:
        with RedisPersistenceLayer.from_url(request.getfixturevalue("any_server").url) as layer:
            yield Surface(kind, layer)


@pytest.fixture
async def valkey(kind, any_server):
    """Over a real server, under a prefix of its own."""
    prefix = f"functions-{uuid4().hex}:"
    if kind == "async":
        async with AsyncRedisPersistenceLayer.from_url(any_server.url, key_prefix=prefix) as layer:
            surface = Surface(kind, layer)
            surface.prefix = prefix
            yield surface
    else:
        with RedisPersistenceLayer.from_url(any_server.url, key_prefix=prefix) as layer:
            surface = Surface(kind, layer)
            surface.prefix = prefix
            yield surface
