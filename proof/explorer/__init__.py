"""Explores all interleavings of a few workers, breadth-first, with the library's own machine and verbs.

Requests and replies are lost; messages are delayed and arrive after others; workers die; leases lapse; records
expire. There are two modes:

leases honoured   a lease lapses only when its owner is dead or has stopped. No invariant may be violated.
leases broken     a lease can lapse under a live owner. Two executions may run at a time; no other invariant may be
                  violated.

`rules.py` says what may never happen. A violation is shown as a timeline of the shortest path to it. `mutants.py`
has twelve systems with one fault each; each must be exposed, which shows that the exploration finds faults.
"""

import gc
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count

from proof.explorer.mutants import MUTANTS
from proof.explorer.search import Explored, explore
from proof.explorer.states import Setting
from proof.explorer.system import PRODUCTION, System
from proof.explorer.timeline import takeover, timeline
from proof.figures import Figure, Progress, Size

__all__ = [
    "LEAST_STATES",
    "MUTANTS",
    "PRODUCTION",
    "Explored",
    "Setting",
    "explore",
    "killed",
    "run",
    "takeover",
    "timeline",
    "variants",
]

LEAST_STATES = {Size.CI: 40_000, Size.LONG: 289_645}
"""The fewest states that each mode must reach: an exploration that stops early would find no violation either.

CI: a round number that both modes exceed. LONG: the states of 5 workers, 3 losses and 2 crashes, as first counted.
"""
HONOURED = {
    Size.CI: (Setting(3, 3, 2), Setting(2, 2, 1)),
    Size.LONG: (Setting(5, 3, 2), Setting(3, 3, 2)),
}
"""The large setting, and a smaller one for each other option."""
BROKEN = {
    Size.CI: (Setting(3, 2, 1, honoured=False), Setting(2, 1, 1, honoured=False)),
    Size.LONG: (Setting(4, 2, 2, honoured=False), Setting(2, 2, 1, honoured=False)),
}
SMALL = Setting(2, 2, 1)
"""Large enough to expose each mutant."""


def run(size: Size, progress: Progress) -> Iterator[Figure]:
    """Explore both modes under every option; then check that each mutant is exposed."""
    gc.disable()  # millions of tuples, and no reference cycles
    one_more = _counter(progress, 2 * (1 + len(variants(SMALL))) + len(MUTANTS))
    yield _mode(*HONOURED[size], LEAST_STATES[size], one_more)
    yield _mode(*BROKEN[size], LEAST_STATES[size], one_more)
    yield _mutants(one_more)


def variants(setting: Setting) -> list[Setting]:
    """Return the setting with one option at a time changed from its default."""
    return [
        replace(setting, on_error="store"),
        replace(setting, after_crash="refuse"),
        replace(setting, on_store_failure="pass"),
        replace(setting, strangers=1),
        replace(setting, has_large=True),
    ]


def killed(mutant: System) -> Explored | None:
    """Return the exploration that exposes the mutant, or None if none does."""
    for honoured in (True, False):
        explored = explore(mutant, replace(SMALL, honoured=honoured))
        if explored.path:
            return explored
    return None


def _counter(progress: Progress, of: int) -> Callable[[], None]:
    done = count(1)
    return lambda: progress(next(done), of)


def _mode(setting: Setting, small: Setting, least: int, one_more: Callable[[], None]) -> Figure:
    """Explore one mode in the large setting, and in the small one under every other option."""
    states, violations = 0, 0
    for each in (setting, *variants(small)):
        explored = explore(PRODUCTION, each)
        states += explored.states
        violations += _show(each, explored)
        one_more()
    name = "leases honoured" if setting.honoured else "leases broken"
    return Figure(
        shows="I1-I4 I13" if setting.honoured else "I2-I4 I13",
        what=f"{name}: {setting.workers} workers, {setting.losses} lost, {setting.crashes} crashes",
        wanted=f"{least:,} states, 0 violations",
        seen=f"{states:,} states, {violations} violations",
        holds=states >= least and not violations,
    )


def _show(setting: Setting, explored: Explored) -> bool:
    """Print the counter-example, if there is one; tell whether there is."""
    if explored.path:
        print(f"{setting}\n{timeline(explored.path)}\n", file=sys.stderr)
    return bool(explored.path)


def _mutants(one_more: Callable[[], None]) -> Figure:
    alive = []
    for name, mutant in MUTANTS.items():
        alive += [] if killed(mutant) else [name]
        one_more()
    seen = f"{len(MUTANTS) - len(alive)} of {len(MUTANTS)}"
    return Figure(
        shows="I1-I4 I8",
        what="mutants of the machine and the verbs exposed",
        wanted=f"{len(MUTANTS)} of {len(MUTANTS)}",
        seen=", ".join([seen, *alive]),
        holds=not alive,
    )
