"""Records histories of several processes on one store, through faults, and checks that they are linearizable.

Four processes call the four verbs: on a Redis and a Valkey, through proxies that lose, delay, cut and hang
messages, and on a SQLite file. For each key there must be an order in which each message took effect at one moment
and which explains all answers: see `checker.py`. Histories that were made bad must be refused, which shows that
the checker finds faults: see `alterations.py`.
"""

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from secrets import token_hex
from tempfile import TemporaryDirectory

from proof.figures import Figure, Progress, Size
from proof.histories.alterations import ALTERATIONS
from proof.histories.checker import TooLong, is_bad, is_linearizable, shortest_bad, with_few_open
from proof.histories.clients import Kind, Plan, record
from proof.histories.operations import Operation, told
from tests.servers import RedisServer, binaries

__all__ = ["Altered", "Checked", "altered", "checked", "on_redis", "on_sqlite", "run"]

SECONDS = {Size.CI: 6.0, Size.LONG: 900.0}
LEAST_OPERATIONS = 1000
"""The fewest operations on each store; an idle machine does several times as many."""
ALTERED_OF_A_KIND = 2
"""For each kind of alteration, how many histories of each key are altered."""
MOST_OPEN = 8
"""An altered history is cut where more operations are open-ended: each one doubles the search that refuses it."""

Keys = dict[str, list[Operation]]


@dataclass(frozen=True, slots=True)
class Checked:
    """What the check of one store's histories showed."""

    operations: int
    open_ended: int
    keys: int
    bad: tuple[str, ...]
    """The keys whose history no order explains."""


@dataclass(frozen=True, slots=True)
class Altered:
    """How many histories of each kind were altered, and how many of these were refused."""

    made: Counter[str]
    refused: Counter[str]


def run(size: Size, progress: Progress) -> Iterator[Figure]:
    """Record and check histories on every store; then alter them, and check that the checker refuses them."""
    found = binaries()
    of = 2 * (len(found) + 1)
    total = Altered(Counter(), Counter())
    for number, name in enumerate((*found, "sqlite")):
        keys = on_sqlite(SECONDS[size]) if name == "sqlite" else on_redis(found[name], SECONDS[size])
        progress(2 * number + 1, of)
        yield _history_figure(name, checked(keys))
        each = altered(keys)
        total.made.update(each.made)
        total.refused.update(each.refused)
        progress(2 * number + 2, of)
    yield _altered_figure(total)


def on_redis(binary: Path, seconds: float) -> Keys:
    """Record what two blocking and two async processes see of a server, each through its own proxy."""
    with RedisServer(binary) as server:
        run_of = token_hex(4)
        kinds: tuple[Kind, ...] = ("blocking", "direct blocking", "async", "direct")
        return record([Plan(kind, str(server.port), run_of, seconds) for kind in kinds]).by_key()


def on_sqlite(seconds: float) -> Keys:
    """Record what four processes see of a SQLite file."""
    with TemporaryDirectory() as folder:
        return record([Plan("sqlite", f"{folder}/records.db", token_hex(4), seconds)] * 4).by_key()


def checked(keys: Keys) -> Checked:
    """Check each key's history; print a bad one up to the operation that no order explains."""
    bad = [key for key, history in keys.items() if is_bad(history)]
    for key in bad:
        print(key, *(told(each) for each in shortest_bad(keys[key])), sep="\n  ", file=sys.stderr)
    history = [each for operations in keys.values() for each in operations]
    return Checked(len(history), sum(each.ended is None for each in history), len(keys), tuple(bad))


def altered(keys: Keys) -> Altered:
    """Alter each good history in every way that fits it, and check the result."""
    result = Altered(Counter(), Counter())
    for history in keys.values():
        part = with_few_open(history, MOST_OPEN)
        for name, alter in ALTERATIONS.items():
            for bad in islice(alter(part), ALTERED_OF_A_KIND):
                result.made[name] += 1
                result.refused[name] += _is_refused(name, bad)
    return result


def _is_refused(name: str, history: list[Operation]) -> bool:
    """Tell whether an altered history is refused; print it if it is not."""
    try:
        why = "is explained" if is_linearizable(history) else ""
    except TooLong:
        why = "takes too long to search"
    if why:
        told_in_order = map(told, sorted(history, key=lambda each: each.begun))
        print(f"{name}: {why}", *told_in_order, sep="\n  ", file=sys.stderr)
    return not why


def _history_figure(name: str, seen: Checked) -> Figure:
    is_enough = seen.operations >= LEAST_OPERATIONS and (seen.open_ended > 0 or name == "sqlite")
    return Figure(
        shows="I1 I2 I3 I9",
        what=f"histories of 4 processes on {name}",
        wanted="0 keys not linearizable",
        seen=f"{len(seen.bad)} of {seen.keys}; {seen.operations:,} ops, {seen.open_ended:,} open",
        holds=not seen.bad and is_enough,
    )


def _altered_figure(seen: Altered) -> Figure:
    made, refused = seen.made.total(), seen.refused.total()
    is_of_each_kind = all(seen.made[name] for name in ALTERATIONS)
    return Figure(
        shows="I1 I2 I3",
        what="altered histories that the checker refuses",
        wanted=f"all, of {len(ALTERATIONS)} kinds",
        seen=f"{refused:,} of {made:,}, of {len(+seen.made)} kinds",
        holds=refused == made and is_of_each_kind,
    )
