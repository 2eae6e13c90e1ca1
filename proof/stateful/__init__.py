"""Compares every layer with one model, in histories that hypothesis draws.

A history is a sequence of acquire, extend, complete, release and of time that passes. The model is a plain dict.
Each step goes through the store's blocking or its async layer, as the history says, so both work on the same
records. There are histories on each layer alone, and histories on all layers at once, which must have the same
outcome everywhere.
"""

import asyncio
from collections.abc import Iterator, Sequence

from proof.figures import Figure, Progress, Size
from proof.stateful.machine import STEPS, Harness, Tally, try_histories
from tests.faults.stores import KINDS, Grounds, is_there

__all__ = ["Harness", "Tally", "run", "try_histories"]

HISTORIES = {Size.CI: 200, Size.LONG: 5_000}
"""Histories on each layer alone."""
AT_ONCE = {Size.CI: 40, Size.LONG: 1_000}
"""Histories on all layers at once; each of their steps is made on every layer."""
EVERY_REPLY = {
    "acquire: Acquired",
    "acquire: taken over",
    "acquire: Existing in progress",
    "acquire: Existing completed",
    "acquire: Existing not kept",
    "extend: True",
    "extend: False",
    "complete: Settled",
    "complete: Lost",
    "complete: Lost in progress",
    "complete: Lost completed",
    "complete: Lost not kept",
    "release: True",
    "release: False",
}
"""All answers that a layer can give. A run whose histories miss one of them proves nothing about it."""


def run(size: Size, progress: Progress) -> Iterator[Figure]:
    """Try every layer alone, then all layers at once; yield the figures."""
    kinds = [kind for kind in KINDS if is_there(kind)]
    rounds = [*([kind] for kind in kinds), kinds]
    looks = 0
    with Grounds() as grounds, asyncio.Runner() as runner:
        for number, together in enumerate(rounds):
            progress(number, len(rounds))
            tally = Tally()
            yield _tried(grounds, runner, together, size, tally)
            looks += tally.looks * len(together)
    yield Figure("I4", "records without expiry, after each step", f"0 of {looks:,}", f"0 of {looks:,}", looks > 0)


def _tried(grounds: Grounds, runner: asyncio.Runner, kinds: Sequence[str], size: Size, tally: Tally) -> Figure:
    wanted = (HISTORIES if len(kinds) == 1 else AT_ONCE)[size]
    harnesses = [Harness(grounds.open(kind), runner) for kind in kinds]
    # Hypothesis aborts some histories; a few more make up for their steps.
    difference = _difference(harnesses, wanted + wanted // 10 + 20, tally, same=size is Size.CI)
    for harness in harnesses:
        harness.close()
    is_enough = tally.histories >= wanted and tally.steps >= wanted * STEPS
    has_seen_all = len(kinds) > 1 or tally.replies >= EVERY_REPLY
    return Figure(
        shows="I3 I9",
        what=f"model and layer: {kinds[0] if len(kinds) == 1 else f'all {len(kinds)} at once'}, both variants",
        wanted=f"{wanted:,} x {STEPS} steps, 0 differences",
        seen=f"{tally.steps:,} steps, {difference or '0 differences'}",
        holds=difference is None and is_enough and has_seen_all,
    )


def _difference(harnesses: Sequence[Harness], histories: int, tally: Tally, *, same: bool) -> str | None:
    try:
        try_histories(harnesses, histories, tally, same=same)
    except Exception as error:  # an assertion, or an exception that no layer should raise
        return " ".join([type(error).__name__, *str(error).split()])[:300]
    return None
