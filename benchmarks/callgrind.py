"""Instructions a request, under callgrind: what a busy machine does not change.

A worker under valgrind imports its library, and forks a child for each kind and each of two lengths; the
difference of the two is free of start-up and of the first connection.
"""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.driving import command
from benchmarks.environments import ROOT, variables
from benchmarks.worker import LENGTHS

__all__ = ["FLOORS", "instructions", "valgrind"]

KINDS = {
    "ours": ("bare", "unkeyed", "first", "replay"),
    "ours-wsgi": ("bare", "unkeyed", "first", "replay"),
    "ours-function": ("bare", "first", "replay"),
    "calls": ("first", "replay"),
    "calls-blocking": ("first", "replay"),
}
OF_A_PEER = ("bare", "first", "replay")

FLOORS = {"ours": "calls", "ours-wsgi": "calls-blocking", "ours-function": "calls-blocking"}
"""What Redis alone costs whoever asks it twice for a first request, and once for a replay."""


def valgrind() -> str | None:
    """Return the program, where it is there."""
    return shutil.which("valgrind")


def instructions(
    contestants: Sequence[str], url: str, progress: Callable[[float], None]
) -> dict[str, dict[str, float]]:
    """Return the instructions of a request of each kind, by contestant; two are counted at a time."""
    done: dict[str, dict[str, float]] = {}
    with ThreadPoolExecutor(2) as threads:
        for contestant, counted in zip(
            contestants, threads.map(lambda each: _count(each, url), contestants), strict=True
        ):
            done[contestant] = counted
            progress(len(done) / len(contestants))
    return done


def _count(contestant: str, url: str) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="callgrind-") as folder:
        kinds = KINDS.get(contestant, OF_A_PEER)
        options = ["--tool=callgrind", "--callgrind-out-file=/dev/null", f"--log-file={folder}/%p"]
        run = subprocess.run(
            [os.fspath(valgrind() or ""), *options, *command(contestant, url, "count", *kinds)],
            stdout=subprocess.PIPE,
            env=variables(),
            cwd=ROOT,
            text=True,
            check=True,
        )
        counted = dict(_counted(run.stdout, Path(folder)))
    short, long = LENGTHS
    return {kind: (counted[kind, long] - counted[kind, short]) / (long - short) for kind in kinds}


def _counted(lines: str, folder: Path) -> Iterator[tuple[tuple[str, int], int]]:
    for line in lines.splitlines():
        kind, length, child, status = line.split()
        log = (folder / child).read_text()
        found = re.search(r"Collected : (\d+)", log)
        if status != "0" or found is None:
            raise SystemExit(f"Counting failed for {kind}:\n{log}")
        yield (kind, int(length)), int(found[1])
