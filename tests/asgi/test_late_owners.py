"""Rows 48 to 51: lapsed leases, takeovers, late owners, and the heartbeat that prevents them."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from idempotency_mw import HTTPConfig, IdempotencyConfig, current_execution
from idempotency_mw.persistence.memory import MemoryPersistenceLayer
from idempotency_mw.testing import ManualClock
from tests.asgi.driver import Play, until
from tests.asgi.layers import AroundLayer, HookedLayer
from tests.asgi.scenario import BROKEN, NO_HEARTBEAT
from tests.memory import rewrite_results

# A lapsed lease.


def noting(notes: list[Any], gates: list[asyncio.Event | None]) -> Any:
    """A play that notes the execution of each run; the n-th run waits for the n-th gate."""

    def play(_: bytes) -> Play:
        execution = current_execution()
        notes.append((execution.attempt, execution.previous_unfinished))
        number = len(notes)
        gate = gates[number - 1] if number <= len(gates) else None
        return Play(chunks=(f"answer {number}".encode(),), waits_for=gate)

    return play


@pytest.mark.row(48)
@pytest.mark.fault(7)
async def test_one_retry_takes_over_a_lapsed_claim_and_the_others_are_refused(surface, memory, clock):
    notes, dead, busy = [], asyncio.Event(), asyncio.Event()
    service = surface(memory, noting(notes, [dead, busy]), config=NO_HEARTBEAT)
    first = service.conversation().start()
    await until(lambda: len(notes) == 1)
    clock.advance(30)
    retries = [service.conversation().start() for _ in range(5)]
    await until(lambda: sum(each.task.done() for each in retries) == 4)
    busy.set()
    answers = [await each.end() for each in retries]
    assert sorted(answer.status for answer in answers) == [200, 409, 409, 409, 409]
    assert notes == [(1, False), (2, True)]
    dead.set()
    await first.end()


@pytest.mark.row(48)
@pytest.mark.fault(23)
async def test_another_payload_does_not_take_over_a_lapsed_claim(surface, memory, clock):
    dead = asyncio.Event()
    service = surface(memory, Play(waits_for=dead), config=NO_HEARTBEAT)
    first = service.conversation(b'{"a":1}').start()
    await until(lambda: service.runs)
    clock.advance(31)
    assert (await service.request(b'{"a":2}')).slug == "key-reused"
    assert service.runs == 1
    dead.set()
    await first.end()


@pytest.mark.row(49)
@pytest.mark.fault(7)
async def test_with_after_crash_refuse_a_lapsed_claim_is_refused_as_outcome_unknown(surface, memory, clock):
    dead = asyncio.Event()
    config = IdempotencyConfig(after_crash="refuse", heartbeat=False, lease_seconds=30, expires_after_seconds=100)
    service = surface(memory, Play(waits_for=dead), config=config)
    first = service.conversation().start()
    await until(lambda: service.runs)
    assert (await service.request()).slug == "in-progress"
    clock.advance(30)
    answer = (await service.request()).ok()
    assert (answer.status, answer.slug, answer.one("retry-after")) == (409, "outcome-unknown", None)
    assert (await service.request(b'{"b":1}')).slug == "key-reused"
    assert service.runs == 1
    first.task.cancel()
    await asyncio.gather(first.task, return_exceptions=True)
    clock.advance(70)
    dead.set()
    assert (await service.request()).ok().status == 200
    assert service.runs == 2


# A late owner: its lease lapsed and another request, the winner, took over.


async def late(service: Any, clock: ManualClock, gates: list[asyncio.Event], *, finish: bool) -> tuple[Any, Any]:
    """Start an owner, let its lease lapse and a second request take over; return both conversations."""
    owner = service.conversation().start()
    await until(lambda: service.runs == 1)
    clock.advance(31)
    winner = service.conversation().start()
    await until(lambda: service.runs == 2)
    if finish:
        gates[1].set()
        await winner.end()
    return owner, winner


@pytest.mark.row(50)
@pytest.mark.fault(8)
async def test_a_late_owner_gets_the_winners_replay(surface, memory, clock, caplog):
    gates = [asyncio.Event(), asyncio.Event()]
    service = surface(memory, noting([], gates), config=NO_HEARTBEAT)
    owner, winner = await late(service, clock, gates, finish=True)
    gates[0].set()
    answer = (await owner.end()).ok()
    assert (answer.brief(), answer.replayed) == ((200, b"answer 2"), True)
    assert winner.answer.brief() == (200, b"answer 2")
    assert not winner.answer.replayed
    assert (await service.request()).body == b"answer 2"
    assert "claim was lost" in caplog.text


@pytest.mark.row(50)
@pytest.mark.fault(8)
async def test_a_late_owner_whose_winner_still_runs_is_refused(surface, memory, clock):
    gates = [asyncio.Event(), asyncio.Event()]
    service = surface(memory, noting([], gates), config=NO_HEARTBEAT)
    owner, winner = await late(service, clock, gates, finish=False)
    gates[0].set()
    answer = (await owner.end()).ok()
    assert (answer.status, answer.slug) == (409, "in-progress")
    gates[1].set()
    assert (await winner.end()).ok().body == b"answer 2"


@pytest.mark.row(50)
@pytest.mark.fault(8)
async def test_a_late_owner_whose_winner_left_a_tombstone_is_refused(surface, memory, clock):
    gates = [asyncio.Event(), asyncio.Event()]

    def play(body: bytes) -> Play:
        number = service.runs
        return Play(chunks=(b"x" * 100,) if number == 2 else (b"small",), waits_for=gates[number - 1])

    service = surface(memory, play, config=NO_HEARTBEAT, http=HTTPConfig(max_response_body=50))
    owner, _ = await late(service, clock, gates, finish=True)
    gates[0].set()
    answer = (await owner.end()).ok()
    assert (answer.status, answer.slug) == (409, "response-not-kept")


@pytest.mark.row(50)
@pytest.mark.row(52)
async def test_a_late_owner_sends_its_own_answer_if_the_winners_is_unreadable(surface, memory, clock, caplog):
    gates = [asyncio.Event(), asyncio.Event()]
    service = surface(memory, noting([], gates), config=NO_HEARTBEAT)
    owner, _ = await late(service, clock, gates, finish=True)
    rewrite_results(memory, lambda result: b"2" + result[1:])
    gates[0].set()
    # A refusal would tell the client that its request was not carried out.
    answer = (await owner.end()).ok()
    assert (answer.brief(), answer.replayed) == ((200, b"answer 1"), False)
    assert "the late owner's own answer goes out: IdempotencyRecordError" in caplog.text
    assert (await service.request()).slug == "record-unreadable"
    assert service.runs == 2


@pytest.mark.row(50)
@pytest.mark.fault(20)
async def test_a_late_owner_whose_record_is_gone_sends_its_own_answer(surface, memory, clock, caplog):
    gates = [asyncio.Event(), asyncio.Event()]
    service = surface(memory, noting([], gates), config=replace(NO_HEARTBEAT, expires_after_seconds=60))
    owner, _ = await late(service, clock, gates, finish=True)
    clock.advance(61)
    gates[0].set()
    answer = (await owner.end()).ok()
    assert (answer.brief(), answer.replayed) == ((200, b"answer 1"), False)
    assert "claim was lost" in caplog.text
    assert (await service.request()).body == b"answer 3"


@pytest.mark.row(50)
@pytest.mark.fault(8, 20)
async def test_a_late_owner_sends_its_own_answer_if_the_record_has_another_fingerprint(
    surface, memory, clock, caplog
):
    gates = [asyncio.Event(), asyncio.Event()]
    service = surface(memory, noting([], gates), config=replace(NO_HEARTBEAT, expires_after_seconds=60))
    owner = service.conversation(b'{"a":1}').start()
    await until(lambda: service.runs == 1)
    clock.advance(61)
    gates[1].set()
    assert (await service.request(b'{"a":2}')).ok().body == b"answer 2"
    gates[0].set()
    answer = (await owner.end()).ok()
    assert (answer.brief(), answer.replayed) == ((200, b"answer 1"), False)
    assert "claim was lost" in caplog.text
    assert (await service.request(b'{"a":2}')).body == b"answer 2"


@pytest.mark.row(50)
@pytest.mark.fault(8)
@pytest.mark.parametrize("raises", [None, BROKEN], ids=["error status", "exception"])
async def test_a_late_owner_that_releases_sends_its_own_answer_and_keeps_the_winners_record(
    surface, memory, clock, raises
):
    gates = [asyncio.Event(), asyncio.Event()]

    def play(_: bytes) -> Play:
        if service.runs == 1:
            return Play(500, chunks=(b"mine",), waits_for=gates[0], raises=raises)
        return Play(chunks=(b"theirs",), waits_for=gates[1])

    service = surface(memory, play, config=NO_HEARTBEAT)
    owner, _ = await late(service, clock, gates, finish=True)
    gates[0].set()
    answer = await owner.end()
    if raises is None:
        assert answer.ok().brief() == (500, b"mine")
    else:
        assert answer.raised is raises
        assert answer.messages == []
    assert not answer.replayed
    retry = (await service.request()).ok()
    assert (retry.body, retry.replayed) == (b"theirs", True)


@pytest.mark.row(50)
@pytest.mark.fault(8)
async def test_with_stored_errors_a_late_owner_that_failed_gets_the_winners_replay(surface, memory, clock):
    gates = [asyncio.Event(), asyncio.Event()]

    def play(_: bytes) -> Play:
        if service.runs == 1:
            return Play(waits_for=gates[0], raises=BROKEN)
        return Play(chunks=(b"theirs",), waits_for=gates[1])

    service = surface(memory, play, config=replace(NO_HEARTBEAT, on_error="store"))
    owner, _ = await late(service, clock, gates, finish=True)
    gates[0].set()
    answer = await owner.end()
    assert answer.raised is BROKEN
    assert (answer.brief(), answer.replayed, answer.ended) == ((200, b"theirs"), True, True)


@pytest.mark.row(50)
@pytest.mark.fault(8)
@pytest.mark.parametrize("tail", [(b"1", b"2"), (b"1", b"2", b"")], ids=["last with content", "last empty"])
@pytest.mark.parametrize("declared", [True, False])
async def test_a_late_owner_that_has_sent_a_part_finishes_its_own_answer(
    asgi_surface, memory, clock, tail, declared
):
    gate, sent_one = asyncio.Event(), asyncio.Event()
    headers = [(b"content-length", b"2")] if declared else []

    async def app(scope, receive, send):
        service.runs += 1
        number = service.runs
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for index, chunk in enumerate(tail):
            body = chunk.replace(b"1", b"%d" % number)
            await send({"type": "http.response.body", "body": body, "more_body": index + 1 < len(tail)})
            if number == 1 and index == 0:
                sent_one.set()
                await gate.wait()

    service = asgi_surface(memory, config=NO_HEARTBEAT)
    service.app.app = app
    owner = service.conversation().start()
    await sent_one.wait()
    clock.advance(31)
    assert (await service.request()).ok().body == b"22"
    gate.set()
    answer = (await owner.end()).ok()
    assert (answer.brief(), answer.replayed) == ((200, b"12"), False)
    assert (await service.request()).body == b"22"


@pytest.mark.row(50, 74)
async def test_after_the_winners_replay_the_late_app_sends_to_nobody_and_is_told_of_a_disconnect(
    asgi_surface, memory, clock
):
    gates = [asyncio.Event(), asyncio.Event()]
    told = []

    async def app(scope, receive, send):
        service.runs += 1
        number = service.runs
        await receive()
        await gates[number - 1].wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1")]})
        await send({"type": "http.response.body", "body": b"%d" % number, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
        told.append((number, (await receive())["type"]))

    service = asgi_surface(memory, config=NO_HEARTBEAT)
    service.app.app = app
    owner, _ = await late(service, clock, gates, finish=True)
    gates[0].set()
    answer = (await owner.end()).ok()
    assert (answer.brief(), answer.replayed) == ((200, b"2"), True)
    assert told == [(2, "http.disconnect"), (1, "http.disconnect")]


@pytest.mark.row(50)
async def test_a_claim_lost_just_before_the_settling_is_noticed_by_the_settling(surface, memory, clock):
    """Another request takes over between the app's last message and its owner's write."""
    winner = []

    async def meanwhile(claim):
        if not winner:
            winner.append(None)
            clock.advance(31)
            winner[0] = await service.request()

    layer = HookedLayer(memory, complete=meanwhile)
    service = surface(layer, lambda _: Play(chunks=(b"%d" % service.runs,)), config=NO_HEARTBEAT)
    answer = (await service.request()).ok()
    assert (answer.body, answer.replayed) == (b"2", True)
    assert winner[0].body == b"2"


# Long runs.


@pytest.mark.row(51)
async def test_the_heartbeat_keeps_the_lease_of_a_long_run(surface, store):
    gate = asyncio.Event()
    service = surface(store, Play(waits_for=gate), config=IdempotencyConfig(lease_seconds=1.2))
    first = service.conversation().start()
    await until(lambda: service.runs)
    ends = asyncio.get_running_loop().time() + 1.6  # beyond the lease, with a beat every 0.4 s
    refused = []
    while asyncio.get_running_loop().time() < ends:
        refused.append((await service.request()).slug)
        await asyncio.sleep(0.02)
    gate.set()
    assert (await first.end()).ok().brief() == (200, b"done")
    assert set(refused) == {"in-progress"}
    assert store.calls.count("extend") >= 3
    assert service.runs == 1
    beats = store.calls.count("extend")
    await asyncio.sleep(0.5)
    assert store.calls.count("extend") == beats


@pytest.mark.row(51)
async def test_a_run_longer_than_max_execution_seconds_loses_its_lease(surface, memory, caplog):
    layer = AroundLayer(MemoryPersistenceLayer())
    gate = asyncio.Event()
    config = IdempotencyConfig(lease_seconds=0.06, max_execution_seconds=0.03)
    service = surface(layer, Play(waits_for=gate), config=config)
    first = service.conversation().start()
    await until(lambda: "max_execution_seconds" in caplog.text)
    await asyncio.sleep(0.06)
    second = service.conversation().start()
    await until(lambda: service.runs == 2)
    gate.set()
    await first.end()
    await second.end()
