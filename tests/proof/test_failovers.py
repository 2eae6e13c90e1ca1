"""Failovers and moving slots, in a small size. `make proof` does it at length."""

import pytest

from proof.failovers import Amount, made
from tests.proof.holding import all_holding, needs_servers

pytestmark = [needs_servers, pytest.mark.timeout(180)]


@pytest.mark.fault(18, 19, 21)
def test_the_promise_holds_through_failovers_and_moving_slots():
    amount = Amount(failovers=1, slots=60, clients=8)
    figures = all_holding(made(amount, lambda done, of: None, kinds=("Sentinel",)))
    assert len(figures) == 7
