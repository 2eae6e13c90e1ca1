"""The private names of redis-py that are reached for."""

# ruff: noqa: SLF001

from contextlib import suppress
from typing import Any

__all__ = ["drop_connection"]


def drop_connection(connection: Any) -> None:
    """Close the connection's socket at once, whatever is under way on it."""
    writer, connection._writer, connection._reader = getattr(connection, "_writer", None), None, None
    if writer is not None:
        with suppress(RuntimeError):  # a loop other than asyncio's own may insist that it is closed
            writer.transport.abort()
