"""The one place where tests look behind the SQLite layer's interface, at its own connection to the file."""

import sqlite3

from idempotency_mw.persistence.sqlite import SQLitePersistenceLayer

__all__ = ["connection_of"]


def connection_of(layer: SQLitePersistenceLayer) -> sqlite3.Connection | None:
    """Return the layer's connection, for PRAGMAs that hold for one connection only. `None`: it is not open."""
    return layer._process.connection
