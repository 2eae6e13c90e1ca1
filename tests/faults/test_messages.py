"""Messages between a layer and its servers that are lost or late, and servers that answer with an error."""

import asyncio
import time

import pytest

from idempotency_mw.core.record import Claim, Operation
from idempotency_mw.persistence.redis import commands
from tests.asgi.driver import until
from tests.faults.rows import shows
from tests.faults.stores import PATIENCE
from tests.faults.surfaces import Play

VERB = b"EVAL"  # also in EVALSHA; every verb is one of the two
SCRIPT = commands.acquire("", Claim(Operation("", ""), "", 1, 1)).script
ACQUIRE = SCRIPT.sha.encode()
HASTY = 0.15
IN_DOUBT = 0.5
"""The deadline of an acquire that the server must hear, and whose answer must not come."""
SLACK = 0.1 + 2.0
"""A tenth of a second by the contract, and two for a busy machine. Without a deadline a server that hangs would
never answer; that layers keep theirs to a tenth of a second is measured in tests/persistence."""


def error(text: str) -> dict[str, object]:
    return {"action": "answer request", "reply": f"-{text}\r\n".encode(), "times": None}


DOWN = {
    "unreachable": {"action": "cut request", "times": None},
    "hanging": {"action": "hang request", "times": None},
    "loading": error("LOADING Redis is loading the dataset in memory"),
    "a replica": error("READONLY You can't write against a read only replica."),
    "cluster down": error("CLUSTERDOWN The cluster is down"),
}


async def hasty(place):
    """Return a surface with a short deadline, over a connected layer and an empty store. Its app ran once."""
    surface = place.surface()
    await surface.send(key="before")
    surface.layer.timeout_seconds = HASTY
    place.store.lose()
    place.store.load_script(SCRIPT.text)
    return surface


@pytest.mark.parametrize("how", DOWN)
@shows(1)
async def test_requests_are_refused_in_time_if_the_store_can_not_serve(place, how):
    surface = await hasty(place)
    place.store.when(VERB, **DOWN[how])
    began = time.monotonic()
    seen = await surface.send()
    took = time.monotonic() - began
    assert (seen.refused, surface.runs) == ("store-unavailable", 1)
    assert took < HASTY + SLACK
    place.store.pass_all()
    assert place.status() is None
    assert (await place.surface().send()).answer == b"done"


@pytest.mark.parametrize("action", ["cut request", "cut reply", "delay reply", "delay request"])
@shows(2, 3)
async def test_an_acquire_whose_request_or_reply_is_lost_or_late_is_repeated(place, action):
    surface = place.surface()
    await surface.send(key="before")  # connects, and loads the scripts
    place.store.lose()
    place.store.when(VERB, action, seconds=0.05)
    seen = await surface.send()
    assert (seen.answer, seen.replayed) == (b"done", False)
    assert surface.attempts == [1, 1]
    assert place.status() == "completed"
    await place.assert_kept(surface, b"done")


@shows(4)
async def test_an_acquire_in_doubt_is_refused_and_then_released(place):
    surface = await hasty(place)
    surface.layer.timeout_seconds = IN_DOUBT
    place.store.when(ACQUIRE, "hang reply", times=None)  # not once: a layer may ask again in time
    met = place.store.times_met()
    sending = asyncio.ensure_future(surface.send())
    await until(lambda: place.store.times_met() > met)
    surface.layer.timeout_seconds = PATIENCE  # for the release: a busy machine may take long to connect anew
    seen = await sending
    assert (seen.refused, surface.runs) == ("store-unavailable", 1)
    await until(lambda: place.status() is None)
    place.store.pass_all()
    assert (await place.surface().send()).answer == b"done"


@shows(4)
async def test_an_acquire_in_doubt_that_can_not_be_released_lapses(place):
    patient, surface = place.surface(), await hasty(place)
    surface.layer.timeout_seconds = IN_DOUBT
    place.store.when(VERB, "hang reply", times=1)
    place.store.when(VERB, "cut request", times=None)  # its release
    assert (await surface.send()).refused == "store-unavailable"
    await place.until_released(surface)
    assert place.status() == "in progress"
    place.store.pass_all()
    assert (await patient.send()).refused == "in-progress"
    place.store.pass_time(31)
    seen = await patient.send()
    assert (seen.answer, patient.attempts, surface.runs) == (b"done", [2], 1)


@shows(6)
async def test_a_client_does_not_notice_that_the_scripts_were_lost_before_any_verb(place):
    surface = place.surface(Play(seen=lambda body: place.store.forget_scripts()))
    place.store.forget_scripts()
    seen = await surface.send()
    assert (seen.answer, seen.replayed, surface.attempts) == (b"done", False, [1])
    place.store.forget_scripts()
    await place.assert_kept(surface, b"done")


@shows(14)
async def test_a_complete_whose_reply_was_lost_is_repeated(place):
    surface = place.surface(Play(seen=lambda body: place.store.when(VERB, "cut reply")))
    seen = await surface.send()
    assert (seen.answer, seen.replayed, surface.runs) == (b"done", False, 1)
    assert place.status() == "completed"
    await place.assert_kept(surface, b"done")


@pytest.mark.parametrize("how", ["unreachable", "hanging"])
@shows(15)
async def test_a_client_gets_its_answer_if_the_store_is_down_at_complete_and_that_is_reported(place, how, caplog):
    def fail(body):
        surface.layer.timeout_seconds = HASTY
        place.store.when(VERB, **DOWN[how])

    surface = place.surface(Play(seen=fail))
    seen = await surface.send()
    assert (seen.answer, surface.runs) == (b"done", 1)
    assert "complete failed; the lease has to lapse" in caplog.text
    assert place.status() == "in progress"
    place.store.pass_all()
    other = place.surface()
    assert (await other.send()).refused == "in-progress"
    place.store.pass_time(31)
    assert (await other.send()).answer == b"done"
    assert other.attempts == [2]


@shows(5)
async def test_a_full_server_refuses_new_requests_and_replays_completed_ones(place):
    surface = place.surface()
    await surface.send(key="before")
    place.store.fill()
    try:
        seen = await surface.send()
        assert (seen.refused, surface.runs) == ("store-unavailable", 1)
        assert place.status() == "completed"  # the request "before"
        await place.assert_kept(surface, b"done", key="before")
    finally:
        place.store.empty()
    assert (await surface.send()).answer == b"done"


@shows(16)
async def test_a_server_that_is_full_at_complete_stores_the_answer(place):
    surface = place.surface(Play(seen=lambda body: place.store.fill()))
    try:
        seen = await surface.send()
        assert (seen.answer, surface.runs) == (b"done", 1)
        assert place.status() == "completed"
        await place.assert_kept(surface, b"done")
    finally:
        place.store.empty()
