"""Counts the instructions of a request under callgrind. Unlike times, they do not depend on the machine's load.

A worker under valgrind imports its library, and forks a child for each kind of request and each of two lengths.
The difference of the two lengths leaves out the start-up and the first connection.
"""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.driving import command
from benchmarks.environments import ROOT, variables
from benchmarks.worker import LENGTHS

__all__ = ["FLOORS", "counted_forks", "in_fork", "instructions", "valgrind"]

KINDS = {
    "ours": ("bare", "unkeyed", "first", "replay"),
    "ours-wsgi": ("bare", "unkeyed", "first", "replay"),
    "ours-function": ("bare", "first", "replay"),
    "calls": ("first", "replay"),
    "calls-blocking": ("first", "replay"),
}
OF_A_PEER = ("bare", "first", "replay")

FLOORS = {"ours": "calls", "ours-wsgi": "calls-blocking", "ours-function": "calls-blocking"}
"""The floor: bare Redis calls, two for a first request and one for a replay."""


def valgrind() -> str | None:
    """Return the path of valgrind, if it is installed."""
    return shutil.which("valgrind")


def instructions(
    contestants: Sequence[str], url: str, progress: Callable[[float], None]
) -> dict[str, dict[str, float]]:
    """Return the instructions of a request of each kind, by contestant; two contestants are counted at a time."""
    done: dict[str, dict[str, float]] = {}
    with ThreadPoolExecutor(2) as threads:
        for contestant, counted in zip(
            contestants, threads.map(lambda each: _count(each, url), contestants), strict=True
        ):
            done[contestant] = counted
            progress(len(done) / len(contestants))
    return done


def _count(contestant: str, url: str) -> dict[str, float]:
    kinds = KINDS.get(contestant, OF_A_PEER)
    lines = counted_forks(command(contestant, url, "count", *kinds), variables())
    counted = {(kind, int(length)): found for (kind, length), found in lines}
    short, long = LENGTHS
    return {kind: (counted[kind, long] - counted[kind, short]) / (long - short) for kind in kinds}


def counted_forks(command: Sequence[str], environment: Mapping[str, str]) -> list[tuple[list[str], int]]:
    """Run a program under callgrind; return the words of each line that it prints, and that fork's instructions.

    The program runs each case in a fork of itself, and prints a line for it: words, the fork's process id, and the
    status from `waitpid`.
    """
    with tempfile.TemporaryDirectory(prefix="callgrind-") as folder:
        options = ["--tool=callgrind", "--callgrind-out-file=/dev/null", f"--log-file={folder}/%p"]
        run = subprocess.run(
            [os.fspath(valgrind() or ""), *options, *command],
            stdout=subprocess.PIPE,
            env=environment,
            cwd=ROOT,
            text=True,
            check=True,
        )
        return [_counted(line.split(), Path(folder)) for line in run.stdout.splitlines()]


def _counted(line: list[str], folder: Path) -> tuple[list[str], int]:
    *words, child, status = line
    log = (folder / child).read_text()
    found = re.search(r"Collected : (\d+)", log)
    if status != "0" or found is None:
        raise SystemExit(f"Counting failed for {' '.join(words) or 'a case'}:\n{log}")
    return words, int(found[1])


def in_fork(body: Callable[[], object]) -> None:
    """Run `body` in a fork of this process, and print what `counted_forks` reads."""
    child = os.fork()
    if child == 0:
        body()
        os._exit(0)
    print(child, os.waitpid(child, 0)[1], flush=True)
