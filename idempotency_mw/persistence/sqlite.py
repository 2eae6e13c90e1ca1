"""Records in a SQLite file: the embedded store, for many processes on one machine.

Not for a network file system: SQLite's locks are not reliable there (https://www.sqlite.org/faq.html#q5).
"""

import os
import sqlite3
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from threading import Lock
from types import TracebackType
from typing import Literal, Self, get_args

from idempotency_mw.core.config import check_choice, check_seconds
from idempotency_mw.core.record import Acquired, Claim, Existing, Lost, Settled
from idempotency_mw.errors import (
    IdempotencyPersistenceConnectionError,
    IdempotencyPersistenceLayerError,
    IdempotencyRecordError,
)
from idempotency_mw.persistence import verbs
from idempotency_mw.persistence.frame import Frame
from idempotency_mw.persistence.sqlite_file import Identity, checked_path, identity, prepared
from idempotency_mw.persistence.verbs import StoredFrame

__all__ = ["SQLitePersistenceLayer"]

Durability = Literal["full", "normal"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS idempotency_records (
    storage_key TEXT PRIMARY KEY,
    record BLOB NOT NULL,
    expires_ms INTEGER NOT NULL
)
"""
_INDEX = "CREATE INDEX IF NOT EXISTS idempotency_records_expiry ON idempotency_records (expires_ms)"
_FIND = "SELECT record, expires_ms FROM idempotency_records WHERE storage_key = ? AND expires_ms > ?"
_WRITE = "INSERT OR REPLACE INTO idempotency_records (storage_key, record, expires_ms) VALUES (?, ?, ?)"
_DELETE = "DELETE FROM idempotency_records WHERE storage_key = ?"
_PURGE = """
DELETE FROM idempotency_records WHERE storage_key IN (
    SELECT storage_key FROM idempotency_records WHERE expires_ms <= ? ORDER BY expires_ms LIMIT 8
)
"""


class SQLitePersistenceLayer:
    """Blocking verbs over one file, which is made when first used.

    `durability="full"` flushes each write to the disk, so that a completion survives a power failure.
    `"normal"` is faster, and survives the death of every process, but not always that of the machine.
    `timeout_seconds` bounds one verb, including the wait for other processes. `clock` returns seconds since the
    epoch: the machine's clock decides.

    Each process has one connection, used by one thread at a time; a forked child opens its own. Each acquire
    that writes also deletes up to eight expired records: more than it adds, so that expired records can't pile
    up, and few enough to keep the transaction short.

    The file is made for its owner alone (0600), `-wal` and `-shm` too. A process stays with the file that it
    opened first. If that file is removed or replaced, every verb raises `IdempotencyPersistenceLayerError`, until
    the file is put back, the process is started again, or the layer is closed. Raises
    `IdempotencyConfigurationError` if the path is a symbolic link or a `file:` URI.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        durability: Durability = "full",
        timeout_seconds: float = 2.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.path = checked_path(path)
        check_choice("durability", durability, get_args(Durability))
        check_seconds("timeout_seconds", timeout_seconds, least=0.001, most=3600)
        self.timeout_seconds = timeout_seconds
        self._durability = durability
        self._clock = clock
        self._process = _Process()
        self._inherited: list[_Process] = []

    def acquire(self, claim: Claim) -> Acquired | Existing:
        """As `PersistenceLayer.acquire`. One transaction."""
        with self._transaction() as connection:
            now_ms = self._now_ms()
            found, write = verbs.acquire(_find(connection, claim, now_ms), claim, now_ms)
            if write is not None:
                connection.execute(_PURGE, (now_ms,))
                _put(connection, claim, write)
            return found

    def extend(self, claim: Claim) -> bool:
        """As `PersistenceLayer.extend`. One transaction."""
        with self._transaction() as connection:
            now_ms = self._now_ms()
            write = verbs.extend(_find(connection, claim, now_ms), claim, now_ms)
            if write is not None:
                _put(connection, claim, write)
            return write is not None

    def complete(self, claim: Claim, result: bytes | None) -> Settled | Lost:
        """As `PersistenceLayer.complete`. One transaction."""
        with self._transaction() as connection:
            now_ms = self._now_ms()
            outcome, write = verbs.complete(_find(connection, claim, now_ms), claim, result, now_ms)
            if write is not None:
                _put(connection, claim, write)
            return outcome

    def release(self, claim: Claim) -> bool:
        """As `PersistenceLayer.release`. One transaction."""
        with self._transaction() as connection:
            released = verbs.release(_find(connection, claim, self._now_ms()), claim)
            if released:
                connection.execute(_DELETE, (claim.storage_key,))
            return released

    def check(self) -> None:
        """Open the file and write-lock it once.

        Raises `IdempotencyPersistenceLayerError` if that fails, or takes longer than `timeout_seconds`.
        """
        with self._transaction():
            return

    def close(self) -> None:
        """Close this process's connection. When the layer is next used, it opens the file that is there then."""
        if self._process.is_ours():
            with self._process.lock:
                self._process.close()
                self._process.file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.path.name!r}>"

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)

    def _here(self) -> "_Process":
        """Return the connection and the lock of this process.

        A forked child must neither use nor close the connection that it inherited, and the garbage collector
        must not close it either, because SQLite's file locks belong to the process. So the child keeps a
        reference to it.
        """
        if not self._process.is_ours():
            self._inherited.append(self._process)
            self._process = _Process(self._process.file)
        return self._process

    @contextmanager
    def _transaction(self) -> Generator[sqlite3.Connection]:
        """Hold the file's write lock. Commit at the end; on any exception undo everything.

            time 0    A opens the file
            time 1    the file is removed; B opens a new one under the same path
            time 2    A commits to the file that nobody will ever read again

        So which file is at the path is looked up after the commit: A's verb fails, and nothing was acknowledged.
        """
        ends = time.monotonic() + self.timeout_seconds
        process = self._here()
        if not process.lock.acquire(timeout=self.timeout_seconds):
            raise _busy(self.timeout_seconds)
        try:
            connection = process.connection or self._open(process, ends)
            connection.execute(f"PRAGMA busy_timeout = {_left_ms(ends)}")
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("COMMIT")
        except BaseException as error:
            # An interrupt may arrive anywhere. Closing rolls back, in whatever state the connection is.
            process.close()
            if isinstance(error, sqlite3.Error):
                raise _translated(error, self.timeout_seconds) from error
            raise
        else:
            self._check_file(process.file)
        finally:
            process.lock.release()

    def _check_file(self, opened: Identity | None) -> None:
        """Raise if another file is at the path than the one that this process opened first, or none.

        The connection stays open: as long as it is, no new file gets the same inode.
        """
        if identity(self.path) != opened:
            raise IdempotencyPersistenceLayerError(
                f"the SQLite file {self.path.name!r} was removed or replaced: put it back; a restart takes "
                "what is there now, and a key whose record is not in it runs again"
            )

    def _open(self, process: "_Process", ends: float) -> sqlite3.Connection:
        file = process.file or prepared(self.path)
        self._check_file(file)
        process.connection = connection = sqlite3.connect(
            self.path, timeout=_left_ms(ends) / 1000, isolation_level=None, check_same_thread=False
        )
        # A record is a BLOB. Text in its place is not decoded: the error of a failed decoding would quote it.
        connection.text_factory = bytearray
        _until(ends, lambda: connection.execute("PRAGMA journal_mode = WAL"))
        connection.execute(f"PRAGMA synchronous = {self._durability}")
        connection.execute(_SCHEMA)
        connection.execute(_INDEX)
        process.file = file
        return connection


class _Process:
    """One process's connection, and the lock that lets one thread use it at a time."""

    def __init__(self, file: Identity | None = None) -> None:
        self.file = file
        """Which file it opened first; a forked child stays with its parent's."""
        self.pid = os.getpid()
        self.lock = Lock()
        self.connection: sqlite3.Connection | None = None

    def is_ours(self) -> bool:
        return self.pid == os.getpid()

    def close(self) -> None:
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.close()


def _find(connection: sqlite3.Connection, claim: Claim, now_ms: int) -> StoredFrame | None:
    row = connection.execute(_FIND, (claim.storage_key, now_ms)).fetchone()
    if row is None:
        return None
    record, expires_ms = row
    if not isinstance(record, bytes) or not isinstance(expires_ms, int):
        raise IdempotencyRecordError("the store holds something that is not a record of this version")
    return StoredFrame(Frame.decode(record), expires_ms)


def _put(connection: sqlite3.Connection, claim: Claim, write: StoredFrame) -> None:
    connection.execute(_WRITE, (claim.storage_key, write.frame.encode(), write.expires_ms))


def _left_ms(ends: float) -> int:
    return max(int((ends - time.monotonic()) * 1000), 1)


def _until(ends: float, action: Callable[[], object]) -> None:
    """Repeat an action that SQLite refuses at once instead of waiting.

    Switching to WAL is one while other processes open the file too.
    """
    while True:
        try:
            action()
        except sqlite3.OperationalError as error:
            if not _is_busy(error) or time.monotonic() >= ends:
                raise
            time.sleep(0.01)
        else:
            return


def _is_busy(error: sqlite3.Error) -> bool:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _busy(timeout_seconds: float) -> IdempotencyPersistenceConnectionError:
    return IdempotencyPersistenceConnectionError(f"SQLite stayed locked for {timeout_seconds:g} s")


def _translated(error: sqlite3.Error, timeout_seconds: float) -> IdempotencyPersistenceLayerError:
    if _is_busy(error):
        return _busy(timeout_seconds)
    return IdempotencyPersistenceLayerError(f"SQLite failed: {error}")
