"""Servers killed, filled, flushed and evicting, in the small: `make proof` does it at length."""

import pytest

from proof.servers import Amount, made
from tests.proof.showing import needs_servers, shown

pytestmark = [needs_servers, pytest.mark.timeout(180)]


@pytest.mark.fault(5, 6, 16, 20)
def test_what_servers_acknowledged_outlives_them_and_nothing_runs_that_they_can_not_hold():
    amount = Amount(kills=1, writers_killed=2, clients=6, answers=30, flushing_seconds=0.3, held=3)
    figures = shown(made(amount, lambda done, of: None))
    assert len(figures) >= 10
