"""Every row of the fault matrix, on each layer under each surface; and random faults.

The rows are the tests in `tests/faults`. The random faults disturb messages between the layers and a real Redis or
Valkey; `chaos.py` says what is sent and what must hold.
"""

import asyncio
import contextlib
import io
import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from proof.figures import Figure, Progress, Size
from proof.matrix.chaos import DEADLINE, OVER, Chaos, Seen
from tests.faults.rows import FAULTS, places
from tests.faults.stores import Grounds, is_there

__all__ = ["figures_of", "run", "try_faults"]

FAULTS_WANTED = {Size.CI: 1_000, Size.LONG: 50_000}
SEED = 20
ROOT = Path(__file__).parents[2]


def run(size: Size, progress: Progress) -> Iterator[Figure]:
    """Make the random faults, then run the rows; yield the figures."""
    logging.getLogger("idempotency_mw").addHandler(logging.NullHandler())  # a thousand reports are expected here
    wanted = FAULTS_WANTED[size]
    kinds = [kind for kind in ("redis", "valkey") if is_there(kind)]
    if not kinds:
        yield Figure("I1 I7", "random faults", f"{wanted:,} faults", "no server was found", holds=False)
    seed = SEED if size is Size.CI else int.from_bytes(os.urandom(4))
    for number, kind in enumerate(kinds):
        begun = number * wanted // len(kinds)
        with Grounds() as grounds:
            seen = asyncio.run(
                try_faults(
                    grounds, kind, wanted // len(kinds), seed, lambda done, b=begun: progress(b + done, wanted)
                )
            )
        yield from figures_of(kind, wanted // len(kinds), seed, seen)
    yield _rows(progress)


async def try_faults(grounds: Grounds, kind: str, faults: int, seed: int, progress: Any, **options: Any) -> Seen:
    """Make that many random faults on a server of the kind."""
    with tempfile.TemporaryDirectory(prefix="idempotency-") as folder:
        return await Chaos(grounds.open(kind), Path(folder), seed, **options).run(faults, progress)


def figures_of(kind: str, wanted: int, seed: int, seen: Seen) -> Iterator[Figure]:
    """Yield the figures of the random faults on one server."""
    yield Figure(
        shows="I1 I7",
        what=f"random faults in messages to {kind}, seed {seed}",
        wanted=f"{wanted:,} faults, 0 second runs",
        seen=f"{seen.faults:,} faults, {len(seen.two_live)} second runs",
        holds=seen.faults >= wanted and not seen.two_live,
    )
    yield Figure(
        shows="I7",
        what=f"  refused requests that ran, of {seen.refused:,} refused",
        wanted="0",
        seen=f"{len(seen.ran_refused)} of {seen.requests:,} requests",
        holds=not seen.ran_refused and seen.refused > 0,
    )
    yield Figure(
        shows="I2",
        what="  replays other than the acknowledged answer",
        wanted="0",
        seen=f"{len(seen.not_identical)} of {seen.replays:,}",
        holds=not seen.not_identical and seen.replays > 0,
    )
    yield _deadline_figure(seen)
    yield _recovery_figure(seen)


def _deadline_figure(seen: Seen) -> Figure:
    return Figure(
        shows="I11",
        what=f"  slowest verb past its deadline of {DEADLINE:g} s",
        wanted=f"{OVER * 1000:.0f} ms, less the machine's lag",
        seen=f"{seen.slowest * 1000:.0f} ms of {seen.verbs:,}; lag {seen.lag * 1000:.0f} ms",
        holds=seen.slowest <= OVER,
    )


def _recovery_figure(seen: Seen) -> Figure:
    return Figure(
        shows="I4",
        what="  keys without expiry; keys that got no answer",
        wanted="0; 0",
        seen=f"{seen.without_expiry} of {seen.records:,}; {seen.unanswered}",
        holds=seen.without_expiry == 0 and seen.unanswered == 0 and seen.records > 0,
    )


class _Rows:
    """A pytest plugin that notes which rows were shown, and on which surface and layer."""

    def __init__(self, progress: Progress) -> None:
        self.shown: set[tuple[int, tuple[str, str]]] = set()
        self.passed = 0
        self.skipped = 0
        self.failed: list[str] = []
        self._progress = progress
        self._of = 0
        self._stdout = sys.stdout

    def pytest_collection_finish(self, session: Any) -> None:
        self._of = len(session.items)

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            self.failed.append(report.nodeid)
        elif report.when == "call" and report.passed:
            self.passed += 1
            with contextlib.redirect_stdout(self._stdout):  # pytest's own output is redirected
                self._progress(self.passed, self._of)
        self.skipped += report.skipped
        if (report.when == "call" and report.passed) or report.skipped:
            self.shown |= {(row, place) for row, place in report.faults if place is not None}


def _rows(progress: Progress) -> Figure:
    """Run the tests of the matrix, and find the rows that were not shown everywhere."""
    rows = _Rows(progress)
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        pytest.main(["--quiet", "--no-header", "-p", "no:cacheprovider", str(ROOT / "tests" / "faults")], [rows])
    if rows.failed:
        print(said.getvalue()[-20_000:], file=sys.stderr)
    missing = {row for row in FAULTS for place in places(row) if (row, place) not in rows.shown}
    shown = f"{len(FAULTS) - len(missing)} rows by {rows.passed} cases"
    return Figure(
        shows="1 to 26",
        what="the fault matrix, on each layer under each surface",
        wanted=f"{len(FAULTS)} rows, 0 failed",
        seen=f"{shown}, {len(rows.failed)} failed" + (f", {rows.skipped} skipped" if rows.skipped else ""),
        holds=not missing and not rows.failed and rows.passed > 0,
    )
