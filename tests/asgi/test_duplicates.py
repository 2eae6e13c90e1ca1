"""Rows 34 to 39 and 47: a first request, its replays, and its duplicates."""

import asyncio

import pytest

from idempotency_mw import IdempotencyConfig
from idempotency_mw.core.record import Status
from tests.asgi.driver import Play, until
from tests.asgi.scenario import arecord_of


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
async def test_a_key_whose_record_expired_is_free_also_for_another_payload(surface, memory, clock):
    service = surface(memory, config=IdempotencyConfig(expires_after_seconds=100))
    await service.request(b'{"a":1}')
    clock.advance(100)
    assert (await service.request(b'{"a":2}')).ok().brief() == (200, b"done")
    assert service.runs == 2


@pytest.mark.row(36)
@pytest.mark.fault(23)
async def test_another_payload_after_completion_is_refused_without_the_stored_answer(surface, store):
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
async def test_a_duplicate_in_progress_is_refused_and_another_payload_before_that(surface, store):
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
async def test_retry_after_is_between_one_second_and_the_rest_of_the_lease(surface, memory, clock, passed, most):
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
async def test_one_of_the_parallel_duplicates_runs(surface, store):
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
async def test_parallel_duplicates_that_wait_all_get_the_same_answer(surface, store):
    gate = asyncio.Event()
    service = surface(store, Play(waits_for=gate), config=IdempotencyConfig(wait_seconds=5))
    conversations = [service.conversation().start() for _ in range(10)]
    await until(lambda: service.runs and store.calls.count("acquire") >= 10)
    gate.set()
    answers = [(await each.end()).ok() for each in conversations]
    assert {answer.brief() for answer in answers} == {(200, b"done")}
    assert sum(answer.replayed for answer in answers) == 9
    assert service.runs == 1
