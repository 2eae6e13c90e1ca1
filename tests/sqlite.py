"""The one place where tests look behind the SQLite layer's interface, at its connection and table."""

import sqlite3
from contextlib import closing
from pathlib import Path

from idempotency_mw.persistence.sqlite import SQLitePersistenceLayer

__all__ = ["connection_of", "disconnect", "rows"]


def connection_of(layer: SQLitePersistenceLayer) -> sqlite3.Connection | None:
    """Return the layer's connection, for PRAGMAs that hold for one connection only. `None`: it is not open."""
    return layer._process.connection


def disconnect(layer: SQLitePersistenceLayer) -> None:
    """Close the layer's connection as a failed verb does: the layer stays with its file."""
    layer._process.close()


def rows(path: Path) -> int:
    """Return how many records the file holds."""
    with closing(sqlite3.connect(path)) as file:
        return file.execute("SELECT count(*) FROM idempotency_records").fetchone()[0]
