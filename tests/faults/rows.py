"""The fault matrix: its rows, and on which layers and surfaces each one applies.

A test of this folder shows a row at a place, which is a layer under a surface. The test

    @shows(2)
    async def test_a_reply_to_acquire_that_was_lost_changes_nothing(place): ...

runs once at each place where the row applies. With `--faults` the run ends with the table, and fails if a
place has no test that passed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from tests.faults.stores import KINDS, REDIS_KINDS
from tests.faults.surfaces import SURFACES

__all__ = ["FAULTS", "Fault", "places", "shows"]

HTTP = ("asgi", "wsgi")
ASYNC = ("asgi", "async function")
KEPT = ("sqlite", *REDIS_KINDS)


@dataclass(frozen=True)
class Fault:
    """One row of the matrix."""

    title: str
    layers: tuple[str, ...] = KINDS
    surfaces: tuple[str, ...] = SURFACES
    why: str = ""
    """Why it does not apply to the others."""


NO_SERVER = "memory and SQLite have no server, and no message that could be lost"

FAULTS = {
    1: Fault(
        "unreachable, CLUSTERDOWN, LOADING, READONLY at acquire", REDIS_KINDS, why=f"{NO_SERVER}; SQLite: 25"
    ),
    2: Fault("reply lost, applied, at acquire", REDIS_KINDS, why=NO_SERVER),
    3: Fault("request lost at acquire", REDIS_KINDS, why=NO_SERVER),
    4: Fault("reply lost, no retry possible, at acquire", REDIS_KINDS, why=NO_SERVER),
    5: Fault("out of memory at acquire", REDIS_KINDS, why="memory has no limit of its own; SQLite: 25"),
    6: Fault("NOSCRIPT", REDIS_KINDS, why="only Redis and Valkey have scripts"),
    7: Fault("worker killed", KEPT, why="memory dies with its process"),
    8: Fault("stopped past the lease", KEPT, why="memory stops with its process"),
    9: Fault("app raises before the start"),
    10: Fault("app raises after the start", surfaces=HTTP, why="a function's result comes at once"),
    11: Fault("client gone", surfaces=HTTP, why="a function's caller that goes away cancels it: 12, 13"),
    12: Fault("cancelled while running"),
    13: Fault("cancelled while settling", surfaces=ASYNC, why="blocking code is not cancelled"),
    14: Fault("reply lost at complete", REDIS_KINDS, why=NO_SERVER),
    15: Fault("store down at complete", REDIS_KINDS, why=f"{NO_SERVER}; SQLite: 25"),
    16: Fault("out of memory at complete", REDIS_KINDS, why="memory has no limit of its own; SQLite: 25"),
    17: Fault("answer that can't be kept"),
    18: Fault("failover without loss", REDIS_KINDS, why="no replicas; of a single server: a restart"),
    19: Fault("failover with loss", ("cluster", "sentinel"), why="nothing takes over; a loss alone: 20"),
    20: Fault("record gone while the app runs"),
    21: Fault("slots moving", ("cluster",), why="only a cluster has slots"),
    22: Fault("unreadable record", KEPT, why="memory holds values, not bytes"),
    23: Fault("another payload"),
    24: Fault("duplicates at once"),
    25: Fault("SQLite busy, full, read-only", ("sqlite",), why="the others have no file"),
    26: Fault("the app's clock is wrong", ("memory", *REDIS_KINDS), why="SQLite's clock is the machine's"),
}


def places(*rows: int) -> list[tuple[str, str]]:
    """Return the places, (layer, surface), where all these rows apply."""
    layers = [kind for kind in KINDS if all(kind in FAULTS[row].layers for row in rows)]
    surfaces = [kind for kind in SURFACES if all(kind in FAULTS[row].surfaces for row in rows)]
    return [(layer, surface) for layer in layers for surface in surfaces]


def shows(
    *rows: int,
    layers: tuple[str, ...] = KINDS,
    surfaces: tuple[str, ...] = SURFACES,
    at_once: bool = False,
) -> Callable[[Any], Any]:
    """Mark a test with rows of the matrix, and run it at every place where they apply.

    `at_once`: run it once for each layer, whose name it gets, for all surfaces together.
    """
    chosen = [(layer, surface) for layer, surface in places(*rows) if layer in layers and surface in surfaces]

    def marked(test: Any) -> Any:
        if at_once:
            chosen_layers = list(dict.fromkeys(layer for layer, _ in chosen))
            return pytest.mark.fault(*rows)(pytest.mark.parametrize("place", chosen_layers)(test))
        names = [f"{layer}-{surface}".replace(" ", "-") for layer, surface in chosen]
        return pytest.mark.fault(*rows)(pytest.mark.parametrize("place", chosen, ids=names, indirect=True)(test))

    return marked
