"""Plain and async functions over every store, in one suite.

A test's body is async; for a plain function it is run at once. The test decides when time passes: it moves the
clock of memory and SQLite, and makes the records of a server older.
"""

import asyncio
import inspect
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from types import SimpleNamespace
from uuid import uuid4

import pytest

from idempotency_mw import idempotent_function
from idempotency_mw.errors import IdempotencyAlreadyInProgressError
from idempotency_mw.persistence.base import VERBS, is_async
from idempotency_mw.persistence.memory import MemoryPersistenceLayer
from idempotency_mw.persistence.redis import AsyncRedisPersistenceLayer, RedisPersistenceLayer
from idempotency_mw.persistence.sqlite import SQLitePersistenceLayer
from idempotency_mw.persistence.threaded import as_async
from idempotency_mw.testing import AsyncFailingPersistenceLayer, FailingPersistenceLayer, ManualClock
from tests import canaries
from tests.memory import held, rewrite_results
from tests.proxy import Proxy
from tests.servers import RedisServer, binaries

SERVERS = sorted(binaries()) or [pytest.param("no server", marks=pytest.mark.skip)]
STORES = ["memory", "sqlite", *SERVERS]
PATIENT = 10.0
"""The deadline of a verb in seconds, long enough for a busy machine."""


class MemoryStore:
    """The records of one layer in memory."""

    time_goes_on = False

    def __init__(self):
        self.clock = ManualClock()
        self.layer = MemoryPersistenceLayer(clock=self.clock)

    def open(self, kind):
        return self.layer

    def advance(self, seconds):
        self.clock.advance(seconds)

    def lifetimes(self):
        """Return the milliseconds until the expiry of each record."""
        lifetimes = [write.expires_ms - int(self.clock() * 1000) for write in held(self.layer).values()]
        return [lifetime for lifetime in lifetimes if lifetime > 0]

    def rewrite(self, change):
        """Change the bytes of every record's result."""
        rewrite_results(self.layer, change)


class SQLiteStore:
    """The records of one file."""

    time_goes_on = False

    def __init__(self, path):
        self.path = path
        self.clock = ManualClock()

    def open(self, kind):
        return SQLitePersistenceLayer(self.path, durability="normal", timeout_seconds=PATIENT, clock=self.clock)

    def advance(self, seconds):
        self.clock.advance(seconds)

    def lifetimes(self):
        with closing(sqlite3.connect(self.path)) as connection:
            rows = connection.execute("SELECT expires_ms FROM idempotency_records").fetchall()
        lifetimes = [expires_ms - int(self.clock() * 1000) for (expires_ms,) in rows]
        return [lifetime for lifetime in lifetimes if lifetime > 0]

    def rewrite(self, change):
        with closing(sqlite3.connect(self.path)) as connection, connection:
            for key, data in connection.execute("SELECT storage_key, record FROM idempotency_records").fetchall():
                changed = data[:PREFIX] + change(data[PREFIX:])
                connection.execute(
                    "UPDATE idempotency_records SET record = ? WHERE storage_key = ?", (changed, key)
                )

    def plant(self, data):
        """Replace every record by these bytes."""
        with closing(sqlite3.connect(self.path)) as connection, connection:
            connection.execute("UPDATE idempotency_records SET record = ?", (data,))

    def raw(self):
        with closing(sqlite3.connect(self.path)) as connection:
            return [data for (data,) in connection.execute("SELECT record FROM idempotency_records")]


PREFIX = 119
"""The number of bytes of a record before its result."""

AGE = """
local by = tonumber(ARGV[1])
local left = redis.call('PTTL', KEYS[1])
local record = redis.call('GET', KEYS[1])
if not record then return end
if left >= 0 and left <= by then return redis.call('DEL', KEYS[1]) end
local ends = tonumber(string.sub(record, 41, 55))
if ends then
  record = string.sub(record, 1, 40) .. string.format('%015.0f', ends - by) .. string.sub(record, 56)
end
redis.call('SET', KEYS[1], record)
if left >= 0 then redis.call('PEXPIRE', KEYS[1], left - by) end
"""


class ServerStore:
    """The records of one server under their own prefix; its clock can't be moved, so they are made older."""

    time_goes_on = True

    def __init__(self, server):
        self.server = server
        self.prefix = f"functions-{uuid4().hex}:"
        self.clock = ManualClock()
        self.client = server.client()

    def open(self, kind, url=None):
        layers = {"plain": RedisPersistenceLayer, "async": AsyncRedisPersistenceLayer}
        return layers[kind].from_url(url or self.server.url, key_prefix=self.prefix, timeout_seconds=PATIENT)

    def advance(self, seconds):
        self.clock.advance(seconds)
        for key in self.keys():
            self.client.eval(AGE, 1, key, round(seconds * 1000))

    def lifetimes(self):
        return [self.client.pttl(key) for key in self.keys()]

    def rewrite(self, change):
        for key in self.keys():
            data = self.client.get(key)
            self.client.set(key, data[:PREFIX] + change(data[PREFIX:]), keepttl=True)

    def plant(self, data):
        for key in self.keys():
            self.client.set(key, data, keepttl=True)

    def raw(self):
        return [self.client.get(key) for key in self.keys()]

    def keys(self):
        return list(self.client.scan_iter(f"{self.prefix}*"))


def to_its_end(coroutine):
    """Run a coroutine that never suspends, and return its result."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("the coroutine waits")


def watched(layer, after):
    """Return a layer around a layer that calls `after(verb, claim, outcome)` at the end of each verb."""

    def watching(verb):
        def blocking(claim, *result):
            outcome = getattr(layer, verb)(claim, *result)
            after(verb, claim, outcome)
            return outcome

        async def asynchronous(claim, *result):
            outcome = await getattr(layer, verb)(claim, *result)
            after(verb, claim, outcome)
            return outcome

        return asynchronous if is_async(layer) else blocking

    return SimpleNamespace(**{verb: watching(verb) for verb in VERBS})


class Surface:
    """Decorates and calls functions, plain or async, over one layer of one store."""

    def __init__(self, kind, layer, store=None):
        self.kind = kind
        self.is_async = kind == "async"
        self.layer = as_async(layer) if self.is_async else layer
        self.store = store
        self.runs = []

    def advance(self, seconds):
        """Let time pass in the store."""
        self.store.advance(seconds)

    def failing(self):
        """Put a layer that can be made to fail around the layer, and return it."""
        kinds = {True: AsyncFailingPersistenceLayer, False: FailingPersistenceLayer}
        self.layer = kinds[self.is_async](self.layer)
        return self.layer

    def watch(self, after):
        """Call `after(verb, claim, outcome)` at the end of each verb from now on."""
        self.layer = watched(self.layer, after)

    def function(self, body=None, **options):
        """Return a decorated function of one payload that notes its runs and then runs the async body."""

        async def counted(payload):
            self.runs.append(payload)
            return payload if body is None else await body(payload)

        def plain(payload):
            return to_its_end(counted(payload))

        options = {"persistence_store": self.layer, "key_prefix": uuid4().hex} | options
        return idempotent_function(counted if self.is_async else plain, **options)

    async def seen(self, event, within):
        """Wait until a thread or a task has set the `threading.Event`."""
        if not self.is_async:
            assert event.wait(within)
            return
        async with asyncio.timeout(within):
            while not event.is_set():
                await asyncio.sleep(0.01)

    async def patiently(self, function, payload):
        """Call again and again while the key is in progress."""
        while True:
            with suppress(IdempotencyAlreadyInProgressError):
                return await self.call(function, payload)
            await asyncio.sleep(0.002) if self.is_async else time.sleep(0.002)

    async def call(self, function, *args, **kwargs):
        for payload in (*args, *kwargs.values()):
            if isinstance(payload, str):
                canaries.secret(payload)
        result = function(*args, **kwargs)
        return await result if inspect.isawaitable(result) else result

    async def at_once(self, work, count):
        """Run the async `work` for each number below `count`, in as many threads or tasks; return the results."""
        if self.is_async:
            return await asyncio.gather(*[work(number) for number in range(count)])
        with ThreadPoolExecutor(count) as pool:
            return list(pool.map(lambda number: to_its_end(work(number)), range(count)))


@pytest.fixture(params=["plain", "async"])
def kind(request):
    return request.param


@pytest.fixture(scope="session")
def server_of():
    """Return a function from the name of a server to the running server, started at the first call."""
    started = {}
    with ExitStack() as stack:

        def started_server(name):
            if name not in started:
                started[name] = stack.enter_context(RedisServer(binaries()[name]))
            return started[name]

        yield started_server


def store_of(name, server_of, folder):
    if name == "memory":
        return MemoryStore()
    if name == "sqlite":
        return SQLiteStore(folder / "records.sqlite3")
    return ServerStore(server_of(name))


@pytest.fixture(params=STORES)
def store(request, server_of, tmp_path):
    """Every store in turn, empty."""
    made = store_of(request.param, server_of, tmp_path)
    yield made
    if isinstance(made, ServerStore):
        made.client.close()


@pytest.fixture(params=["sqlite", *SERVERS])
def file_or_server(request, server_of, tmp_path):
    """The stores that hold bytes."""
    made = store_of(request.param, server_of, tmp_path)
    yield made
    if isinstance(made, ServerStore):
        made.client.close()


@pytest.fixture(params=SERVERS)
def server_store(request, server_of):
    """The stores that are servers."""
    made = ServerStore(server_of(request.param))
    yield made
    made.client.close()


async def closed(layer):
    """Close a layer, blocking or async."""
    await layer.aclose() if hasattr(layer, "aclose") else layer.close()


@pytest.fixture
async def surface(kind, store):
    """Plain and async, over every store."""
    layer = store.open(kind)
    yield Surface(kind, layer, store)
    await closed(layer)


@pytest.fixture
def in_memory(kind):
    """Plain and async, in memory, for tests in which the store plays no part."""
    store = MemoryStore()
    return Surface(kind, store.layer, store)


@pytest.fixture
async def holding_bytes(kind, file_or_server):
    """Plain and async, over the stores that hold bytes."""
    layer = file_or_server.open(kind)
    yield Surface(kind, layer, file_or_server)
    await closed(layer)


async def failing(payload):
    raise ZeroDivisionError


@pytest.fixture
async def proxied(kind, server_store):
    """Plain and async, over each server through a proxy; connected, with its scripts loaded."""
    with Proxy(server_store.server.port) as proxy:
        layer = server_store.open(kind, proxy.url)
        surface = Surface(kind, layer, server_store)
        await surface.call(surface.function(), "warm")
        with suppress(ZeroDivisionError):
            await surface.call(surface.function(failing), "warm")
        surface.runs.clear()
        yield surface, proxy
        await closed(layer)
