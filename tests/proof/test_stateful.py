"""The state machine exposes faulty layers, and no layer of ours. `make proof` tries more histories."""

import asyncio
from dataclasses import replace

import pytest

from idempotency_mw.core.record import Acquired, Existing, Lost, Settled, Status
from idempotency_mw.persistence.frame import Frame
from proof.stateful import Harness, Tally, try_histories
from tests.faults.stores import KINDS, Grounds, is_there


@pytest.fixture(scope="module")
def grounds():
    with Grounds() as grounds:
        yield grounds


@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_answers_as_the_model_does(grounds, kind):
    if not is_there(kind):
        pytest.skip(f"no server for {kind} was found")
    tried([kind], grounds, 12)


def test_a_history_has_the_same_outcome_on_every_layer(grounds):
    tried([kind for kind in KINDS if is_there(kind)], grounds, 6)


def tried(kinds, grounds, histories, *, shrinks=True, **options):
    tally = Tally()
    with asyncio.Runner() as runner:
        harnesses = [Harness(grounds.open(kind), runner, **options) for kind in kinds]
        try:
            try_histories(harnesses, histories, tally, shrinks=shrinks)
        finally:
            for harness in harnesses:
                harness.close()
    assert tally.histories >= histories
    assert tally.looks > 0


class Wrong:
    """A layer with one fault."""

    runs_in_place = True

    def __init__(self, layer, store):
        self.layer = layer
        self.store = store

    def frame(self, claim):
        data, _ = self.store.peek(claim.storage_key)
        return data and Frame.decode(data)

    def __getattr__(self, name):
        return getattr(self.layer, name)


class TakesOverEveryLapsedClaim(Wrong):
    def acquire(self, claim):
        return self.layer.acquire(replace(claim, may_take_over=True))


class LocksItsOwnerOut(Wrong):
    seen = frozenset()

    def acquire(self, claim):
        found = self.layer.acquire(claim)
        if isinstance(found, Acquired) and claim.token in self.seen:
            record = replace(self.layer.complete(replace(claim, token="f" * 32), b"").record, remaining_ms=0)
            return Existing(record)
        self.seen |= {claim.token}
        return found


class CompletesWithoutComparing(Wrong):
    def complete(self, claim, result):
        outcome = self.layer.complete(claim, result)
        if isinstance(outcome, Lost) and outcome.record and outcome.record.status is Status.IN_PROGRESS:
            return Settled()
        return outcome


class CompletesTwice(Wrong):
    def complete(self, claim, result):
        frame = self.frame(claim)
        if frame is not None and frame.token == claim.token and frame.status is Status.COMPLETED:
            self.store.plant(claim.storage_key, replace(frame, result=result or b"").encode())
        return self.layer.complete(claim, result)


class CompletesExpiredClaims(Wrong):
    def complete(self, claim, result):
        outcome = self.layer.complete(claim, result)
        if outcome == Lost(None):
            self.layer.acquire(claim)
            self.layer.complete(claim, result)
        return outcome


class ReleasesForAnyone(Wrong):
    def release(self, claim):
        frame = self.frame(claim)
        owner = claim if frame is None else replace(claim, token=frame.token)
        return self.layer.release(owner)


class GivesWhatItExtendsAnotherExpiry(Wrong):
    def extend(self, claim):
        extended = self.layer.extend(claim)
        if extended:
            self.store.plant(claim.storage_key, self.frame(claim).encode())  # expires in an hour
        return extended


class CountsNoAttempts(Wrong):
    def acquire(self, claim):
        found = self.layer.acquire(claim)
        return Acquired(1) if isinstance(found, Acquired) else found


class TakesATombstoneForAnEmptyResult(Wrong):
    def complete(self, claim, result):
        return self.layer.complete(claim, result or b"")


@pytest.mark.parametrize("wrong", Wrong.__subclasses__())
def test_a_faulty_layer_is_exposed(grounds, wrong):
    with pytest.raises(AssertionError):
        tried(["memory"], grounds, 500, around=wrong, shrinks=False)  # stops at the first history that exposes it
