"""Fuzzes everything that comes from a client, from a store or from an app.

Every input must have a declared outcome, and take at most 50 ms of CPU time.

readers    functions that parse bytes get inputs drawn from a seed; in the long run also inputs guided by coverage
           (atheris)
surfaces   apps send any events in any order: programs drawn from a seed
scripts    the Lua scripts get a sample of the records, on real servers
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from proof.figures import Figure, Progress, Size
from proof.fuzz import asgi, guided, wsgi
from proof.fuzz.inputs import inputs
from proof.fuzz.readers import READERS
from proof.fuzz.scripts import disagreements

__all__ = ["LONGEST_SECONDS", "Tried", "run", "try_all", "try_asgi", "try_reader", "try_wsgi"]

LONGEST_SECONDS = 0.05
"""CPU time for one input. The slowest of thousands take 2 ms; an algorithm that is quadratic would exceed this."""
SEED = 1

SHOWS = {"header": "I7", "body": "I7", "request": "I6", "record": "I10", "response": "I10", "result": "I10"}


@dataclass(frozen=True, slots=True)
class _Amounts:
    main: int
    """Inputs for each of header, record and body."""
    other: int
    programs: int
    on_servers: int
    guided_seconds: int


AMOUNTS = {
    Size.CI: _Amounts(100_000, 20_000, 25_000, 1000, 0),
    Size.LONG: _Amounts(3_000_000, 1_000_000, 1_000_000, 20_000, 600),
}


@dataclass(frozen=True, slots=True)
class Tried:
    """The result of many inputs."""

    count: int
    slowest_seconds: float
    surprises: list[str]

    @property
    def holds(self) -> bool:
        """Whether there was no surprise and no slow input."""
        return not self.surprises and self.slowest_seconds <= LONGEST_SECONDS

    @property
    def seen(self) -> str:
        """The result in one line."""
        first = f": {self.surprises[0][:300]}" if self.surprises else ""
        slowest = self.slowest_seconds * 1000
        return f"{self.count:,}, {len(self.surprises)} surprises, {slowest:.1f} ms{first}"


def run(size: Size, progress: Progress) -> Iterator[Figure]:
    """Give all readers and both surfaces their inputs; yield the figures."""
    logging.getLogger("idempotency_mw").setLevel(logging.CRITICAL)  # stores fail on purpose here
    amounts = AMOUNTS[size]
    counts = {name: amounts.main if name in ("header", "record", "body") else amounts.other for name in READERS}
    total = sum(counts.values()) + 2 * amounts.programs
    done = 0

    def told(number: int) -> None:
        if number % 1000 == 0:
            progress(done + number, total)

    for name, count in counts.items():
        yield _figure(SHOWS[name], f"fuzz: {name}", count, try_reader(name, count, told))
        done += count
    yield _figure("I8", "fuzz: orders of ASGI events", amounts.programs, try_asgi(0, amounts.programs, told))
    done += amounts.programs
    yield _figure("I8", "fuzz: orders of WSGI calls", amounts.programs, try_wsgi(0, amounts.programs, told))
    progress(total, total)
    yield from _on_servers(amounts.on_servers)
    if size is Size.LONG:
        yield from _guided(amounts.guided_seconds)


def try_reader(name: str, count: int, told: Callable[[int], None] = lambda _: None) -> Tried:
    """Give that many inputs to a reader."""
    return try_all(READERS[name], inputs(name, SEED, count), told)


def try_asgi(first: int, count: int, told: Callable[[int], None] = lambda _: None) -> Tried:
    """Run that many programs behind the ASGI middleware."""
    loop = asgi.LeapingLoop()
    # A program's own tasks may raise what they like.
    loop.set_exception_handler(lambda _loop, _context: None)
    try:
        drawn = (asgi.Program.drawn(seed) for seed in range(first, first + count))
        return try_all(lambda program: asgi.run_program(loop, program), drawn, told)
    finally:
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.close()


def try_wsgi(first: int, count: int, told: Callable[[int], None] = lambda _: None) -> Tried:
    """Run that many programs behind the WSGI middleware."""
    drawn = (wsgi.Program.drawn(seed) for seed in range(first, first + count))
    return try_all(wsgi.run_program, drawn, told)


def try_all(
    trial: Callable[[Any], None], things: Iterable[Any], told: Callable[[int], None] = lambda _: None
) -> Tried:
    """Try each thing, and measure CPU time, which a loaded machine does not lengthen.

    A slow one is tried three more times and judged by the fastest try: a garbage collection may have fallen into
    one.
    """
    count, slowest, surprises = 0, 0.0, []
    for count, thing in enumerate(things, start=1):
        told(count)
        try:
            took = _seconds(trial, thing)
            if took > LONGEST_SECONDS / 10:
                took = min(took, *(_seconds(trial, thing) for _ in range(3)))
            slowest = max(slowest, took)
            if took > LONGEST_SECONDS:
                surprises.append(f"{took:.3f} s for {thing!r}")
        except Exception as error:
            surprises.append(f"{type(error).__name__}: {error} for {thing!r}")
    return Tried(count, slowest, surprises)


def _seconds(trial: Callable[[Any], None], thing: Any) -> float:
    before = time.thread_time()
    trial(thing)
    return time.thread_time() - before


def _figure(shows: str, what: str, count: int, tried: Tried) -> Figure:
    return Figure(
        shows, what, f"{count:,}, 0 surprises, <= 50 ms each", tried.seen, tried.holds and tried.count == count
    )


def _on_servers(count: int) -> Iterator[Figure]:
    servers = 0
    for name, found in disagreements(SEED, count):
        servers += 1
        seen = f"{count:,}, {len(found)} disagreements" + (f": {found[0][:300]}" if found else "")
        yield Figure(
            "I10", f"fuzz: records in the Lua scripts on {name}", "the answers of verbs.py", seen, not found
        )
    if not servers:
        yield Figure(
            "I10",
            "fuzz: records in the Lua scripts",
            "the answers of verbs.py",
            "no server was found",
            holds=False,
        )


def _guided(seconds: int) -> Iterator[Figure]:
    for name in READERS:
        what = f"fuzz: {name}, guided by coverage"
        if not guided.is_there():
            yield Figure(SHOWS[name], what, f"{seconds} s", "not run: atheris is not installed", holds=False)
            continue
        tried, broken = guided.explored(name, seconds)
        seen = f"{tried:,} inputs in {seconds} s" + (f": {broken}" if broken else "")
        yield Figure(SHOWS[name], what, "0 surprises", seen, broken is None and tried > 0)
