"""Apps that fail or are cancelled, clients that disconnect, and answers that can't be stored."""

import asyncio

import pytest

from idempotency_mw import HTTPConfig
from tests.asgi.driver import until
from tests.asgi.layers import GatedLayer
from tests.faults.rows import shows
from tests.faults.surfaces import Interrupt, Large, Play

BROKEN = RuntimeError("the app broke")


@pytest.mark.parametrize("on_error", ["release", "store"])
@shows(9)
async def test_an_app_that_raises_frees_its_key_or_its_failure_is_stored(place, on_error):
    surface = place.surface(Play(raises=BROKEN), on_error=on_error)
    seen = await surface.send()
    assert seen.raised is BROKEN
    surface.play = Play()
    if on_error == "release":
        assert place.status() is None
        assert (await surface.send()).answer == b"done"
        assert surface.attempts == [1, 1]
    else:
        assert place.status() == "completed"
        assert (await surface.send()).refused == "execution-failed"
        assert surface.runs == 1


@shows(10)
async def test_an_answer_that_broke_off_is_not_stored(place):
    surface = place.surface(Play(chunks=(b"one", b"two", b"three"), raises=BROKEN, raises_after=2))
    seen = await surface.send()
    assert (seen.raised, seen.is_whole) == (BROKEN, False)
    assert place.status() is None
    surface.play = Play()
    assert (await surface.send()).answer == b"done"
    assert surface.runs == 2


@pytest.mark.parametrize("chunks", [(b"whole",), (b"in ", b"several ", b"parts")])
@shows(11)
async def test_a_client_that_disconnects_does_not_stop_the_run_and_its_retry_gets_the_whole_answer(place, chunks):
    surface = place.surface(Play(chunks=chunks))
    gone = {"gone_after": 1} if place.is_async else {"stop_after": 1}
    await surface.send(**gone)
    assert (surface.runs, place.status()) == (1, "completed")
    await place.assert_kept(surface, b"".join(chunks))


@shows(12, surfaces=("asgi", "async function"))
async def test_the_claim_of_a_cancelled_run_lapses(place):
    surface = place.surface(Play(waits_for=asyncio.Event()))
    task = asyncio.ensure_future(surface.send())
    await until(lambda: surface.runs == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await assert_that_it_lapses(place, surface)


@shows(12, surfaces=("wsgi", "function"))
async def test_the_claim_of_an_interrupted_run_lapses(place):
    surface = place.surface(Play(raises=Interrupt()))
    assert isinstance((await surface.send()).raised, Interrupt)
    await assert_that_it_lapses(place, surface)


async def assert_that_it_lapses(place, surface):
    assert place.status() == "in progress"
    surface.play = Play()
    assert (await surface.send()).refused == "in-progress"
    place.store.pass_time(31)
    assert (await surface.send()).answer == b"done"
    assert surface.attempts == [1, 2]


@shows(13)
async def test_a_cancelled_settling_is_finished(place):
    gates = []

    def gated(layer):
        gates.append(GatedLayer(layer, "complete"))
        return gates[0]

    surface = place.surface(around=gated)
    task = asyncio.ensure_future(surface.send())
    await gates[0].reached.wait()
    task.cancel()
    gates[0].gate.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: place.status() == "completed")
    seen = await surface.send()
    assert (seen.answer, seen.replayed, surface.runs) == (b"done", True, 1)


@shows(17)
async def test_an_answer_that_can_not_be_stored_is_delivered_and_duplicates_are_refused(place):
    surface = place.surface(Large(), http=HTTPConfig(max_response_body=20))
    seen = await surface.send()
    assert (seen.answer, seen.replayed) == (b"x" * 40, False)
    assert place.status() == "not kept"
    for _ in range(2):
        assert (await surface.send()).refused == "response-not-kept"
    assert surface.runs == 1
