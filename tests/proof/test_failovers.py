"""Failovers and slots on the move, in the small: `make proof` does it at length."""

import pytest

from proof.failovers import Amount, made
from tests.proof.showing import needs_servers, shown

pytestmark = [needs_servers, pytest.mark.timeout(180)]


@pytest.mark.fault(18, 19, 21)
def test_failovers_and_moving_slots_are_survived():
    amount = Amount(failovers=1, slots=60, clients=8)
    figures = shown(made(amount, lambda done, of: None, kinds=("Sentinel",)))
    assert len(figures) == 7
