"""Owners that are killed, or stopped until their lease has lapsed, as real processes."""

from pathlib import Path

import pytest

from tests.asgi.driver import until
from tests.faults.forking import MOMENTS, ForkServer
from tests.faults.rows import shows

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to watch a process")


@pytest.fixture(scope="session")
def fork_server():
    with ForkServer() as fork_server:
        yield fork_server


@pytest.mark.parametrize("moment", MOMENTS)
@shows(7)
async def test_the_key_of_a_killed_worker_is_taken_over_when_its_lease_lapses(
    place, fork_server, tmp_path, moment
):
    surface = place.surface()
    child = fork_server.run(place.kind, place.store.address(), moment, tmp_path)
    await child.until_dead()
    assert (child.answer, child.effects) == (None, int(moment != "before the effect"))
    assert place.status() == "in progress"
    assert (await surface.send()).refused == "in-progress"
    place.store.pass_time(31)
    seen = await surface.send()
    assert (seen.answer, seen.replayed, surface.attempts) == (b"done", False, [2])
    await place.assert_kept(surface, b"done")


@shows(7)
async def test_with_after_crash_refuse_the_outcome_of_a_killed_worker_is_unknown(place, fork_server, tmp_path):
    surface = place.surface(after_crash="refuse")
    child = fork_server.run(place.kind, place.store.address(), "after the effect", tmp_path)
    await child.until_dead()
    assert (await surface.send()).refused == "in-progress"
    place.store.pass_time(31)
    left = place.store.records()
    assert (await surface.send()).refused == "outcome-unknown"
    assert (surface.runs, place.store.records()) == (0, left)


@shows(8)
async def test_the_client_of_a_worker_stopped_past_its_lease_gets_the_winners_answer(place, fork_server, tmp_path):
    surface = place.surface()
    child = fork_server.run(place.kind, place.store.address(), "stopped", tmp_path)
    await child.until_stopped()
    place.store.pass_time(31)
    seen = await surface.send()
    assert (seen.answer, surface.attempts, child.effects) == (b"done", [2], 1)
    winner = place.store.records()
    child.resume()
    await until(lambda: child.answer is not None, within=20)
    assert child.answer == {"answer": "done", "replayed": True}
    assert place.store.records() == winner
