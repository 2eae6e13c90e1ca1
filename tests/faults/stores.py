"""Every kind of store, to be read and broken beside the layer.

    with Grounds() as grounds:
        store = grounds.open("cluster")          # with its own prefix or file
        store.layer(is_async=True)               # a layer for a surface
        store.when(b"EVALSHA", "cut reply")      # the next reply is lost, from whichever node
        store.pass_time(30)                      # the records are thirty seconds older
        store.records()                          # the records as bytes, by storage key

`pass_time` moves the layer's clock, if it takes one; otherwise it moves each record and its expiry into the past,
which is the same for the server's clock. A proxy stands in front of every server, so that messages can be lost
wherever a client connects. The stores are read with commands that no layer sends, which no plan matches.
"""

import contextlib
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

import redis

from idempotency_mw.persistence.frame import Frame
from idempotency_mw.persistence.memory import MemoryPersistenceLayer
from idempotency_mw.persistence.redis import AsyncRedisPersistenceLayer, RedisConnection, RedisPersistenceLayer
from idempotency_mw.persistence.sqlite import SQLitePersistenceLayer
from idempotency_mw.persistence.verbs import StoredFrame
from tests.clusters import SERVICE, RedisCluster, RedisSentinel
from tests.memory import held
from tests.proxy import Proxy
from tests.servers import RedisServer, binaries
from tests.sqlite import connection_of

__all__ = ["KINDS", "REDIS_KINDS", "Grounds", "RedisStore", "Store", "is_there"]

REDIS_KINDS = ("redis", "valkey", "cluster", "sentinel")
KINDS = ("memory", "sqlite", *REDIS_KINDS)
PATIENCE = 20.0
"""A deadline that a slow machine meets; a test about deadlines gives its own."""


def is_there(kind: str) -> bool:
    """Return whether this machine has the server that the kind of store needs."""
    return (
        kind in ("memory", "sqlite")
        or kind in binaries()
        or (kind in ("cluster", "sentinel") and bool(binaries()))
    )


class Shifted:
    """A clock that is `ahead` of its base by as many seconds as the test says."""

    def __init__(self, base: Callable[[], float]) -> None:
        self.base = base
        self.ahead = 0.0

    def __call__(self) -> float:
        return self.base() + self.ahead


class Store:
    """The interface of all kinds. Records are bytes in the format of `frame.py`."""

    kind: str
    slack_ms = 30_000
    """By how much a remaining time may be less than expected, since the real clock runs meanwhile."""

    def layer(self, *, is_async: bool, timeout_seconds: float = PATIENCE) -> Any:
        raise NotImplementedError

    def records(self) -> dict[str, bytes]:
        raise NotImplementedError

    def peek(self, storage_key: str) -> tuple[bytes | None, int | None]:
        """Return a record and the milliseconds until it expires; `None` means never."""
        raise NotImplementedError

    def plant(self, storage_key: str, data: bytes) -> None:
        raise NotImplementedError

    def lose(self) -> None:
        """Lose every record, as by an eviction or a restart without persistence."""
        raise NotImplementedError

    def pass_time(self, seconds: float) -> None:
        raise NotImplementedError

    def frames(self) -> list[Frame]:
        return [Frame.decode(data) for data in self.records().values()]

    def without_expiry(self) -> int:
        return sum(self.peek(storage_key)[1] is None for storage_key in self.records())

    def close(self) -> None:
        """Nothing by default."""


class MemoryStore(Store):
    kind = "memory"

    def __init__(self) -> None:
        self.clock = Shifted(time.monotonic)
        self._layer = MemoryPersistenceLayer(clock=self.clock)

    def layer(self, *, is_async: bool, timeout_seconds: float = PATIENCE) -> Any:
        return self._layer

    def records(self) -> dict[str, bytes]:
        return {key: data for key in held(self._layer) if (data := self.peek(key)[0]) is not None}

    def peek(self, storage_key: str) -> tuple[bytes | None, int | None]:
        write = held(self._layer).get(storage_key)
        left = 0 if write is None else write.expires_ms - int(self.clock() * 1000)
        return (write.frame.encode(), left) if write is not None and left > 0 else (None, None)

    def plant(self, storage_key: str, data: bytes) -> None:
        held(self._layer)[storage_key] = StoredFrame(Frame.decode(data), int(self.clock() * 1000) + 3_600_000)

    def lose(self) -> None:
        self._layer.close()

    def pass_time(self, seconds: float) -> None:
        self.clock.ahead += seconds


class SQLiteStore(Store):
    kind = "sqlite"

    def __init__(self, folder: Path) -> None:
        self.path = folder / f"{uuid4().hex}.sqlite3"
        self.clock = Shifted(time.time)
        self._layers: list[SQLitePersistenceLayer] = []
        self.layer(is_async=False).check()
        self._file = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, timeout=PATIENCE)

    def layer(self, *, is_async: bool, timeout_seconds: float = PATIENCE) -> Any:
        layer = SQLitePersistenceLayer(
            self.path, durability="normal", timeout_seconds=timeout_seconds, clock=self.clock
        )
        self._layers.append(layer)
        return layer

    def records(self) -> dict[str, bytes]:
        rows = self._file.execute(
            "SELECT storage_key, record FROM idempotency_records WHERE expires_ms > ?",
            (int(self.clock() * 1000),),
        )
        return dict(rows.fetchall())

    def peek(self, storage_key: str) -> tuple[bytes | None, int | None]:
        now_ms = int(self.clock() * 1000)
        row = self._file.execute(
            "SELECT record, expires_ms FROM idempotency_records WHERE storage_key = ? AND expires_ms > ?",
            (storage_key, now_ms),
        ).fetchone()
        return (None, None) if row is None else (row[0], row[1] - now_ms)

    def address(self) -> dict[str, Any]:
        """Return how another process can connect to the store."""
        return {"path": str(self.path)}

    def plant(self, storage_key: str, data: bytes) -> None:
        self._file.execute(
            "INSERT OR REPLACE INTO idempotency_records VALUES (?, ?, ?)",
            (storage_key, data, int(self.clock() * 1000) + 3_600_000),
        )

    def lose(self) -> None:
        self._file.execute("DELETE FROM idempotency_records")

    def pass_time(self, seconds: float) -> None:
        self.clock.ahead += seconds

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Hold the file's write lock, as another process may."""
        self._file.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            self._file.execute("ROLLBACK")

    @contextmanager
    def read_only(self) -> Iterator[None]:
        """Let no layer write, by a PRAGMA of SQLite, because root may write every file."""
        self._tell("PRAGMA query_only = ON")
        try:
            yield
        finally:
            self._tell("PRAGMA query_only = OFF")

    @contextmanager
    def full(self) -> Iterator[None]:
        """Let the file not grow by a single page."""
        pages = self._file.execute("PRAGMA page_count").fetchone()[0]
        self._tell(f"PRAGMA max_page_count = {pages}")
        try:
            yield
        finally:
            self._tell("PRAGMA max_page_count = 1073741823")

    def _tell(self, pragma: str) -> None:
        for layer in self._layers:
            connection = connection_of(layer)
            if connection is not None:
                connection.execute(pragma)

    def close(self) -> None:
        self._file.close()
        for layer in self._layers:
            layer.close()


class RedisGround:
    """Servers that several stores share, each behind a proxy, and the connection to them."""

    def __init__(self, kind: str, servers: list[RedisServer], proxies: list[Proxy]) -> None:
        self.kind = kind
        self.servers = servers
        self.proxies = proxies
        self.connection = RedisConnection(url=(proxies or servers)[0].url)
        self.client: Any = servers[0].client()


class RedisStore(Store):
    """The records under one prefix on a ground."""

    def __init__(self, ground: RedisGround, tag: str = "") -> None:
        self.kind = ground.kind
        self.ground = ground
        self.client = ground.client
        self.prefix = f"{tag}{uuid4().hex}:"

    def layer(self, *, is_async: bool, timeout_seconds: float = PATIENCE) -> Any:
        kind = AsyncRedisPersistenceLayer if is_async else RedisPersistenceLayer
        return kind.connect(self.ground.connection, key_prefix=self.prefix, timeout_seconds=timeout_seconds)

    def address(self) -> dict[str, Any]:
        """Return how another process can connect to the store."""
        connection = self.ground.connection
        names = ("url", "host", "port", "mode", "sentinels", "service_name")
        return {"prefix": self.prefix, "connection": {name: getattr(connection, name) for name in names}}

    def _names(self) -> list[bytes]:
        return list(self.client.scan_iter(match=f"{self.prefix}*", count=1000))

    def records(self) -> dict[str, bytes]:
        found = ((name.decode().removeprefix(self.prefix), self.client.get(name)) for name in self._names())
        return {key: data for key, data in found if data is not None}

    def peek(self, storage_key: str) -> tuple[bytes | None, int | None]:
        name = self.prefix + storage_key
        if self.kind == "cluster":
            data, left = self.client.get(name), self.client.pttl(name)
        else:
            data, left = self.client.pipeline(transaction=False).get(name).pttl(name).execute()
        return data, None if left < 0 else left

    def plant(self, storage_key: str, data: bytes) -> None:
        self.client.set(self.prefix + storage_key, data, px=3_600_000)

    def lose(self) -> None:
        for name in self._names():
            self.client.delete(name)

    def pass_time(self, seconds: float) -> None:
        for storage_key in self.records():
            self.age(storage_key, round(seconds * 1000))

    def age(self, storage_key: str, ms: int) -> None:
        """Move the record and its expiry into the past."""
        data, left = self.peek(storage_key)
        if data is None or left is None:
            return
        name = self.prefix + storage_key
        if left <= ms:
            self.client.delete(name)
            return
        frame = Frame.decode(data)
        aged = replace(frame, lease_until_ms=max(frame.lease_until_ms - ms, 0))
        self.client.set(name, aged.encode(), px=left - ms)

    # Faults.

    def when(self, match: bytes, action: Any, **options: Any) -> None:
        """As `Proxy.when`, on every server: in a cluster each node has a plan of its own."""
        for proxy in self.ground.proxies:
            proxy.when(match, action, **options)

    def times_met(self) -> int:
        """Return how many messages have met a plan, on this ground so far."""
        return sum(len(proxy.taken) for proxy in self.ground.proxies)

    def pass_all(self) -> None:
        for proxy in self.ground.proxies:
            proxy.pass_all()

    def cut_all(self) -> None:
        for proxy in self.ground.proxies:
            proxy.cut_all()

    def forget_scripts(self) -> None:
        for server in self.ground.servers:
            with server.client() as client:
                client.script_flush()

    def load_script(self, text: str) -> None:
        """Load the script on every server, so that none answers NOSCRIPT."""
        for server in self.ground.servers:
            with server.client() as client:
                client.script_load(text)

    def fill(self) -> None:
        self._configure("1")

    def empty(self) -> None:
        self._configure("0")

    def _configure(self, maxmemory: str) -> None:
        for server in self.ground.servers:
            with server.client() as client:
                client.config_set("maxmemory-policy", "noeviction")
                client.config_set("maxmemory", maxmemory)

    def close(self) -> None:
        self.pass_all()


class Grounds:
    """The servers under the stores, each kind started when it is first needed, and a folder."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._standing: dict[str, RedisGround] = {}

    def open(self, kind: str) -> Any:
        """Return a new store of the kind."""
        if kind == "memory":
            return MemoryStore()
        if kind == "sqlite":
            return SQLiteStore(self.folder)
        return RedisStore(self.ground(kind))

    @property
    def folder(self) -> Path:
        if not hasattr(self, "_folder"):
            self._folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="idempotency-")))
        return self._folder

    def ground(self, kind: str) -> RedisGround:
        if kind not in self._standing:
            start = {"cluster": self._cluster, "sentinel": self._sentinel}.get(kind, self._single)
            self._standing[kind] = start(kind)
        return self._standing[kind]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for ground in self._standing.values():
            with contextlib.suppress(redis.RedisError):
                ground.client.close()
        self._stack.close()

    def _single(self, kind: str, binary: Path | None = None) -> RedisGround:
        server = self._stack.enter_context(RedisServer(binary or binaries()[kind]))
        return RedisGround(kind, [server], [self._stack.enter_context(Proxy(server.port))])

    def _sentinel(self, kind: str) -> RedisGround:
        binary = next(iter(binaries().values()))
        ground = self._single(kind, binary)
        # It knows the master by the proxy's address, and gives clients that address.
        sentinel = self._stack.enter_context(RedisSentinel(binary, ground.proxies[0]))
        ground.connection = RedisConnection(
            mode="sentinel", sentinels=[("127.0.0.1", sentinel.port)], service_name=SERVICE
        )
        return ground

    def _cluster(self, kind: str) -> RedisGround:
        proxies: list[Proxy] = []

        def announced(port: int) -> tuple[str, ...]:
            """Let clients connect to a proxy, also after a MOVED, and the nodes to each other's own bus ports."""
            proxies.append(self._stack.enter_context(Proxy(port)))
            bus = str(port + 10_000)
            return ("--cluster-announce-port", str(proxies[-1].port), "--cluster-announce-bus-port", bus)

        binary = next(iter(binaries().values()))
        cluster = self._stack.enter_context(RedisCluster(binary, master_options=announced))
        ground = RedisGround(kind, cluster.masters, proxies)
        ground.connection = RedisConnection(host="127.0.0.1", port=proxies[0].port, mode="cluster")
        ground.client = redis.RedisCluster("127.0.0.1", proxies[0].port, socket_timeout=PATIENCE)
        return ground
