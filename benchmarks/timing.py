"""Measures CPU and wall time: added to a request, by requests in flight, by live keys, by size, on the server.

"Added" is the time of a request less that of the bare app in the same process. The floor is the time of bare Redis
calls: two for a first request, one for a replay.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

from benchmarks.completing import IN_USE, measures, way_taken
from benchmarks.driving import Worker, interleaved, median_ratio, workers
from tests.servers import RedisServer

__all__ = ["SELDOM_COLLECTED", "UNCOLLECTED", "added_cpu", "by_in_flight", "by_keys", "by_size", "on_the_server"]

UNCOLLECTED = ", no collector"
SELDOM_COLLECTED = ", threshold 50,000"
"""Suffixes of names that were measured with another threshold of Python's garbage collector."""

_THRESHOLDS = {UNCOLLECTED: 0, SELDOM_COLLECTED: 50_000, "": None}

Part = Callable[[float], None]
Ratios = dict[str, float | None]

REQUESTS = 250
"""Requests in one round of one contestant."""
ROUNDS = 6


def added_cpu(contestants: Sequence[str], floor: str, url: str, in_flight: int, part: Part) -> dict[str, Ratios]:
    """Return the CPU and the wall time that each contestant adds to a request, as ratios to the floor."""
    with workers([*contestants, floor], url) as started:
        cases = {
            (name, kind): partial(_took, worker, kind, REQUESTS, in_flight)
            for name, worker in started.items()
            for kind in (("first", "replay") if name == floor else ("bare", "first", "replay"))
        }
        for take in cases.values():
            take()  # connects, and imports modules that are imported late
        rounds = interleaved(cases, ROUNDS, part)
    return {
        name: {
            kind: median_ratio(
                rounds, lambda took, n=name, k=kind: (took[n, k] - took[n, "bare"]) / took[floor, k]
            )
            for kind in ("first", "replay")
        }
        for name in contestants
    }


def _took(worker: Worker, kind: str, requests: int, in_flight: int, **more: int) -> float:
    return worker.ask(kind, requests, in_flight, **more)["cpu"] / requests


def by_in_flight(
    contestants: Sequence[str], url: str, in_flights: Sequence[int], rounds: int, part: Part
) -> dict[str, dict[str, Ratios]]:
    """Return CPU and wall time of a first request with n requests in flight, as ratios to those with fifty.

    None if a request was refused. This library is also measured without Python's garbage collector, and with one
    that seldom runs: the collector visits all live objects, and requests in flight are live objects.
    """
    with workers(contestants, url) as started:
        series = {
            name + how: (worker, threshold)
            for how, threshold in _THRESHOLDS.items()
            for name, worker in started.items()
            if threshold is None or name == "ours"
        }
        cases = {
            (name, number, what): take
            for name, (worker, threshold) in series.items()
            for number in in_flights
            for what, take in _cpu_and_wall(worker, number, threshold)
        }
        for worker in started.values():
            worker.ask("first", REQUESTS)
        seen = interleaved(cases, rounds, part)
    return {
        name: {
            str(number): {
                what: median_ratio(seen, lambda took, n=name, i=number, w=what: took[n, i, w] / took[n, 50, w])
                for what in ("cpu", "wall")
            }
            for number in in_flights
        }
        for name in series
    }


def _cpu_and_wall(worker: Worker, in_flight: int, threshold: int | None) -> list[tuple[str, Callable[[], float]]]:
    """Return two cases; the second returns the wall time of the first one's run."""
    last: dict[str, float] = {}

    def cpu() -> float:
        requests = max(REQUESTS, 5 * in_flight)  # each task sends as many requests as with fifty
        last.clear()
        last.update(worker.ask("first", requests, in_flight, threshold=threshold), requests=requests)
        return last["cpu"] / requests

    def wall() -> float:
        if not last:  # the rotation began with this case, or the run failed
            cpu()
        return last["wall"] / last["requests"]

    return [("cpu", cpu), ("wall", wall)]


def by_keys(binary: Any, numbers: Sequence[int], rounds: int, part: Part) -> dict[str, Ratios]:
    """Return the CPU of a request, the server's included, by live keys, as a ratio to the fewest keys."""
    with ExitStack() as stack:
        servers = {number: stack.enter_context(RedisServer(binary)) for number in numbers}
        for number, server in servers.items():
            fill(server, number)
            part(0.4 * number / max(numbers))
        started = {n: stack.enter_context(workers(["ours"], s.url))["ours"] for n, s in servers.items()}
        cases = {
            (number, kind): partial(_took_with_server, started[number], kind, servers[number])
            for number in numbers
            for kind in ("first", "replay")
        }
        for take in cases.values():
            take()
        seen = interleaved(cases, rounds, lambda done: part(0.4 + 0.6 * done))
    least = min(numbers)
    return {
        str(number): {
            kind: median_ratio(seen, lambda took, n=number, k=kind: took[n, k] / took[least, k])
            for kind in ("first", "replay")
        }
        for number in numbers
    }


_FILL = """
for number = ARGV[1], ARGV[2] do
  local digest = redis.sha1hex(number) .. redis.sha1hex('x' .. number)
  redis.call('SET', 'idempotency:' .. digest, ARGV[3], 'PX', 86400000)
end
"""


def fill(server: RedisServer, number: int) -> None:
    """Store that many records, each with an expiry of one day."""
    with server.client() as client:
        for start in range(0, number, 10_000):
            client.eval(_FILL, 0, start, min(start + 10_000, number) - 1, b"1C" + b"0" * 339)


def _took_with_server(worker: Worker, kind: str, server: RedisServer) -> float:
    with server.client() as client:
        before = _cpu(client)
        own = worker.ask(kind, 4 * REQUESTS, 50)["cpu"]
        return (own + _cpu(client) - before) / (4 * REQUESTS)


def _cpu(client: Any) -> float:
    info = client.info("cpu")
    seconds: float = info["used_cpu_user"] + info["used_cpu_sys"]
    return seconds


def by_size(
    url: str, sizes: Sequence[int], peer_up_to: int, rounds: int, part: Part
) -> dict[str, dict[str, Ratios]]:
    """Return the CPU that this library and idemkit add, by size of the answer, as ratios to bare calls."""
    with workers(["ours", "calls", "idemkit"], url) as started:
        cases = {
            (name, kind, size): partial(_took, worker, kind, _fewer(size), 10, size=size)
            for name, worker in started.items()
            for size in sizes
            for kind in (("first", "replay") if name == "calls" else ("bare", "first", "replay"))
            if name != "idemkit" or size <= peer_up_to
        }
        for take in cases.values():
            take()
        seen = interleaved(cases, rounds, part)
    return {
        name: {
            str(size): {
                kind: median_ratio(
                    seen,
                    lambda took, n=name, k=kind, s=size: (
                        (took[n, k, s] - took[n, "bare", s]) / took["calls", k, s]
                    ),
                )
                for kind in ("first", "replay")
            }
            for size in sizes
            if name != "idemkit" or size <= peer_up_to
        }
        for name in ("ours", "idemkit")
    }


def _fewer(size: int) -> int:
    return 200 if size <= 20_000 else 60 if size <= 200_000 else 10


def on_the_server(
    servers: Mapping[str, Any], sizes: Sequence[int], rounds: int, part: Part
) -> dict[str, dict[str, Ratios]]:
    """Return each server's CPU to complete, by size, as ratios to a SET: as used in practice, and sent alike."""
    return {
        name: _completing(binary, sizes, rounds, lambda done, at=at: part((at + done) / len(servers)))
        for at, (name, binary) in enumerate(servers.items())
    }


def _completing(binary: Any, sizes: Sequence[int], rounds: int, part: Part) -> dict[str, Ratios]:
    with measures(binary, sizes, lambda size: (*IN_USE, "SET", way_taken(size))) as cases:
        seen = interleaved(cases, rounds, part)
    floor, ours = IN_USE

    def ratio(way: str, over: str, size: int) -> float | None:
        return median_ratio(seen, lambda took: took[way, size] / took[over, size])

    return {
        "in use": {str(size): ratio(ours, floor, size) for size in sizes},
        "alike": {str(size): ratio(way_taken(size), "SET", size) for size in sizes},
    }
