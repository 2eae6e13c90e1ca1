"""Records that are lost, unreadable or of another request, parallel duplicates, and SQLite's own faults."""

import asyncio
import threading
import time

import pytest

from tests.asgi.driver import until
from tests.faults.rows import shows
from tests.faults.surfaces import Play


@shows(20)
async def test_a_lost_record_is_not_created_again_by_its_completion_and_its_key_is_free(place, caplog):
    surface = place.surface(Play(seen=lambda body: place.store.lose()))
    seen = await surface.send()
    assert (seen.answer, seen.replayed) == (b"done", False)
    assert place.status() is None
    assert "claim was lost" in caplog.text
    surface.play = Play()
    assert (await surface.send()).answer == b"done"
    assert surface.attempts == [1, 1]
    await place.assert_kept(surface, b"done")


@pytest.mark.parametrize("policy", ["refuse", "pass"])
@shows(22)
async def test_an_unreadable_record_is_refused_and_left_as_it_is(place, policy):
    surface = place.surface(on_store_failure=policy)
    await surface.send()
    ((storage_key, record),) = place.store.records().items()
    for data in (b"", b"{}", record[:118], b"2" + record[1:], b"\xff" * 200):
        place.store.plant(storage_key, data)
        assert (await surface.send()).refused == "record-unreadable"
        assert place.store.records() == {storage_key: data}
    assert surface.runs == 1


@shows(23)
async def test_another_payload_is_refused_in_every_state_and_changes_nothing(place):
    gate = asyncio.Event()
    surface = place.surface(Play(waits_for=gate))
    first = asyncio.ensure_future(surface.send(b'"one"'))
    await until(lambda: surface.runs == 1)
    running = place.store.records()
    assert (await surface.send(b'"other"')).refused == "key-reused"
    assert place.store.records() == running
    gate.set()
    assert (await first).answer == b"done"
    completed = place.store.records()
    assert (await surface.send(b'"other"')).refused == "key-reused"
    assert place.store.records() == completed
    assert surface.runs == 1


@pytest.mark.parametrize("wait_seconds", [0, 20])
@shows(24)
async def test_one_of_many_duplicates_runs_and_the_others_are_refused_or_get_its_answer(place, wait_seconds):
    gate = asyncio.Event()
    surface = place.surface(Play(waits_for=gate), wait_seconds=wait_seconds)
    first = asyncio.ensure_future(surface.send())
    await until(lambda: surface.runs == 1)
    others = [asyncio.ensure_future(surface.send()) for _ in range(8)]
    if wait_seconds:
        await asyncio.sleep(0)
        gate.set()
        seen = await asyncio.gather(*others)
        assert {(each.answer, each.replayed) for each in seen} == {(b"done", True)}
    else:
        seen = await asyncio.gather(*others)
        assert {each.refused for each in seen} == {"in-progress"}
        gate.set()
    assert (await first).answer == b"done"
    assert surface.runs == 1
    await place.assert_kept(surface, b"done")


@pytest.mark.parametrize("hours", [1, -1])
@shows(26)
async def test_an_app_whose_clock_is_an_hour_off_behaves_like_the_others(place, hours, monkeypatch):
    gate = asyncio.Event()
    surface, other = place.surface(Play(waits_for=gate)), place.surface()
    first = asyncio.ensure_future(surface.send())
    await until(lambda: surface.runs == 1)
    right = time.time
    monkeypatch.setattr(time, "time", lambda: right() + 3600 * hours)
    assert (await other.send()).refused == "in-progress"
    gate.set()
    assert (await first).answer == b"done"
    seen = await other.send()
    assert (seen.answer, seen.replayed, other.runs) == (b"done", True, 0)
    monkeypatch.undo()
    await place.assert_kept(surface, b"done")


# Faults of SQLite.


@shows(25)
async def test_requests_are_refused_in_time_while_the_file_is_locked(place):
    surface = place.surface(timeout_seconds=0.2)
    with place.store.busy():
        began = time.monotonic()
        assert (await surface.send()).refused == "store-unavailable"
        # Two seconds are for a busy machine: test_sqlite.py measures that the deadline is kept to a tenth of one.
        assert time.monotonic() - began < 0.2 + 0.1 + 2.0
    assert (surface.runs, place.status()) == (0, None)
    assert (await place.surface().send()).answer == b"done"


@shows(25)
async def test_requests_are_refused_if_the_file_can_not_be_written(place):
    surface = place.surface()
    await surface.send(key="before")
    place.store.lose()
    with place.store.read_only():
        assert (await surface.send()).refused == "store-unavailable"
    assert (surface.runs, place.status()) == (1, None)
    assert (await place.surface().send()).answer == b"done"


class TellsOfItsEnd:
    """Passes the verbs on; `completed` is set when a complete has ended, also if it failed."""

    def __init__(self, layer):
        self.acquire, self.extend, self.release = layer.acquire, layer.extend, layer.release
        self.timeout_seconds = layer.timeout_seconds
        self.completed = threading.Event()
        self._complete = layer.complete

    def complete(self, claim, result):
        try:
            return self._complete(claim, result)
        finally:
            self.completed.set()


@pytest.mark.parametrize("how", ["busy", "read_only", "full"])
@shows(25)
async def test_a_client_gets_its_answer_if_the_file_fails_at_complete_and_that_is_reported(place, how, caplog):
    body = b"x" * 200_000
    fault = getattr(place.store, how)()
    layers = []

    def watched(layer):
        layers.append(TellsOfItsEnd(layer))
        return layers[0]

    play = Play(seen=lambda body: fault.__enter__(), chunks=(body,))
    surface = place.surface(play, timeout_seconds=0.5, around=watched)
    try:
        seen = await surface.send()
        # A client's deadline may pass before that of the thread that completes.
        await asyncio.to_thread(layers[0].completed.wait, 20)
    finally:
        fault.__exit__(None, None, None)
    assert (seen.answer, surface.runs) == (body, 1)
    assert "complete failed; the lease has to lapse" in caplog.text
    assert place.status() == "in progress"
    other = place.surface()
    assert (await other.send()).refused == "in-progress"
    place.store.pass_time(31)
    assert (await other.send()).answer == b"done"
    assert other.attempts == [2]
