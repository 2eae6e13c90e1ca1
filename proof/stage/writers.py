"""Processes that only complete claims, as a program: `python -m proof.stage.writers PATH COUNT DURABILITY`.

Each prints a line for every completion that the store has acknowledged: process id, storage key, and a digest of
the result. A killed process is replaced at once.
"""

import os
import sys
from hashlib import sha256
from secrets import token_bytes, token_hex
from typing import Any

from idempotency_mw.core.record import Acquired, Claim, Operation, Settled
from idempotency_mw.persistence.sqlite import SQLitePersistenceLayer
from proof.stage.workers import end_with_parent

__all__ = ["main"]


def main(path: str, count: int, durability: Any) -> None:
    """Write until killed; replace each writer that dies."""
    end_with_parent()
    for _ in range(count):
        _fork(path, durability)
    while True:
        os.wait()
        _fork(path, durability)


def _fork(path: str, durability: Any) -> None:
    if os.fork() == 0:
        try:
            end_with_parent()
            _write(SQLitePersistenceLayer(path, durability=durability, timeout_seconds=10))
        finally:
            os._exit(1)


def _write(layer: SQLitePersistenceLayer) -> None:
    while True:
        claim = Claim(Operation(token_hex(32), "f" * 64), token_hex(16), 60_000, 3_600_000)
        result = token_bytes(500)
        if layer.acquire(claim) == Acquired(1) and layer.complete(claim, result) == Settled():
            line = f"{os.getpid()} {claim.storage_key} {sha256(result).hexdigest()}\n"
            os.write(1, line.encode("ascii"))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
