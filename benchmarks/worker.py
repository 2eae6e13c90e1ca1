"""Sends requests to one contestant, in a process of its own: a line of JSON in, a line of JSON out.

    {"kind": "first", "requests": 500, "in_flight": 50}  ->  {"cpu": seconds, "wall": seconds}, or {"failed": why}

An optional "threshold" sets that of Python's garbage collector for these requests (`gc.set_threshold`); 0 turns it
off.

Kinds: bare, first, replay, unkeyed, mismatch, held. Each request of "first" has a new key; "replay" and "mismatch"
use a key that was completed before the measurement.

    python -m benchmarks.worker NAME URL                   lines on standard input
    python -m benchmarks.worker NAME URL serve PORT        uvicorn on that port
    python -m benchmarks.worker NAME URL count KIND...     for callgrind: a fork for each kind and length
"""

import asyncio
import gc
import itertools
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from inspect import iscoroutine
from typing import Any

from benchmarks.contestants import Contestant, build
from benchmarks.workload import ANSWER_BYTES

LENGTHS = (20, 70)
"""The difference of two runs leaves out the start-up and the first connection."""

EXPECTED = {"mismatch": (422,)}
Ask = Callable[[], Any]

_keys = (b"%d-%d" % (os.getpid(), number) for number in itertools.count())
_done: dict[int, bytes] = {}


def asking(contestant: Contestant, kind: str) -> Callable[[], Any]:
    """Return a function that asks once; the result is awaitable if the contestant is async."""
    match kind:
        case "bare":
            assert contestant.bare is not None
            return contestant.bare
        case "unkeyed":
            assert contestant.unkeyed is not None
            return contestant.unkeyed
        case "first":
            return lambda: contestant.first(next(_keys))
        case "replay":
            return lambda: contestant.replay(_done[id(contestant)])
        case "mismatch":
            assert contestant.mismatch is not None
            mismatch = contestant.mismatch
            return lambda: mismatch(_done[id(contestant)])
        case "held":
            return lambda: _held(contestant)
        case _:
            raise ValueError(kind)


def _held(contestant: Contestant) -> Any:
    """Ask with a new key, and while that request runs, ask with the same key again."""
    key = next(_keys)
    assert contestant.held is not None
    contestant.held.do = lambda: contestant.replay(key)
    return contestant.first(key)


def run(
    contestant: Contestant,
    kind: str,
    requests: int,
    in_flight: int,
    loop: asyncio.Runner,
    *,
    threshold: int | None = None,
) -> dict[str, float]:
    """Send that many requests, that many at once; return the CPU and wall time."""
    answered = partial(_answered, loop)
    if kind in ("replay", "mismatch") and id(contestant) not in _done:
        key = next(_keys)
        answered(contestant.first(key))
        _done[id(contestant)] = key
    ask = asking(contestant, kind)
    statuses: set[int] = set()
    takes = _takes_turns_async if contestant.is_async else _takes_turns
    gc.collect()
    usual = gc.get_threshold()
    gc.set_threshold(usual[0] if threshold is None else threshold)
    try:
        wall, cpu = time.perf_counter(), time.process_time()
        answered(takes(ask, iter(range(requests)), statuses, in_flight))
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    finally:
        gc.set_threshold(*usual)
    unexpected = statuses.difference(contestant.statuses.get(kind, EXPECTED.get(kind, (200,))))
    if unexpected:
        raise ValueError(f"{kind} was answered with {unexpected}")
    return {"cpu": cpu, "wall": wall}


async def _takes_turns_async(ask: Ask, turns: Iterator[int], statuses: set[int], in_flight: int) -> None:
    async def take() -> None:
        for _ in turns:
            statuses.add(await ask())

    await asyncio.gather(*(take() for _ in range(in_flight)))


def _takes_turns(ask: Ask, turns: Iterator[int], statuses: set[int], in_flight: int) -> None:
    def take() -> None:
        for _ in turns:
            statuses.add(ask())

    if in_flight == 1:
        take()
        return
    threads = [threading.Thread(target=take) for _ in range(in_flight)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _answered(loop: asyncio.Runner, answer: Any) -> Any:
    return loop.run(answer) if iscoroutine(answer) else answer


def obey(name: str, url: str) -> None:
    """Carry out each line's order, in one event loop, until the input ends."""
    contestants: dict[int, Contestant] = {}
    with asyncio.Runner() as loop:
        for line in sys.stdin:
            order = json.loads(line)
            size = order.get("size", ANSWER_BYTES)
            if size not in contestants:
                contestants[size] = build(name, url, size)
            try:
                kind, requests, in_flight = order["kind"], order["requests"], order["in_flight"]
                threshold = order.get("threshold")
                done: Any = run(contestants[size], kind, requests, in_flight, loop, threshold=threshold)
            except Exception as error:  # noqa: BLE001 - the driver is told
                done = {"failed": f"{type(error).__name__}: {error}"}
            print(json.dumps(done), flush=True)


def serve(name: str, url: str, port: int) -> None:
    """Serve the contestant's app over uvicorn until killed."""
    import uvicorn

    options: dict[str, Any] = {"loop": "asyncio", "http": "httptools", "lifespan": "off", "access_log": False}
    uvicorn.run(build(name, url).app, port=port, log_level="error", **options)


def run_alone(name: str, url: str, kind: str, requests: int) -> None:
    """Send the requests one after another, on a new event loop and new connections."""
    with asyncio.Runner() as loop:
        run(build(name, url), kind, requests, 1, loop)


def count(name: str, url: str, kinds: list[str]) -> None:
    """Run each kind in each length in a fork of this process, for `callgrind.counted_forks`."""
    for kind in kinds:
        run_alone(name, url, kind, 1)  # so that late imports are not counted
    gc.collect()
    gc.freeze()
    for kind in kinds:
        for length in LENGTHS:
            child = os.fork()
            if child == 0:
                run_alone(name, url, kind, length)
                os._exit(0)
            print(kind, length, child, os.waitpid(child, 0)[1], flush=True)


def main() -> None:
    name, url, *rest = sys.argv[1:]
    logging.getLogger("idempotency_mw").setLevel(logging.ERROR)  # warnings would cost time that is measured
    match rest:
        case []:
            obey(name, url)
        case ["serve", port]:
            serve(name, url, int(port))
        case ["count", *kinds]:
            count(name, url, kinds)
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    main()
