"""The conformance suite over the layers that need no server."""

import sqlite3
from contextlib import closing

import pytest

from idempotency_mw.persistence.frame import Frame
from idempotency_mw.persistence.memory import MemoryPersistenceLayer
from idempotency_mw.persistence.sqlite import SQLitePersistenceLayer
from idempotency_mw.persistence.threaded import InPlacePersistenceLayer, ThreadedPersistenceLayer
from idempotency_mw.persistence.verbs import StoredFrame
from idempotency_mw.testing import (
    AsyncFailingPersistenceLayer,
    FailingPersistenceLayer,
    ManualClock,
    PersistenceConformance,
)
from tests.memory import held

FAR = 10**15


class ByHand(PersistenceConformance):
    def pass_time(self, seconds):
        self.clock.advance(seconds)

    @property
    def clock(self):
        return self.__dict__.setdefault("_clock", ManualClock())


class TestMemory(ByHand):
    def make_layer(self):
        return MemoryPersistenceLayer(clock=self.clock)

    def plant(self, storage_key, data):
        held(self.layer)[storage_key] = StoredFrame(Frame.decode(data), FAR)

    def unreadable(self, in_progress):
        return []  # this layer holds values, not bytes

    def peek(self, storage_key):
        return held(self.layer)[storage_key].frame.encode()


class TestMemoryInPlace(ByHand):
    def make_layer(self):
        return InPlacePersistenceLayer(MemoryPersistenceLayer(clock=self.clock))


class TestFailingLayerThatDoesNotFail(ByHand):
    def make_layer(self):
        return FailingPersistenceLayer(MemoryPersistenceLayer(clock=self.clock))


class TestAsyncFailingLayerThatDoesNotFail(ByHand):
    def make_layer(self):
        return AsyncFailingPersistenceLayer(InPlacePersistenceLayer(MemoryPersistenceLayer(clock=self.clock)))


class TestSQLite(ByHand):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path):
        self.path = tmp_path / "records.db"

    def make_layer(self):
        return self.make_sqlite()

    def make_sqlite(self):
        return SQLitePersistenceLayer(self.path, durability="normal", clock=self.clock, timeout_seconds=10)

    def plant(self, storage_key, data):
        with closing(sqlite3.connect(self.path)) as file, file:
            file.execute("INSERT OR REPLACE INTO idempotency_records VALUES (?, ?, ?)", (storage_key, data, FAR))

    def peek(self, storage_key):
        with closing(sqlite3.connect(self.path)) as file, file:
            select = "SELECT record FROM idempotency_records WHERE storage_key = ?"
            row = file.execute(select, (storage_key,)).fetchone()
            return row and row[0]


class TestSQLiteInThreads(TestSQLite):
    def make_layer(self):
        self.blocking = self.make_sqlite()
        return ThreadedPersistenceLayer(self.blocking)

    def teardown_method(self):
        super().teardown_method()
        if "blocking" in self.__dict__:
            self.blocking.close()
