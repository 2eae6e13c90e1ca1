"""Starts contestants in processes of their own, tells them what to do, and interleaves them.

A machine that others use is slow now and fast later. So each contestant runs a little in each round, in an order
that rotates, and what is compared is the ratio within one round; the median of the rounds is the result.
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
    """Return the command of a worker."""
    python = environment_of(contestant).python
    return [str(python), "-m", "benchmarks.worker", contestant, url, *what]


class FailedError(Exception):
    """A contestant could not do what it was told."""


class Worker:
    """A contestant in its process."""

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
        """Have it ask so many times, so many at once; return the seconds of CPU and of the clock."""
        order = {"kind": kind, "requests": requests, "in_flight": in_flight, **more}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.contestant} ended while it was to do {order}")
        done: dict[str, Any] = json.loads(line)
        if "failed" in done:
            raise FailedError(f"{self.contestant}: {done['failed']}")
        return done

    def end(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(20)


@contextmanager
def workers(contestants: Sequence[str], url: str) -> Iterator[dict[str, Worker]]:
    """Have these contestants ready, by name."""
    with ExitStack() as stack:
        started: dict[str, Worker] = {}
        for contestant in contestants:
            started[contestant] = worker = Worker(contestant, url)
            stack.callback(worker.end)
        yield started


Cases = dict[Any, Callable[[], float]]


def interleaved(cases: Cases, rounds: int, progress: Callable[[float], None]) -> list[dict[Any, float]]:
    """Measure each case once a round, each round beginning with another one; return the rounds."""
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
    """Return the median of what each round says; None where something failed in any of them."""
    ratios = [of(each) for each in rounds]
    return None if any(map(math.isnan, ratios)) else round(median(ratios), 4)


def shown(what: str, part: float) -> None:
    """Draw a line of progress, on a terminal over and over, else once at its end."""
    if sys.stderr.isatty():
        bar = "#" * round(part * 30)
        print(f"\r{what:<44} [{bar:<30}] {part:>4.0%}", end="\n" if part >= 1 else "", file=sys.stderr, flush=True)
    elif part >= 1:
        print(f"{what}: done", file=sys.stderr, flush=True)
