"""Servers killed, filled, flushed and evicting, in a small size. `make proof` does it at length."""

import pytest

from proof.servers import Amount, made
from tests.proof.holding import all_holding, needs_servers

pytestmark = [needs_servers, pytest.mark.timeout(180)]


@pytest.mark.fault(5, 6, 16, 20)
def test_the_promise_holds_when_servers_are_killed_filled_flushed_and_evicting():
    amount = Amount(kills=1, writers_killed=2, clients=6, answers=30, flushing_seconds=0.3, held=3)
    figures = all_holding(made(amount, lambda done, of: None))
    assert len(figures) >= 10
