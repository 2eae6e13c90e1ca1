"""The budgets, and where the results have the measured values.

Counts, bytes and instructions are the same on any machine; `make bench-check` checks these. The other budgets are
ratios of times within one run.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.timing import SELDOM_COLLECTED, UNCOLLECTED

__all__ = ["BUDGETS", "Budget", "added"]

Results = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Budget:
    """One row: the measured value must not exceed the limit or, with `at_least`, not fall below it."""

    what: str
    limit: float
    measured: Callable[[Results], float]
    is_counted: bool = False
    at_least: bool = False
    unit: str = " ×"

    def value(self, results: Results) -> float | None:
        """Return the measured value, or None if there is none: without valgrind, or without the peer."""
        try:
            return self.measured(results)
        except (KeyError, TypeError):
            return None

    def holds(self, value: float) -> bool:
        """Tell whether the value is within the budget."""
        return value >= self.limit if self.at_least else value <= self.limit


def added(results: Results, contestant: str, kind: str) -> float:
    """Return the instructions that a contestant adds to those of the bare app."""
    counted = results["instructions"][contestant]
    more: float = counted[kind] - counted["bare"]
    return more


def _trips(surface: str, kind: str) -> Callable[[Results], float]:
    return lambda results: results["counts"][surface][kind]["trips"]


def _over_floor(surface: str, floor: str, kind: str) -> Callable[[Results], float]:
    return lambda results: added(results, surface, kind) / results["instructions"][floor][kind]


def _unkeyed(results: Results) -> float:
    return max(row["ratio"] for row in results["unkeyed"] if row["budget"] is not None)


def _buffered(results: Results) -> float:
    return sum(not row["passes"] for row in results["unkeyed"])


def _cpu(kind: str) -> Callable[[Results], float]:
    return lambda results: results["cpu"]["50"]["ours"][kind] / results["cpu"]["50"]["idemkit"][kind]


def _on_the_server(*, small: bool) -> Callable[[Results], float]:
    def measured(results: Results) -> float:
        servers = [server["in use"] for server in results["server"].values()]
        return max(ratios[size] for ratios in servers for size in ratios if (int(size) < 10_000) is small)

    return measured


def _in_flight(name: str) -> Callable[[Results], float]:
    def measured(results: Results) -> float:
        ratios = results["in_flight"][name]  # None where requests were refused, which counts as endless growth
        return max(ratios[number]["cpu"] or math.inf for number in ("200", "1000"))

    return measured


def _stream(name: str) -> Callable[[Results], float]:
    return lambda results: results["stream"][name]


def _keys(results: Results) -> float:
    return max(ratio for ratios in results["keys"].values() for ratio in ratios.values())


FLAT = 1.25
"""What "flat" allows, chosen here: growth by a quarter, which is within the noise of a shared machine."""

_SURFACES = {"ours": "ASGI", "ours-wsgi": "WSGI", "ours-function": "function"}
_ANSWERS = {"first": ("first", 2), "replay": ("replay", 1), "conflict": ("409", 1), "mismatch": ("422", 1)}

_INSTRUCTIONS = (
    ("first request, over two bare redis.asyncio calls", 1.25, "ours", "calls", "first"),
    ("replay, over one bare call", 1.35, "ours", "calls", "replay"),
    ("first WSGI request, over two bare redis-py calls", 2.0, "ours-wsgi", "calls-blocking", "first"),
    ("WSGI replay, over one bare call", 1.3, "ours-wsgi", "calls-blocking", "replay"),
    ("first function call, over two bare redis-py calls", 1.4, "ours-function", "calls-blocking", "first"),
    ("replayed function call, over one bare call", 1.5, "ours-function", "calls-blocking", "replay"),
)

BUDGETS = (
    *(
        Budget(f"round trips, {name}: {shown}", trips, _trips(surface, kind), is_counted=True, unit="")
        for surface, name in _SURFACES.items()
        for kind, (shown, trips) in _ANSWERS.items()
    ),
    *(
        Budget(f"instructions of a {what}", limit, _over_floor(surface, floor, kind), is_counted=True)
        for what, limit, surface, floor, kind in _INSTRUCTIONS
    ),
    Budget("instructions of a request without a key or with another method", 1.03, _unkeyed, is_counted=True),
    Budget("requests without a key whose body is buffered", 0, _buffered, is_counted=True, unit=""),
    Budget(
        "stored bytes of a 182-byte answer, key and value",
        450,
        lambda results: results["stored"]["ours"]["key"] + results["stored"]["ours"]["value"],
        is_counted=True,
        unit=" B",
    ),
    Budget("CPU added to a first request, 50 in flight, over idemkit", 0.8, _cpu("first")),
    Budget("CPU added to a replay, 50 in flight, over idemkit", 0.65, _cpu("replay")),
    Budget(
        "first requests a second, over idemkit",
        1.2,
        lambda results: results["rate"]["ours"]["first over idemkit"],
        at_least=True,
    ),
    Budget(
        "replays a second, over idemkit",
        1.4,
        lambda results: results["rate"]["ours"]["replay over idemkit"],
        at_least=True,
    ),
    Budget("Redis CPU to complete, over a SET: below 10 kB", 1.5, _on_the_server(small=True)),
    Budget("Redis CPU to complete, over a SET: from 10 kB", 1.25, _on_the_server(small=False)),
    Budget("stream of 50 MiB: arrives whole", 1, _stream("whole"), at_least=True, unit=""),
    Budget("stream: delay of the first byte, over 1 ms and a round trip", 1, _stream("first_byte")),
    Budget("stream of 50 MiB: memory added, over max_response_body", 2, _stream("memory")),
    Budget("growth of CPU from 10³ to 10⁶ live keys", FLAT, _keys),
    Budget("growth of CPU from 50 to 1,000 in flight", FLAT, _in_flight("ours")),
    Budget("growth in flight, with gc.set_threshold(50_000)", FLAT, _in_flight("ours" + SELDOM_COLLECTED)),
    Budget("growth in flight, without Python's collector", FLAT, _in_flight("ours" + UNCOLLECTED)),
)
