"""Random faults expose faulty layers, and no layer of ours. `proof/matrix` makes more of them."""

import asyncio
import time

import pytest

from idempotency_mw.core.record import Acquired, Existing, Settled
from idempotency_mw.errors import IdempotencyPersistenceConnectionError
from idempotency_mw.persistence.base import is_async
from proof.matrix import figures_of, try_faults
from tests.faults.stores import Grounds, is_there


@pytest.fixture(scope="module")
def grounds():
    with Grounds() as grounds:
        yield grounds


def tried(grounds, kind, faults, **options):
    """Return the figures that do not hold."""
    if not is_there(kind):
        pytest.skip(f"no server for {kind} was found")
    seen = asyncio.run(try_faults(grounds, kind, faults, 7, lambda done: None, **options))
    return [figure for figure in figures_of(kind, faults, 7, seen) if not figure.holds]


@pytest.mark.parametrize("kind", ["redis", "valkey"])
def test_under_random_faults_every_figure_holds(grounds, kind):
    assert tried(grounds, kind, 60) == []


def wrong(acquire=None, complete=None):
    """Return a function that makes a layer wrong: it changes a verb's answer or failure."""

    def around(layer):
        class Wrong:
            extend, release = layer.extend, layer.release

            async def acquire(self, claim):
                return await _ended(layer.acquire, claim, change=acquire)

            async def complete(self, claim, result):
                return await _ended(layer.complete, claim, result, change=complete)

        class WrongBlocking:
            extend, release = layer.extend, layer.release

            def acquire(self, claim):
                return _changed(acquire, layer.acquire, claim)

            def complete(self, claim, result):
                return _changed(complete, layer.complete, claim, result)

        return Wrong() if is_async(layer) else WrongBlocking()

    return around


def _changed(change, verb, *arguments):
    try:
        answer = verb(*arguments)
    except IdempotencyPersistenceConnectionError as error:
        answer = error
    answer = change(answer) if change else answer
    if isinstance(answer, Exception):
        raise answer
    return answer


async def _ended(verb, *arguments, change):
    try:
        answer = await verb(*arguments)
    except IdempotencyPersistenceConnectionError as error:
        answer = error
    return _changed(None, lambda: change(answer) if change else answer)


WRONG = {
    "a failed acquire counts as acquired": wrong(
        acquire=lambda it: Acquired(1) if isinstance(it, Exception) else it
    ),
    "a duplicate counts as the owner": wrong(acquire=lambda it: Acquired(1) if isinstance(it, Existing) else it),
    "a failed complete counts as settled": wrong(
        complete=lambda it: Settled() if isinstance(it, Exception) else it
    ),
}


@pytest.mark.parametrize("how", WRONG)
def test_a_faulty_layer_is_exposed(grounds, how):
    # No retry helps against a message that hangs: each disturbed verb reaches its deadline.
    actions = ["hang request", "hang reply"]
    assert tried(grounds, "valkey", 80, around=WRONG[how], actions=actions) != []


class Late:
    """A blocking layer that exceeds its deadline."""

    def __init__(self, layer):
        self.extend, self.complete, self.release = layer.extend, layer.complete, layer.release
        self.layer = layer

    def acquire(self, claim):
        try:
            return self.layer.acquire(claim)
        finally:
            time.sleep(0.42)


def test_a_layer_that_exceeds_its_deadline_is_exposed(grounds):
    broken = tried(grounds, "valkey", 12, around=lambda layer: layer if is_async(layer) else Late(layer))
    assert [figure.shows for figure in broken] == ["I11"]
