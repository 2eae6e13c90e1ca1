"""Histories of several processes on one store, through faults, and whether they are linearizable.

Four processes drive the four verbs, on a Redis and a Valkey through a proxy that loses, delays, cuts and hangs
messages, and on a SQLite file. Whatever they saw must be explained, key by key, by some order in which each
message took effect at one moment: see `checker.py`. That the checker refuses what can't be explained is shown
on histories that were altered: see `alterations.py`.
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
"""On each store; a machine that has time does several times as many."""
ALTERED_OF_A_KIND = 2
"""Of each key's history."""
MOST_OPEN = 8
"""Each open-ended message doubles what has to be tried before a history is refused: so far each is altered."""

Keys = dict[str, list[Operation]]


@dataclass(frozen=True, slots=True)
class Checked:
    """What was seen of the histories of one store."""

    operations: int
    open_ended: int
    keys: int
    bad: tuple[str, ...]
    """The keys whose history nothing explains."""


@dataclass(frozen=True, slots=True)
class Altered:
    """How many altered histories there were of each kind, and how many of them were refused."""

    made: Counter[str]
    refused: Counter[str]


def run(size: Size, progress: Progress) -> Iterator[Figure]:
    """Record and check histories on every store, and then alter them."""
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
    """Record what two blocking and two async processes see of a server, each through a proxy of its own."""
    with RedisServer(binary) as server:
        run_of = token_hex(4)
        kinds: tuple[Kind, ...] = ("blocking", "direct blocking", "async", "direct")
        return record([Plan(kind, str(server.port), run_of, seconds) for kind in kinds]).by_key()


def on_sqlite(seconds: float) -> Keys:
    """Record what four processes see of a file."""
    with TemporaryDirectory() as folder:
        return record([Plan("sqlite", f"{folder}/records.db", token_hex(4), seconds)] * 4).by_key()


def checked(keys: Keys) -> Checked:
    """Check each key's history, and show the beginning of one that nothing explains, up to where it goes wrong."""
    bad = [key for key, history in keys.items() if is_bad(history)]
    for key in bad:
        print(key, *(told(each) for each in shortest_bad(keys[key])), sep="\n  ", file=sys.stderr)
    history = [each for operations in keys.values() for each in operations]
    return Checked(len(history), sum(each.ended is None for each in history), len(keys), tuple(bad))


def altered(keys: Keys) -> Altered:
    """Alter each good history, as far as it can be searched, in every way that fits it, and check that."""
    result = Altered(Counter(), Counter())
    for history in keys.values():
        part = with_few_open(history, MOST_OPEN)
        for name, alter in ALTERATIONS.items():
            for bad in islice(alter(part), ALTERED_OF_A_KIND):
                result.made[name] += 1
                result.refused[name] += _is_refused(name, bad)
    return result


def _is_refused(name: str, history: list[Operation]) -> bool:
    """Tell whether an altered history is refused, and show one that is not."""
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
