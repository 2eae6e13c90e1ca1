"""Reads records from a store, past the layers: one record, and how many would never expire."""

import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

import redis

from idempotency_mw.persistence.frame import Frame

__all__ = ["PREFIX", "EveryLook", "Look", "RedisLook", "SQLiteLook"]

PREFIX = "idempotency:"


class Look(Protocol):
    """What a run asks a store itself."""

    def frame(self, storage_key: str) -> Frame | None:
        """Return the record of a key, or None."""
        ...

    def unexpiring(self) -> tuple[int, int]:
        """Return how many records have no expiry, and how many records there are."""
        ...


class SQLiteLook:
    """A SQLite file."""

    def __init__(self, path: Path, longest_seconds: float) -> None:
        self._path = path
        self._longest = longest_seconds

    def frame(self, storage_key: str) -> Frame | None:
        """As in `Look`."""
        rows = self._rows("SELECT record FROM idempotency_records WHERE storage_key = ?", storage_key)
        return Frame.decode(rows[0][0]) if rows else None

    def unexpiring(self) -> tuple[int, int]:
        """As in `Look`. A record that expires later than any may is counted as one without expiry."""
        last = int((time.time() + self._longest) * 1000)
        query = "SELECT coalesce(sum(expires_ms > ?), 0), count(*) FROM idempotency_records"
        bad, count = self._rows(query, last)[0]
        return bad, count

    def _rows(self, query: str, *values: Any) -> list[Any]:
        with closing(sqlite3.connect(self._path, timeout=10)) as connection:
            return connection.execute(query, values).fetchall()


class RedisLook:
    """One or more servers, each asked for its own records."""

    def __init__(self, *clients: Any) -> None:
        self._clients = clients

    def frame(self, storage_key: str) -> Frame | None:
        """As in `Look`, from the first server."""
        data = self._clients[0].get(PREFIX + storage_key)
        return None if data is None else Frame.decode(data)

    def unexpiring(self) -> tuple[int, int]:
        """As in `Look`."""
        bad = count = 0
        for client in self._clients:
            keys = list(client.scan_iter(PREFIX + "*", count=1000))
            pipe = client.pipeline(transaction=False)
            for key in keys:
                pipe.pttl(key)
            left = pipe.execute()
            bad += left.count(-1)
            count += len(keys)
        return bad, count


class EveryLook:
    """Finds a record on whichever server holds it."""

    def __init__(self, *clients: Any) -> None:
        self._clients = clients

    def frame(self, storage_key: str) -> Any:
        """As in `Look`."""
        for client in self._clients:
            try:
                return RedisLook(client).frame(storage_key)
            except redis.ResponseError:  # MOVED: it belongs to another server
                continue
        return None

    def unexpiring(self) -> tuple[int, int]:
        """As in `Look`."""
        return RedisLook(*self._clients).unexpiring()
