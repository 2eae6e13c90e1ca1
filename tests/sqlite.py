"""The one place where tests look behind the SQLite layer's interface, at its own connection to the file."""

import sqlite3
from typing import Any

from idempotency_mw.persistence.sqlite import SQLitePersistenceLayer

__all__ = ["as_in_a_fork", "connection_of"]


def connection_of(layer: SQLitePersistenceLayer) -> sqlite3.Connection | None:
    """Return the layer's connection, for PRAGMAs that hold for one connection only. `None`: it is not open."""
    connection: sqlite3.Connection | None = layer._process.connection
    return connection


def as_in_a_fork(layer: SQLitePersistenceLayer) -> Any:
    """Make the layer believe that another process opened its connection; return what it inherited."""
    inherited = layer._process
    inherited.pid = -1
    return inherited
