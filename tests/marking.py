"""One run of an app on a real server, which marks its progress in a folder: the common part of ASGI and WSGI apps.

Imported in the server's process alone, where the environment names the folder.
"""

import os
from pathlib import Path
from secrets import token_hex
from urllib.parse import parse_qsl

from idempotency_mw import current_execution

__all__ = ["LONGEST_WAIT", "MARKS", "MarkedRun"]

MARKS = Path(os.environ["TEST_MARKS"])
LONGEST_WAIT = 15.0
"""Seconds after which a run that waits at its gate fails."""


class MarkedRun:
    """What one run does, from the query: `run` is its name, `hold` the step before which it waits at its gate."""

    def __init__(self, query_string: str) -> None:
        query = dict(parse_qsl(query_string))
        self.run = query["run"]
        self.chunks = int(query.get("chunks", 5))
        self.nonce = token_hex(8)  # makes each run's answer different
        self.seconds = float(query.get("seconds", 0))
        self._size = int(query.get("size", 1000))
        self._hold = int(query.get("hold", -1))
        self.number = self._begin()
        self.status = int(query.get("first", 201)) if self.number == 1 else 201

    def _begin(self) -> int:
        execution = current_execution()
        attempt = 0 if execution is None else execution.attempt
        assert execution is None or execution.previous_unfinished == (attempt > 1)
        written = MARKS / f"{self.nonce}.new"
        written.write_text(f"{attempt} {os.getpid()}")
        number = 1
        while True:
            try:
                # Exclusive like O_EXCL; and the file appears with its content, not empty.
                (MARKS / f"{self.run}.begun.{number}").hardlink_to(written)
            except FileExistsError:
                number += 1
            else:
                return number

    def note(self, what: str) -> None:
        """Record that the run reached this point."""
        (MARKS / f"{self.run}.{what}").touch()

    def has_to_wait(self, step: int) -> bool:
        """Return whether this is the step to wait at and the gate is still closed."""
        return step == self._hold and not (MARKS / f"{self.run}.gate").exists()

    def chunk(self, step: int) -> bytes:
        return f"data: {step} {self.nonce} {'x' * self._size}\n\n".encode()
