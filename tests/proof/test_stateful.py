"""The machine finds layers that do wrong, and none among ours. `proof/stateful.py` makes more histories."""

import asyncio
from dataclasses import replace

import pytest

from idempotency_mw.core.record import Acquired, Existing, Lost, Settled, Status
from proof.stateful import Harness, Tally, try_histories
from tests.faults.stores import KINDS, Grounds, is_there


@pytest.fixture(scope="module")
def grounds():
    with Grounds() as grounds:
        yield grounds


@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_does_what_the_model_does(grounds, kind):
    if not is_there(kind):
        pytest.skip(f"no server for {kind} was found")
    tried([kind], grounds, 12)


def test_the_same_history_has_the_same_outcome_on_every_layer(grounds):
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

    def __init__(self, layer):
        self.layer = layer

    def __getattr__(self, name):
        return getattr(self.layer, name)


class TakesOverWhateverLapsed(Wrong):
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
        held = self.layer._records.get(claim.storage_key)
        if held is not None and held.frame.token == claim.token and held.frame.status is Status.COMPLETED:
            self.layer._records[claim.storage_key] = replace(held, frame=replace(held.frame, result=result or b""))
        return self.layer.complete(claim, result)


class CreatesWhatIsGone(Wrong):
    def complete(self, claim, result):
        outcome = self.layer.complete(claim, result)
        if outcome == Lost(None):
            self.layer.acquire(claim)
            self.layer.complete(claim, result)
        return outcome


class ReleasesForAnyone(Wrong):
    def release(self, claim):
        held = self.layer._records.get(claim.storage_key)
        if held is not None and held.frame.status is Status.IN_PROGRESS:
            self.layer._records.pop(claim.storage_key)
            return held.frame.token == claim.token
        return False


class ForgetsTheExpiryOfWhatItExtends(Wrong):
    def extend(self, claim):
        extended = self.layer.extend(claim)
        if extended:
            held = self.layer._records[claim.storage_key]
            self.layer._records[claim.storage_key] = replace(held, expires_ms=held.expires_ms + 10**9)
        return extended


class CountsNoAttempts(Wrong):
    def acquire(self, claim):
        found = self.layer.acquire(claim)
        return Acquired(1) if isinstance(found, Acquired) else found


class TakesATombstoneForAnEmptyResult(Wrong):
    def complete(self, claim, result):
        return self.layer.complete(claim, result or b"")


@pytest.mark.parametrize("wrong", Wrong.__subclasses__())
def test_a_layer_with_a_fault_is_found_out(grounds, wrong):
    with pytest.raises(AssertionError):
        tried(["memory"], grounds, 500, around=wrong, shrinks=False)  # ends with the first that shows it
