"""Herds of duplicates from several processes at once, in the small: `make proof` does it at length."""

import pytest

from proof.herd import Form, bounded, made
from proof.stage.herds import Herd
from tests.proof.showing import needs_servers, shown

pytestmark = [needs_servers, pytest.mark.timeout(180)]


@pytest.mark.fault(24)
@pytest.mark.parametrize("config", [{}, {"wait_seconds": 30}], ids=["told 409", "waiting"])
def test_of_a_herd_from_four_processes_one_runs_a_key_and_all_get_its_answer(config):
    form = Form("small", config, Herd("small", keys=5, duplicates=52, processes=4, at_once=5))
    assert len(shown(made((form,), lambda done, of: None, longest=40))) == 4


@pytest.mark.fault(24)
def test_beyond_the_waiters_that_are_allowed_a_duplicate_is_told_at_once():
    shown([bounded(keys=2, duplicates=30, waiters=5)])
