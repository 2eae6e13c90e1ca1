"""Herds of duplicates from several processes at once, in a small size. `make proof` does it at length."""

import pytest

from proof.herd import Form, bounded, made
from proof.stage.herds import Herd
from tests.proof.holding import all_holding, needs_servers

pytestmark = [needs_servers, pytest.mark.timeout(180)]


@pytest.mark.fault(24)
@pytest.mark.parametrize("config", [{}, {"wait_seconds": 30}], ids=["asking again", "waiting"])
def test_each_key_of_a_herd_from_four_processes_runs_once_and_all_get_its_answer(config):
    form = Form("small", config, Herd("small", keys=5, duplicates=52, processes=4, at_once=5))
    assert len(all_holding(made((form,), lambda done, of: None, longest=40))) == 4


@pytest.mark.fault(24)
def test_a_duplicate_beyond_max_waiters_is_refused_at_once():
    all_holding([bounded(keys=2, duplicates=30, waiters=5)])
