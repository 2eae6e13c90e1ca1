"""Rows 34 to 55: the machine, seen from outside."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from idempotency_mw import HTTPConfig, IdempotencyConfig, current_execution
from idempotency_mw.core.record import Acquired, Claim, Existing, Operation, Status
from idempotency_mw.persistence.memory import MemoryPersistenceLayer
from tests.asgi.driver import Answer, ManualClock, Play, perform, until
from tests.asgi.layers import AroundLayer, GatedLayer, HookedLayer, SlowLayer

STORE_ERRORS = IdempotencyConfig(on_error="store")
BROKEN = RuntimeError("the app broke")


def record_of(layer: Any, claim: Claim) -> Any:
    """Return what stands under the claim's key, None for nothing; the store is unchanged."""
    probe = Claim(Operation(claim.storage_key, "0" * 64), "f" * 32, 1000, 1000, may_take_over=False)
    found = layer.acquire(probe)
    if isinstance(found, Existing):
        return found.record
    layer.release(probe)
    return None


async def arecord_of(layer: AroundLayer) -> Any:
    """As `record_of`, for the key that the layer's first claim had."""
    claim = layer.claims[0]
    probe = Claim(Operation(claim.storage_key, "0" * 64), "f" * 32, 1000, 1000, may_take_over=False)
    found = await layer.inner.acquire(probe)
    if isinstance(found, Existing):
        return found.record
    await layer.inner.release(probe)
    return None


@pytest.mark.row(34)
async def test_a_first_request_costs_one_acquire_and_one_complete_and_is_unmarked(surface, store):
    service = surface(store)
    answer = (await service.request()).ok()
    assert answer.brief() == (200, b"done")
    assert not answer.all("idempotent-replayed")
    assert store.calls == ["acquire", "complete"]
    assert service.runs == 1
    assert (await arecord_of(store)).status is Status.COMPLETED


@pytest.mark.row(35)
async def test_a_retry_replays_in_one_round_trip(surface, store):
    play = Play(201, ((b"content-type", b"application/json"), (b"x-made", b"7")), (b'{"a":', b"1}"))
    service = surface(store, play)
    first = (await service.request()).ok()
    before = await arecord_of(store)
    store.calls.clear()
    retry = (await service.request()).ok()
    assert retry.brief() == first.brief() == (201, b'{"a":1}')
    assert retry.one("content-type") == "application/json"
    assert retry.one("x-made") == "7"
    assert retry.one("idempotent-replayed") == "true"
    assert retry.one("content-length") == "7"
    assert store.calls == ["acquire"]
    assert service.runs == 1
    assert (await arecord_of(store)).result == before.result


@pytest.mark.row(35, 47)
async def test_a_replay_does_not_move_the_expiry(surface, memory, clock):
    service = surface(memory, config=IdempotencyConfig(expires_after_seconds=100))
    await service.request()
    clock.advance(99)
    assert (await service.request()).replayed
    clock.advance(1.1)
    answer = (await service.request()).ok()
    assert not answer.replayed
    assert service.runs == 2


@pytest.mark.row(47)
async def test_an_expired_record_is_as_none_even_for_another_payload(surface, memory, clock):
    service = surface(memory, config=IdempotencyConfig(expires_after_seconds=100))
    await service.request(b'{"a":1}')
    clock.advance(100)
    assert (await service.request(b'{"a":2}')).ok().brief() == (200, b"done")
    assert service.runs == 2


@pytest.mark.row(36)
@pytest.mark.fault(23)
async def test_another_payload_after_completion_is_refused_and_nothing_leaks(surface, store):
    service = surface(store, Play(200, ((b"x-secret", b"tenant-7"),), (b"the stored answer",)))
    await service.request(b'{"amount":1}')
    before = await arecord_of(store)
    answer = (await service.request(b'{"amount":2}')).ok()
    assert (answer.status, answer.slug) == (422, "key-reused")
    assert b"stored answer" not in answer.body
    assert answer.all("x-secret") == []
    assert service.runs == 1
    assert (await arecord_of(store)).result == before.result


@pytest.mark.row(37, 38)
@pytest.mark.fault(24)
async def test_a_duplicate_in_progress_is_refused_and_a_mismatch_beats_that(surface, store):
    gate = asyncio.Event()
    service = surface(store, Play(waits_for=gate), config=IdempotencyConfig(lease_seconds=30))
    first = service.conversation(b'{"a":1}').start()
    await until(lambda: service.runs)
    duplicate = (await service.request(b'{"a":1}')).ok()
    assert (duplicate.status, duplicate.slug) == (409, "in-progress")
    assert 1 <= int(duplicate.one("retry-after") or 0) <= 30
    other = (await service.request(b'{"a":2}')).ok()
    assert (other.status, other.slug) == (422, "key-reused")
    assert other.one("retry-after") is None
    assert service.runs == 1
    gate.set()
    assert (await first.end()).ok().brief() == (200, b"done")
    assert (await service.request(b'{"a":1}')).replayed


@pytest.mark.row(37)
@pytest.mark.parametrize(("passed", "most"), [(0, 30), (28.5, 2), (29.9, 1), (0.001, 30)])
async def test_retry_after_is_at_least_one_and_at_most_the_rest_of_the_lease(surface, memory, clock, passed, most):
    gate = asyncio.Event()
    service = surface(memory, Play(waits_for=gate), config=IdempotencyConfig(lease_seconds=30, heartbeat=False))
    first = service.conversation().start()
    await until(lambda: service.runs)
    clock.advance(passed)
    assert 1 <= int((await service.request()).one("retry-after") or 0) <= most
    gate.set()
    await first.end()


@pytest.mark.row(39)
@pytest.mark.fault(24)
async def test_of_parallel_duplicates_one_runs(surface, store):
    gate = asyncio.Event()
    service = surface(store, Play(waits_for=gate))
    conversations = [service.conversation().start() for _ in range(20)]
    await until(lambda: sum(each.task.done() for each in conversations) == 19)
    gate.set()
    answers = [await each.end() for each in conversations]
    assert sorted(answer.status for answer in answers) == [200] + 19 * [409]
    assert service.runs == 1


@pytest.mark.row(39)
@pytest.mark.fault(24)
async def test_of_parallel_duplicates_that_wait_all_get_the_one_answer(surface, store):
    gate = asyncio.Event()
    service = surface(store, Play(waits_for=gate), config=IdempotencyConfig(wait_seconds=5))
    conversations = [service.conversation().start() for _ in range(10)]
    await until(lambda: service.runs and store.calls.count("acquire") >= 10)
    gate.set()
    answers = [(await each.end()).ok() for each in conversations]
    assert {answer.brief() for answer in answers} == {(200, b"done")}
    assert sum(answer.replayed for answer in answers) == 9
    assert service.runs == 1


STORABLE = [
    Play(200),
    Play(201, ((b"content-length", b"4"),)),
    Play(204, (), (b"",)),
    Play(303, ((b"location", b"/other"),), (b"",)),
    Play(200, ((b"content-type", b"application/octet-stream"),), (b"\x00\xff", b"\x80", b"")),
    Play(200, ((b"content-length", b"0"),), (b"",)),
    Play(200, (), (b"",)),
    Play(399, (), (b"", b"", b"x")),
]


@pytest.mark.row(40)
@pytest.mark.parametrize("play", STORABLE, ids=lambda play: f"{play.status}-{len(play.chunks)}")
async def test_success_and_redirection_of_every_form_are_kept(surface, store, play):
    service = surface(store, play)
    first = (await service.request()).ok()
    retry = (await service.request()).ok()
    assert first.brief() == retry.brief() == (play.status, b"".join(play.chunks))
    assert (first.replayed, retry.replayed, service.runs) == (False, True, 1)


@pytest.mark.row(41)
@pytest.mark.parametrize("status", [400, 404, 409, 422, 429, 500, 503, 599])
async def test_an_error_status_frees_the_key(surface, store, status):
    service = surface(store, Play(status))
    assert (await service.request()).ok().brief() == (status, b"done")
    assert store.calls == ["acquire", "release"]
    assert await arecord_of(store) is None
    retry = (await service.request()).ok()
    assert (retry.status, retry.replayed, service.runs) == (status, False, 2)


@pytest.mark.row(41)
@pytest.mark.parametrize("status", [404, 500])
async def test_an_error_status_is_the_answer_where_errors_are_stored(surface, store, status):
    service = surface(store, Play(status), config=STORE_ERRORS)
    await service.request()
    retry = (await service.request()).ok()
    assert (retry.brief(), retry.replayed, service.runs) == ((status, b"done"), True, 1)


@pytest.mark.row(42)
@pytest.mark.fault(9)
async def test_an_exception_before_the_response_frees_the_key_and_goes_on_unchanged(surface, store):
    service = surface(store, Play(raises=BROKEN))
    answer = await service.request()
    assert answer.raised is BROKEN
    assert answer.messages == []
    assert store.calls == ["acquire", "release"]
    assert await arecord_of(store) is None
    await service.request()
    assert service.runs == 2


@pytest.mark.row(42)
@pytest.mark.fault(9)
async def test_an_exception_is_a_stored_failure_where_errors_are_stored(surface, store):
    service = surface(store, Play(raises=BROKEN), config=STORE_ERRORS)
    answer = await service.request()
    assert answer.raised is BROKEN
    assert answer.messages == []
    retry = (await service.request()).ok()
    assert (retry.status, retry.slug, retry.replayed, service.runs) == (500, "execution-failed", True, 1)
    assert b"broke" not in retry.body


@pytest.mark.row(42, 44)
@pytest.mark.fault(10)
@pytest.mark.parametrize("kind", [KeyError, ExceptionGroup])
async def test_an_exception_after_the_start_alone_frees_the_key(surface, store, kind):
    error = kind("several", [BROKEN]) if kind is ExceptionGroup else kind("x")
    service = surface(store, Play(raises=error, raises_after=0))
    answer = await service.request()
    assert answer.raised is error
    assert answer.messages == []
    assert await arecord_of(store) is None


WHOLE_BEFORE = [
    Play(200, ((b"content-length", b"4"),), (b"do", b"ne"), BROKEN, 2),
    Play(200, ((b"content-length", b"4"),), (b"do", b"ne", b""), BROKEN, 2),
    Play(200, (), (b"done",), BROKEN, 1),
]


@pytest.mark.row(43)
@pytest.mark.parametrize("play", WHOLE_BEFORE, ids=["declared", "declared, end not sent", "one message"])
async def test_an_exception_after_a_whole_response_leaves_the_record_and_goes_on(surface, store, play):
    service = surface(store, play)
    answer = await service.request()
    assert answer.raised is BROKEN
    assert answer.brief() == (200, b"done")
    retry = (await service.request()).ok()
    assert (retry.brief(), retry.replayed, service.runs) == ((200, b"done"), True, 1)


PARTS = [
    Play(200, (), (b"do", b"ne"), BROKEN, 1),
    Play(200, ((b"content-length", b"4"),), (b"do", b"ne"), BROKEN, 1),
    Play(200, ((b"content-length", b"4"),), (b"", b"done"), BROKEN, 1),
]


@pytest.mark.row(44)
@pytest.mark.fault(10)
@pytest.mark.parametrize("play", PARTS, ids=["undeclared", "declared", "declared, empty"])
async def test_an_exception_in_mid_body_never_keeps_a_part(surface, store, play):
    service = surface(store, play)
    answer = await service.request()
    assert answer.raised is BROKEN
    assert answer.brief() == surface.broken_off_after_one(play)
    assert not answer.ended
    assert await arecord_of(store) is None


@pytest.mark.row(44)
@pytest.mark.fault(10)
@pytest.mark.parametrize("play", PARTS, ids=["undeclared", "declared", "declared, empty"])
async def test_an_exception_in_mid_body_is_a_stored_failure_where_errors_are_stored(surface, store, play):
    service = surface(store, play, config=STORE_ERRORS)
    assert (await service.request()).brief() == surface.broken_off_after_one(play)
    retry = (await service.request()).ok()
    assert (retry.status, retry.slug, retry.replayed, service.runs) == (500, "execution-failed", True, 1)


def returning(chunks: tuple[bytes, ...], headers: tuple[tuple[bytes, bytes], ...] = ()) -> Any:
    """An app that sends these chunks, none of them the last, and returns."""

    async def app(scope, receive, send):
        await receive()
        app.runs += 1
        await send({"type": "http.response.start", "status": 200, "headers": list(headers)})
        for chunk in chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})

    app.runs = 0
    return app


@pytest.mark.row(44)
@pytest.mark.fault(10)
@pytest.mark.parametrize("on_error", ["release", "store"])
@pytest.mark.parametrize(
    ("chunks", "headers"), [((b"do",), ()), ((b"do",), ((b"content-length", b"4"),)), ((), ())], ids=str
)
async def test_a_return_in_mid_body_never_keeps_a_part(asgi_surface, store, chunks, headers, on_error):
    service = asgi_surface(store, config=IdempotencyConfig(on_error=on_error))
    service.app.app = returning(chunks, headers)
    answer = await service.request()
    assert (answer.status, answer.body, answer.ended) == (200, b"".join(chunks), False)
    record = await arecord_of(store)
    if on_error == "release":
        assert record is None
    else:
        assert (await service.request()).slug == "execution-failed"


@pytest.mark.row(44, 45)
async def test_a_last_message_short_of_the_declared_length_is_not_whole(asgi_surface, store):
    service = asgi_surface(store, Play(200, ((b"content-length", b"9"),), (b"do", b"ne")))
    answer = await service.request()
    assert "less body" in str(answer.raised)
    assert await arecord_of(store) is None


@pytest.mark.row(44)
async def test_more_body_than_declared_is_not_whole(asgi_surface, store):
    service = asgi_surface(store, Play(200, ((b"content-length", b"3"),), (b"done",)))
    assert "more body" in str((await service.request()).raised)
    assert await arecord_of(store) is None


@pytest.mark.row(46)
@pytest.mark.parametrize("on_error", ["release", "store"])
async def test_a_return_without_a_response_is_a_failure(asgi_surface, store, on_error):
    async def silent(scope, receive, send):
        silent.runs += 1

    silent.runs = 0
    service = asgi_surface(store, config=IdempotencyConfig(on_error=on_error))
    service.app.app = silent
    answer = await service.request()
    assert (answer.raised, answer.messages) == (None, [])
    retry = await service.request()
    if on_error == "release":
        assert (retry.messages, silent.runs) == ([], 2)
    else:
        assert (retry.status, retry.slug, silent.runs) == (500, "execution-failed", 1)


# A lapsed lease.


def noting(notes: list[Any], gates: list[asyncio.Event | None]) -> Any:
    """A play that notes the execution of each run, and lets the n-th one wait for the n-th gate."""

    def play(_: bytes) -> Play:
        execution = current_execution()
        notes.append((execution.attempt, execution.previous_unfinished))
        number = len(notes)
        gate = gates[number - 1] if number <= len(gates) else None
        return Play(chunks=(f"answer {number}".encode(),), waits_for=gate)

    return play


NO_HEARTBEAT = IdempotencyConfig(lease_seconds=30, heartbeat=False)


@pytest.mark.row(48)
@pytest.mark.fault(7)
async def test_after_a_lapse_one_retry_takes_over_and_the_others_are_refused(surface, memory, clock):
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
async def test_after_a_lapse_another_payload_is_still_refused(surface, memory, clock):
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
async def test_after_a_lapse_the_outcome_is_unknown_where_that_was_chosen(surface, memory, clock):
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


# A late owner: its lease lapsed, and another request took over.


async def late(service: Any, clock: ManualClock, gates: list[asyncio.Event], *, finish: bool) -> tuple[Any, Any]:
    """Start an owner, let its lease lapse, and let a second take over; return both conversations."""
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
async def test_a_late_owner_whose_winners_answer_can_not_be_read_gives_its_own(surface, memory, clock, caplog):
    gates = [asyncio.Event(), asyncio.Event()]
    service = surface(memory, noting([], gates), config=NO_HEARTBEAT)
    owner, _ = await late(service, clock, gates, finish=True)
    (write,) = memory._records.values()
    object.__setattr__(write.frame, "result", b"2" + write.frame.result[1:])
    gates[0].set()
    # A refusal would say that it was not carried out.
    answer = (await owner.end()).ok()
    assert (answer.brief(), answer.replayed) == ((200, b"answer 1"), False)
    assert "the late owner's own answer goes out: IdempotencyRecordError" in caplog.text
    assert (await service.request()).slug == "record-unreadable"
    assert service.runs == 2


@pytest.mark.row(50)
@pytest.mark.fault(20)
async def test_a_late_owner_whose_record_is_gone_gives_its_own_answer(surface, memory, clock, caplog):
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
async def test_a_late_owner_whose_key_has_another_fingerprint_gives_its_own_answer(surface, memory, clock, caplog):
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
async def test_a_late_owner_that_releases_gives_its_own_answer_and_leaves_the_winners(
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
async def test_a_late_owner_that_failed_gets_the_winners_replay_where_errors_are_stored(surface, memory, clock):
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
async def test_a_late_owner_that_has_sent_a_part_goes_on_with_its_own(asgi_surface, memory, clock, tail, declared):
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
async def test_a_replaced_apps_later_messages_are_swallowed_and_its_receive_ends(asgi_surface, memory, clock):
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
async def test_a_claim_lost_between_the_last_message_and_the_settling_is_found_there(surface, memory, clock):
    """The take-over falls between the app's answer and the write of its owner."""
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


# A long run.


@pytest.mark.row(51)
async def test_a_heartbeat_keeps_the_lease_of_a_long_run(surface, store):
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
async def test_a_run_over_its_longest_time_loses_its_lease(surface, memory, caplog):
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


# Records that no one can read.


@pytest.mark.row(52)
@pytest.mark.fault(22)
@pytest.mark.parametrize("policy", ["refuse", "pass"])
@pytest.mark.parametrize(
    "value", [b"", b"9" * 150, b"hello", b"1P" + b"z" * 117], ids=["empty", "version", "short", "mangled"]
)
async def test_an_unreadable_record_is_refused_and_left_alone(surface, any_server, value, policy):
    from idempotency_mw.persistence.redis import AsyncRedisPersistenceLayer

    async with AsyncRedisPersistenceLayer.from_url(any_server.url, key_prefix="unreadable:") as layer:
        around = AroundLayer(layer)
        service = surface(around, config=IdempotencyConfig(on_store_failure=policy))
        await service.request()
        name = "unreadable:" + around.claims[0].storage_key
        with any_server.client() as client:
            client.set(name, value)
            answer = (await service.request()).ok()
            assert (answer.status, answer.slug, service.runs) == (503, "record-unreadable", 1)
            assert client.get(name) == value
            client.delete(name)


@pytest.mark.row(52)
async def test_a_key_of_a_wrong_type_is_refused_and_left_alone(surface, any_server):
    from idempotency_mw.persistence.redis import AsyncRedisPersistenceLayer

    async with AsyncRedisPersistenceLayer.from_url(any_server.url, key_prefix="wrong-type:") as layer:
        around = AroundLayer(layer)
        service = surface(around)
        await service.request()
        name = "wrong-type:" + around.claims[0].storage_key
        with any_server.client() as client:
            client.delete(name)
            client.rpush(name, "x")
            assert (await service.request()).slug == "record-unreadable"
            assert client.lrange(name, 0, -1) == [b"x"]
            client.delete(name)
        assert service.runs == 1


@pytest.mark.row(52)
@pytest.mark.fault(22)
async def test_a_readable_record_with_an_unreadable_response_is_refused_and_reported(surface, memory, caplog):
    layer = AroundLayer(memory)
    service = surface(layer)
    await service.request()
    claim = layer.claims[0]
    memory.close()
    assert memory.acquire(claim) == Acquired(1)
    memory.complete(claim, b"2 a response of tomorrow")
    caplog.clear()
    answer = (await service.request()).ok()
    assert (answer.status, answer.slug, service.runs) == (503, "record-unreadable", 1)
    assert "refused" in caplog.text
    assert record_of(memory, claim).result == b"2 a response of tomorrow"


# Answers that are not kept.


@pytest.mark.row(53)
@pytest.mark.fault(17)
@pytest.mark.parametrize("headers", [(), ((b"content-length", b"60"),)], ids=["undeclared", "declared"])
async def test_a_storable_answer_over_the_cap_goes_out_whole_and_leaves_a_tombstone(
    surface, store, headers, caplog
):
    service = surface(store, Play(200, headers, (b"x" * 30, b"y" * 30)), http=HTTPConfig(max_response_body=50))
    assert (await service.request()).ok().brief() == (200, b"x" * 30 + b"y" * 30)
    assert (await arecord_of(store)).status is Status.NOT_KEPT
    assert "too large" in caplog.text
    retry = (await service.request()).ok()
    assert (retry.status, retry.slug, service.runs) == (409, "response-not-kept", 1)
    assert (await service.request(b'{"other":1}')).slug == "key-reused"


@pytest.mark.row(53)
async def test_an_answer_of_exactly_the_cap_is_kept(surface, store):
    service = surface(store, Play(200, (), (b"x" * 50,)), http=HTTPConfig(max_response_body=50))
    await service.request()
    assert (await service.request()).replayed


@pytest.mark.row(53)
async def test_an_error_answer_over_the_cap_is_released(surface, store):
    service = surface(store, Play(500, (), (b"x" * 60,)), http=HTTPConfig(max_response_body=50))
    await service.request()
    assert await arecord_of(store) is None


@pytest.mark.row(54)
@pytest.mark.parametrize("on_error", ["release", "store"])
@pytest.mark.parametrize(
    "play",
    [Play(), Play(503), Play(200, (), (b"do", b"ne")), Play(chunks=(b"x" * 99,)), Play(raises=BROKEN)],
    ids=["kept", "error", "stream", "large", "exception"],
)
async def test_a_discarded_answer_is_delivered_and_the_key_released(surface, store, on_error, play):
    said = []
    playing = replace(play, seen=lambda _: said.append(current_execution().discard()))
    service = surface(
        store, playing, config=IdempotencyConfig(on_error=on_error), http=HTTPConfig(max_response_body=50)
    )
    answer = await service.request()
    assert answer.raised is play.raises
    if play.raises is None:
        assert answer.ok().brief() == (play.status, b"".join(play.chunks))
    assert said == [True]
    assert await arecord_of(store) is None


@pytest.mark.row(54)
async def test_discarding_after_the_settling_says_that_it_is_too_late(asgi_surface, store):
    said = []

    async def app(scope, receive, send):
        await perform(send, Play(200, ((b"content-length", b"4"),)))
        said.append(current_execution().discard())

    service = asgi_surface(store)
    service.app.app = app
    await service.request()
    assert said == [False]
    assert (await service.request()).replayed


@pytest.mark.row("54a")
async def test_mounted_twice_the_inner_one_passes(surface, store):
    inner = surface(store)
    outer = surface(store)
    outer.app.app = inner.app
    assert (await outer.request()).ok().brief() == (200, b"done")
    assert store.calls == ["acquire", "complete"]
    assert (await outer.request()).replayed
    assert inner.runs == 1


@pytest.mark.row("54a")
async def test_a_foreign_value_in_the_scope_does_not_switch_the_protection_off(surface, store):
    service = surface(store)
    await service.request(idempotency="somebody else's")
    assert (await service.request(idempotency="somebody else's")).replayed


@pytest.mark.row(55)
async def test_the_same_key_under_another_method_or_path_is_another_operation(surface, store):
    service = surface(store)
    answers: list[Answer] = [
        await service.request(),
        await service.request(method="PATCH"),
        await service.request(path="/other"),
        await service.request(path="/pay/"),
    ]
    assert [(answer.status, answer.replayed) for answer in answers] == 4 * [(200, False)]
    assert service.runs == 4


# What the app can ask.


async def test_the_app_sees_its_execution_and_nobody_else_does(asgi_surface, store):
    seen = []

    async def app(scope, receive, send):
        seen.append((scope.get("idempotency"), current_execution()))
        await perform(send, Play())

    service = asgi_surface(store)
    service.app.app = app
    await service.request(key='"quoted key"')
    await service.request(key=None)
    (execution, current), unkeyed = seen
    assert execution is current
    assert unkeyed == (None, None)
    assert execution.key == "quoted key"
    assert execution.storage_key == store.claims[0].storage_key
    assert (execution.attempt, execution.previous_unfinished) == (1, False)
    assert current_execution() is None


@pytest.mark.row(34)
async def test_the_record_is_completed_before_the_last_byte_goes_out(asgi_surface, memory):
    """Whatever the form of the answer: a client that saw it whole finds it in the store."""
    for number, play in enumerate(STORABLE):
        layer = GatedLayer(memory, "complete")
        service = asgi_surface(layer, play)
        conversation = service.conversation(key=f"k-{number}").start()
        await layer.reached.wait()
        answer = conversation.answer
        assert not answer.ended
        declared = answer.one("content-length")
        assert declared is None or len(answer.body) < int(declared) or not answer.messages
        layer.gate.set()
        assert (await conversation.end()).ok().brief() == (play.status, b"".join(play.chunks))


async def test_a_slow_store_changes_nothing(surface, memory):
    service = surface(SlowLayer(memory))
    assert (await service.request()).ok().brief() == (200, b"done")
    assert (await service.request()).replayed
