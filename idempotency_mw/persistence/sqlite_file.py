"""The file under `SQLitePersistenceLayer`: which paths may name it, its rights, and which file it is.

Nothing here keeps the file open. In a process that has the file open in SQLite, closing another descriptor of it
gives back all of SQLite's locks (https://www.sqlite.org/howtocorrupt.html, section 2.2).
"""

import os
import stat
from contextlib import suppress
from pathlib import Path

from idempotency_mw import report
from idempotency_mw.errors import IdempotencyConfigurationError, IdempotencyPersistenceLayerError

__all__ = ["Identity", "checked_path", "identity", "prepared"]

Identity = tuple[int, int]
"""Device and inode. While a process has a file open, no other file gets its inode."""

_OWNER_ALONE = 0o600
_OTHERS = 0o077
_HAS_RIGHTS = os.name == "posix"
"""Windows has no such rights: it shows every file as readable by all."""


def checked_path(given: str | os.PathLike[str]) -> Path:
    """Return the absolute path. Raises `IdempotencyConfigurationError` if it can't name the store's file."""
    name = os.fspath(given)
    if not name or ":memory:" in name:
        raise IdempotencyConfigurationError("path must name a file; in memory, use MemoryPersistenceLayer")
    if name.lower().startswith("file:"):
        raise IdempotencyConfigurationError("path must be a plain path, not a file: URI")
    path = Path(name).absolute()
    if path.is_symlink():
        raise IdempotencyConfigurationError("path must name the file itself, not a symbolic link")
    return path


def identity(path: Path) -> Identity | None:
    """Return which file is at the path; None if there is none, or it can't be seen."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def prepared(path: Path) -> Identity:
    """Return which file is at the path. If there is none, make an empty one: 0600, whatever the umask.

    SQLite gives `-wal` and `-shm` the rights of the file. The rights of a file that is there already stay as they
    are; if others than its owner have any, that is reported. Raises `IdempotencyPersistenceLayerError` if the path
    is a symbolic link, also one that leads nowhere, or no file, or if the file can't be made.
    """
    try:
        if not os.path.lexists(path):
            with suppress(FileExistsError):  # another process was first
                _make(path)
        found = os.lstat(path)
    except OSError as error:
        raise IdempotencyPersistenceLayerError(f"the SQLite file can't be made: {error.strerror}") from error
    if not stat.S_ISREG(found.st_mode):
        raise IdempotencyPersistenceLayerError(f"{path.name!r} is a symbolic link, or no file")
    if _HAS_RIGHTS and found.st_mode & _OTHERS:
        report.file_open_to_others(path.name, stat.S_IMODE(found.st_mode))
    return found.st_dev, found.st_ino


def _make(path: Path) -> None:
    try:
        os.mknod(path, stat.S_IFREG | _OWNER_ALONE)
    except (AttributeError, PermissionError):
        # Windows has no mknod, and macOS keeps it for root.
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, _OWNER_ALONE))
    path.chmod(_OWNER_ALONE)  # a umask may have taken rights of the owner, too
