"""Starts contestants in processes of their own, gives them orders, and interleaves them.

The speed of a shared machine changes over time. Therefore each contestant runs for a short time in every round, in
an order that rotates. Ratios are taken within a round, and the median over the rounds is the result.
"""

import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from statistics import median
from typing import Any

from benchmarks.environments import ROOT, environment_of, variables

__all__ = ["FailedError", "Worker", "command", "interleaved", "median_ratio", "shown", "workers"]


def command(contestant: str, url: str, *what: str) -> list[str]:
    """Return the command line of a worker."""
    python = environment_of(contestant).python
    return [str(python), "-m", "benchmarks.worker", contestant, url, *what]


class FailedError(Exception):
    """A contestant could not do what it was told to do."""


class Worker:
    """A contestant in a process of its own."""

    def __init__(self, contestant: str, url: str) -> None:
        self.contestant = contestant
        self._process = subprocess.Popen(
            command(contestant, url),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=variables(),
            cwd=ROOT,
            text=True,
            bufsize=1,
        )

    def ask(self, kind: str, requests: int, in_flight: int = 1, **more: int | None) -> dict[str, float]:
        """Let it send that many requests, that many at once; return the seconds of CPU time and wall time."""
        order = {"kind": kind, "requests": requests, "in_flight": in_flight, **more}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.contestant} ended during {order}")
        done: dict[str, Any] = json.loads(line)
        if "failed" in done:
            raise FailedError(f"{self.contestant}: {done['failed']}")
        return done

    def end(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(20)


@contextmanager
def workers(contestants: Sequence[str], url: str) -> Iterator[dict[str, Worker]]:
    """Start these contestants; yield them by name."""
    with ExitStack() as stack:
        started: dict[str, Worker] = {}
        for contestant in contestants:
            started[contestant] = worker = Worker(contestant, url)
            stack.callback(worker.end)
        yield started


Cases = dict[Any, Callable[[], float]]


def interleaved(cases: Cases, rounds: int, progress: Callable[[float], None]) -> list[dict[Any, float]]:
    """Measure each case once in each round; each round begins with the next case. Return the rounds."""
    seen: list[dict[Any, float]] = []
    names = list(cases)
    for number in range(rounds):
        at = number % len(names)
        done = {}
        for step, name in enumerate(names[at:] + names[:at]):
            done[name] = _or_nan(cases[name])
            progress((number * len(names) + step + 1) / (rounds * len(names)))
        seen.append(done)
    return seen


def _or_nan(take: Callable[[], float]) -> float:
    try:
        return take()
    except FailedError:
        return math.nan


def median_ratio(rounds: Sequence[dict[Any, float]], of: Callable[[dict[Any, float]], float]) -> float | None:
    """Return the median of a ratio over the rounds; None if a case failed in any of them."""
    ratios = [of(each) for each in rounds]
    return None if any(map(math.isnan, ratios)) else round(median(ratios), 4)


def shown(what: str, part: float) -> None:
    """Show progress: on a terminal a bar that is redrawn, elsewhere one line at the end."""
    if sys.stderr.isatty():
        bar = "#" * round(part * 30)
        print(f"\r{what:<44} [{bar:<30}] {part:>4.0%}", end="\n" if part >= 1 else "", file=sys.stderr, flush=True)
    elif part >= 1:
        print(f"{what}: done", file=sys.stderr, flush=True)
