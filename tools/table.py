"""The table of the stories in this folder, and the answers that it shows."""

import sys
import time
from collections import Counter
from dataclasses import dataclass

import httpx

__all__ = ["Answer", "Table", "against", "tally"]


class Table:
    """A table that is printed row by row. On a terminal it is coloured, and progress lines are erased."""

    WIDTHS = (2, 41, 44, 4)

    def __init__(self) -> None:
        self._is_terminal = sys.stdout.isatty()
        self.rows = 0
        self.differing: list[str] = []

    def head(self) -> None:
        self._erase()
        print(self._line("", "sent", "came back", "runs", "promised"))
        print(self._line(*("-" * width for width in (*self.WIDTHS, 8))))

    def row(self, sent: str, came_back: str, runs: int, *, promised: str, kept: bool) -> None:
        self.rows += 1
        verdict = self._coloured("yes", 32) if kept else self._coloured("NO", 31)
        self._erase()
        print(self._line(str(self.rows), sent, came_back, str(runs), verdict), flush=True)
        if not kept:
            self.differing.append(f"{self.rows}: {sent}: {promised} was promised")

    def waiting(self, for_what: str) -> None:
        self._erase()
        end = "" if self._is_terminal else "\n"
        print(f"    ... {for_what}", end=end, flush=True)

    def end(self, began: float) -> int:
        """Print how many rows are as promised, and which are not; return the exit status."""
        kept = self.rows - len(self.differing)
        print(f"\n{kept} of {self.rows} as promised, in {time.monotonic() - began:.0f} s.")
        for difference in self.differing:
            print(f"Not as promised: {difference}")
        return 1 if self.differing else 0

    def _erase(self) -> None:
        if self._is_terminal:
            print("\r\x1b[K", end="")

    def _coloured(self, text: str, colour: int) -> str:
        return f"\x1b[{colour}m{text}\x1b[0m" if self._is_terminal else text

    def _line(self, *cells: str) -> str:
        padded = [cell.ljust(width) for cell, width in zip(cells, self.WIDTHS, strict=False)]
        return "  ".join((*padded, cells[-1]))


@dataclass(frozen=True)
class Answer:
    """The parts of a response that a client needs."""

    status: int
    body: bytes
    is_replay: bool = False
    problem: str = ""
    retry_after: str = ""

    @classmethod
    def read(cls, response: httpx.Response) -> "Answer":
        is_problem = response.headers.get("content-type") == "application/problem+json"
        return cls(
            status=response.status_code,
            body=response.content,
            is_replay=response.headers.get("idempotent-replayed") == "true",
            problem=response.json()["type"].rsplit(":", 1)[-1] if is_problem else "",
            retry_after=response.headers.get("retry-after", ""),
        )

    def is_first(self, status: int = 201) -> bool:
        return self.status == status and not self.is_replay

    def replays(self, first: "Answer") -> bool:
        return self.is_replay and (self.status, self.body) == (first.status, first.body)

    def __str__(self) -> str:
        if self.problem:
            return f"{self.status} {self.problem}"
        return f"{self.status} {'replay' if self.is_replay else 'first answer'}"


def against(answer: Answer, first: Answer) -> str:
    """Return the answer as text, compared with the first answer."""
    return f"{answer}, {'same' if answer.body == first.body else 'other'} {len(answer.body)} bytes"


def tally(answers: list[Answer]) -> str:
    """Return how many answers of each kind there are."""
    counted = Counter(map(str, answers))
    return ", ".join(f"{count} x {text}" for text, count in sorted(counted.items()))
