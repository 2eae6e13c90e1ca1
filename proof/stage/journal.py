"""The journal: one file in which the app itself, in all processes, writes down what happens, one line an event.

Each line is one `write` to a file opened with O_APPEND, so that no line is torn or lost when its process is killed
right after. Times come from the machine's clock, which here is also the clock of the stores.
"""

import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Execution", "Journal", "Line", "Reader"]


@dataclass(frozen=True, slots=True)
class Line:
    """One event: what happened, in which process, and when (Unix time in seconds)."""

    what: str
    pid: int
    at: float
    more: dict[str, Any]


class Journal:
    """A process's end of the journal: it only writes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def note(self, what: str, **more: Any) -> None:
        """Write down an event that happens now, in this process."""
        text = json.dumps({"what": what, "pid": os.getpid(), "at": time.time(), "more": more})
        os.write(self._file, text.encode("ascii") + b"\n")

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


@dataclass(slots=True)
class Execution:
    """One start of the app."""

    name: str
    key: str
    storage_key: str
    attempt: int
    pid: int
    begun: float
    ended: float | None = None


@dataclass(slots=True)
class Reader:
    """The run's end of the journal. `read` takes in what was written since the last call."""

    path: Path
    lines: list[Line] = field(default_factory=list)
    executions: dict[str, Execution] = field(default_factory=dict)
    """Each execution, by its name."""
    of_key: dict[str, list[Execution]] = field(default_factory=dict)
    _live: dict[str, Execution] = field(default_factory=dict)
    _offset: int = 0

    def read(self) -> None:
        """Take in whole lines that were written since the last call."""
        with self.path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        for text in whole.splitlines():
            self._take(Line(**json.loads(text)))

    def events(self, what: str) -> list[Line]:
        """Return all events of this kind."""
        return [line for line in self.lines if line.what == what]

    def live(self) -> list[Execution]:
        """Return all executions that have begun and not ended, including those of dead processes."""
        return list(self._live.values())

    def _take(self, line: Line) -> None:
        self.lines.append(line)
        if line.what == "begun":
            execution = Execution(**line.more, pid=line.pid, begun=line.at)
            self.executions[execution.name] = self._live[execution.name] = execution
            self.of_key.setdefault(execution.key, []).append(execution)
        elif line.what == "ended":
            self._live.pop(line.more["name"]).ended = line.at
