"""Make the runs, two at a time; show their progress, and print one table of the results.

    python -m proof                    every run, in the size for CI
    python -m proof --size long        every run, in the size for a long night
    python -m proof explorer fuzz      only these runs

Each run is a process of its own and leads a process group. If it dies or hangs, that is one figure that does not
hold; the other runs go on. When a run ends, its whole group is killed. Exits 0 if every figure holds, 1 otherwise.
"""

import argparse
import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

from proof.figures import Figure, Size

# The slowest runs come first, so that both lanes end at about the same time.
RUNS = ("servers", "failovers", "processes", "herd", "histories", "matrix", "stateful", "explorer", "fuzz")
LANES = 2
"""Runs at a time: as many as the cores of a small CI machine."""
LONGEST_SECONDS = {Size.CI: 540, Size.LONG: 6 * 3600}
"""A run that takes longer is killed. In CI all runs together should end within 10 minutes."""


@dataclass
class Made:
    """One run, while it is under way and after it."""

    name: str
    state: str = "waits"
    figures: list[Figure] = field(default_factory=list)
    seconds: float = 0.0
    process: "subprocess.Popen[str] | None" = None


def main() -> int:
    """Make the named runs, or all of them; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m proof", description=__doc__, add_help=True)
    parser.add_argument("runs", nargs="*", metavar="run", help=f"one of {', '.join(RUNS)}")
    parser.add_argument("--size", choices=[size.value for size in Size], default=Size.CI.value)
    parser.add_argument("--lines", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    size = Size(arguments.size)
    unknown = set(arguments.runs) - set(RUNS)
    if unknown:
        parser.error(f"no such run: {', '.join(sorted(unknown))}")
    if arguments.lines:
        return _speak(arguments.runs[0], size)
    return _make_all(arguments.runs or RUNS, size)


# Inside the process of one run


def _speak(name: str, size: Size) -> int:
    """Make one run; print its progress and its figures as lines of JSON."""

    def progress(done: int, of: int) -> None:
        _say({"done": done, "of": of})

    for figure in importlib.import_module(f"proof.{name}").run(size, progress):
        _say(asdict(figure))
    return 0


def _say(line: dict[str, object]) -> None:
    print(json.dumps(line), flush=True)


# Around all runs


def _make_all(names: tuple[str, ...] | list[str], size: Size) -> int:
    runs = [Made(name) for name in names]
    began = time.monotonic()
    over = threading.Event()
    shown = threading.Thread(target=_show, args=(runs, over), daemon=True)
    shown.start()
    # Each run leads a process group of its own, so a signal that ends this process would not reach it.
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)
    with ThreadPoolExecutor(LANES) as lanes:
        try:
            for _ in lanes.map(lambda run: _make(run, size), runs):
                pass
        except KeyboardInterrupt:
            for run in runs:
                _end(run)
            return 130
        finally:
            over.set()
    shown.join()
    return _print_table(runs, time.monotonic() - began)


def _make(run: Made, size: Size) -> None:
    began = time.monotonic()
    run.state = "begins"
    command = [sys.executable, "-m", "proof", run.name, "--size", size.value, "--lines"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        run.process = process
        watch = threading.Timer(LONGEST_SECONDS[size], _end, [run])
        watch.start()
        for line in _lines(process):
            if "done" in line:
                run.state = f"{line['done']:,}/{line['of']:,}"
            else:
                run.figures.append(Figure(**line))
        process.wait()
        watch.cancel()
        _end(run)  # kills what the run left behind
    run.seconds = time.monotonic() - began
    run.state = "done"
    if process.returncode != 0:
        seen = f"exit status {process.returncode} after {run.seconds:.0f} s"
        run.figures.append(Figure("", f"{run.name}: the run finishes", "exit status 0", seen, holds=False))


def _end(run: Made) -> None:
    """Kill the run and every server and worker that it started."""
    process, run.process = run.process, None
    if process is not None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _lines(process: "subprocess.Popen[str]") -> Iterator[dict[str, Any]]:
    assert process.stdout is not None
    for text in process.stdout:
        try:
            yield json.loads(text)
        except ValueError:
            print(text, end="", file=sys.stderr)


def _show(runs: list[Made], over: threading.Event) -> None:
    """Show the progress: on a terminal in one line that is overwritten, elsewhere in a line every 15 seconds."""
    is_terminal = sys.stderr.isatty()
    while not over.wait(0.5 if is_terminal else 15.0):
        done = sum(run.state == "done" for run in runs)
        going = "  ".join(f"{run.name} {run.state}" for run in runs if run.state not in ("waits", "done"))
        start, end = ("\r\x1b[K", "") if is_terminal else ("", "\n")
        print(f"{start}{done}/{len(runs)} runs  {going}", end=end, file=sys.stderr, flush=True)
    if is_terminal:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _print_table(runs: list[Made], seconds: float) -> int:
    figures = [figure for run in runs for figure in run.figures]
    rows = [(each.shows, each.what, each.wanted, each.seen, "yes" if each.holds else "NO") for each in figures]
    rows.insert(0, ("shows", "what was tried", "wanted", "seen", "holds"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, tuple("-" * width for width in widths))
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    broken = sum(not figure.holds for figure in figures)
    slowest = ", ".join(
        f"{run.name} {run.seconds:.0f} s" for run in sorted(runs, key=lambda run: -run.seconds)[:3]
    )
    print(f"\n{len(figures)} figures, {broken} do not hold; {seconds:.0f} s; slowest: {slowest}")
    return 1 if broken or not figures else 0


if __name__ == "__main__":
    sys.exit(main())
