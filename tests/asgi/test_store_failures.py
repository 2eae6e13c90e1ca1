"""Rows 102 to 108: a store that is down, hangs, is full, loses replies, records and scripts. Real ones."""

import asyncio
import time
from uuid import uuid4

import pytest

from idempotency_mw import IdempotencyConfig, current_execution
from idempotency_mw.core.record import Status
from idempotency_mw.persistence.redis import AsyncRedisPersistenceLayer, RedisPersistenceLayer
from idempotency_mw.persistence.redis.commands import _ACQUIRE, _COMPLETE
from idempotency_mw.persistence.sqlite import SQLitePersistenceLayer
from tests.asgi.driver import Play, until
from tests.asgi.layers import AroundLayer, FailingLayer
from tests.asgi.relay import relay_to
from tests.asgi.test_machine import arecord_of
from tests.servers import RedisServer, binaries

SLACK = 0.1 + 2.0
"""A tenth of a second by the contract, and two for a busy machine. Without a deadline a frozen server would never
answer; that layers keep theirs to a tenth of a second is measured in tests/persistence."""

PASS = IdempotencyConfig(on_store_failure="pass")


@pytest.fixture
def own_server():
    """A server that the test may mistreat."""
    if not binaries():
        pytest.skip("no Redis or Valkey server was found")
    with RedisServer(next(iter(binaries().values()))) as started:
        yield started


@pytest.fixture(params=["async", "threads"])
async def redis_layer(request, own_server):
    """Both kinds of Redis layers over that server."""
    kind = AsyncRedisPersistenceLayer if request.param == "async" else RedisPersistenceLayer
    layer = kind.from_url(own_server.url, timeout_seconds=0.4)
    yield layer
    if request.param == "async":
        await layer.aclose()
    else:
        layer.close()


@pytest.mark.row(102)
@pytest.mark.fault(1)
@pytest.mark.parametrize("how", ["killed", "frozen"])
@pytest.mark.parametrize("warm", [True, False])
async def test_a_store_that_is_down_or_hangs_refuses_in_time(surface, own_server, redis_layer, how, warm, caplog):
    service = surface(redis_layer)
    if warm:
        assert (await service.request(key="before")).ok().status == 200
    own_server.kill() if how == "killed" else own_server.freeze()
    began = time.monotonic()
    answer = (await service.request()).ok()
    took = time.monotonic() - began
    assert (answer.status, answer.slug, answer.one("retry-after")) == (503, "store-unavailable", "1")
    assert service.runs == warm
    assert took < redis_layer.timeout_seconds + SLACK
    assert "refused: the store failed" in caplog.text
    if how == "frozen":
        own_server.thaw()
        async with asyncio.timeout(5):
            while (await service.request(key="after")).status != 200:
                await asyncio.sleep(0.02)
        # The acquire that was refused is heard by the server after all, and released again.
        async with asyncio.timeout(5):
            while (await service.request()).status != 200:
                await asyncio.sleep(0.02)


@pytest.mark.row(103)
@pytest.mark.parametrize("how", ["killed", "frozen"])
async def test_a_store_that_is_down_is_passed_by_where_that_was_chosen(
    surface, own_server, redis_layer, how, caplog
):
    seen = []
    service = surface(redis_layer, Play(seen=lambda body: seen.append((body, current_execution()))), config=PASS)
    own_server.kill() if how == "killed" else own_server.freeze()
    answer = (await service.request(b"the body")).ok()
    assert answer.brief() == (200, b"done")
    assert not answer.replayed
    assert seen == [(b"the body", None)]
    assert "the app runs unprotected" in caplog.text
    own_server.kill()


@pytest.mark.row(104)
@pytest.mark.fault(15)
@pytest.mark.parametrize("how", ["killed", "frozen"])
@pytest.mark.parametrize(
    "play", [Play(), Play(chunks=(b"do", b"ne")), Play(500)], ids=["whole", "stream", "error"]
)
async def test_a_store_that_is_down_at_the_end_costs_the_client_nothing(
    surface, own_server, redis_layer, how, play, caplog
):
    def fail(_):
        own_server.kill() if how == "killed" else own_server.freeze()

    service = surface(
        redis_layer,
        Play(play.status, play.headers, play.chunks, seen=fail),
        config=IdempotencyConfig(lease_seconds=0.3),
    )
    answer = (await service.request()).ok()
    assert answer.brief() == (play.status, b"done")
    assert "failed; the lease has to lapse" in caplog.text
    if how == "frozen":
        own_server.thaw()
    else:
        own_server.kill()


@pytest.mark.row(104)
@pytest.mark.fault(15)
async def test_a_record_that_could_not_be_completed_stays_until_its_lease_ends(surface, memory, clock):
    layer = FailingLayer(memory, "complete")
    service = surface(layer, config=IdempotencyConfig(lease_seconds=30))
    assert (await service.request()).ok().status == 200
    assert (await arecord_of(layer)).status is Status.IN_PROGRESS
    assert (await service.request()).slug == "in-progress"
    clock.advance(30)
    assert (await service.request()).ok().status == 200
    assert service.runs == 2


@pytest.mark.row(104)
@pytest.mark.fault(14, 18)
async def test_a_completion_is_retried_within_the_deadline(surface, any_server):
    """The way to the server is cut during the run, and is there again soon after."""
    async with relay_to(any_server.port) as relay:
        url = f"redis://127.0.0.1:{relay.port}/0"
        async with AsyncRedisPersistenceLayer.from_url(url, key_prefix=f"{uuid4().hex}:") as layer:
            real = relay.upstream

            async def cut(_):
                relay.upstream = 1
                relay.losing = _COMPLETE.sha.encode()
                asyncio.get_running_loop().call_later(0.2, setattr, relay, "upstream", real)

            service = surface(layer, Play(seen=cut))
            assert (await service.request()).ok().brief() == (200, b"done")
            assert (await service.request()).replayed
            assert service.runs == 1


@pytest.mark.row(105)
@pytest.mark.fault(2, 14)
@pytest.mark.parametrize("kind", [AsyncRedisPersistenceLayer, RedisPersistenceLayer])
@pytest.mark.parametrize("script", [_ACQUIRE, _COMPLETE], ids=["acquire", "complete"])
async def test_a_lost_reply_is_asked_for_again_and_the_client_sees_nothing(surface, any_server, kind, script):
    async with relay_to(any_server.port) as relay:
        layer = kind.from_url(f"redis://127.0.0.1:{relay.port}/0", key_prefix=f"{uuid4().hex}:")
        seen = []
        service = surface(layer, Play(seen=lambda _: seen.append(current_execution().attempt)))
        await service.request(key="warm")
        relay.losing = script.sha.encode()
        assert (await service.request()).ok().brief() == (200, b"done")
        assert relay.lost == 1
        assert (await service.request()).replayed
        assert seen == [1, 1]
        if kind is AsyncRedisPersistenceLayer:
            await layer.aclose()
        else:
            layer.close()


@pytest.mark.row(106)
@pytest.mark.fault(20)
@pytest.mark.parametrize("loss", ["flushall", "delete"])
async def test_a_record_lost_in_mid_run_is_not_created_by_its_completion(surface, any_server, loss, caplog):
    prefix = f"{uuid4().hex}:"
    async with AsyncRedisPersistenceLayer.from_url(any_server.url, key_prefix=prefix) as layer:
        with any_server.client() as client:

            def lose(_):
                names = client.keys(prefix + "*")
                assert len(names) == 1
                client.flushall() if loss == "flushall" else client.delete(*names)

            service = surface(layer, Play(seen=lose))
            assert (await service.request()).ok().brief() == (200, b"done")
            assert client.keys(prefix + "*") == []
        assert "claim was lost" in caplog.text
        assert not (await service.request()).replayed
        assert service.runs == 2


@pytest.mark.row(107)
@pytest.mark.fault(5, 16)
async def test_a_full_store_refuses_new_work_and_keeps_what_was_begun(surface, own_server):
    async with AsyncRedisPersistenceLayer.from_url(own_server.url) as layer:
        around = AroundLayer(layer)
        gate = asyncio.Event()

        def play(body):
            return Play(500 if body == b"fail" else 200, waits_for=gate if body == b"wait" else None)

        service = surface(around, play, config=IdempotencyConfig(lease_seconds=0.6))
        await service.request(key="done")
        kept = service.conversation(b"wait", key="kept").start()
        await until(lambda: service.runs == 2)
        with own_server.client() as client:
            client.config_set("maxmemory-policy", "noeviction")
            client.config_set("maxmemory", "1")
            refused = (await service.request(key="new")).ok()
            assert (refused.status, refused.slug, service.runs) == (503, "store-unavailable", 2)
            assert (await service.request(key="done")).replayed
            assert (await service.request(b"wait", key="kept")).slug == "in-progress"
            async with asyncio.timeout(5):
                while "extend" not in around.calls:
                    await asyncio.sleep(0.02)
            gate.set()
            assert (await kept.end()).ok().status == 200
            assert (await service.request(b"wait", key="kept")).replayed
            client.config_set("maxmemory", "0")
            released = service.conversation(b"fail", key="failing")
            around.calls.clear()

            async def fill(_):
                client.config_set("maxmemory", "1")

            service.play = lambda body: Play(500, seen=fill)
            assert (await released.run()).ok().status == 500
            assert around.calls == ["acquire", "release"]
            client.config_set("maxmemory", "0")
        service.play = Play()
        assert (await service.request(b"fail", key="failing")).ok().status == 200


@pytest.mark.row(108)
@pytest.mark.fault(6)
async def test_scripts_that_were_lost_are_loaded_again_at_every_verb(surface, own_server):
    async with AsyncRedisPersistenceLayer.from_url(own_server.url) as layer:
        with own_server.client() as client:
            service = surface(
                layer, Play(seen=lambda _: client.script_flush()), config=IdempotencyConfig(lease_seconds=30)
            )
            client.script_flush()
            assert (await service.request()).ok().status == 200
            client.script_flush()
            assert (await service.request()).replayed
            service.play = Play(500, seen=lambda _: client.script_flush())
            assert (await service.request(key="k-2")).ok().status == 500
            service.play = Play()
            assert (await service.request(key="k-2")).ok().status == 200


@pytest.mark.row(108)
@pytest.mark.fault(20)
async def test_a_server_that_restarts_between_requests_is_nothing_to_a_client(surface, own_server):
    async with AsyncRedisPersistenceLayer.from_url(own_server.url) as layer:
        service = surface(layer)
        assert (await service.request()).ok().status == 200
        own_server.kill()
        own_server.start()
        assert (await service.request()).ok().status == 200


@pytest.mark.row(102)
@pytest.mark.fault(25)
async def test_a_locked_file_refuses_in_time_and_a_free_one_runs(surface, tmp_path):
    import sqlite3

    with SQLitePersistenceLayer(tmp_path / "records.db", timeout_seconds=0.2) as layer:
        service = surface(layer)
        await service.request(key="before")
        other = sqlite3.connect(tmp_path / "records.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        answer = (await service.request()).ok()
        assert (answer.slug, service.runs) == ("store-unavailable", 1)
        assert time.monotonic() - began < layer.timeout_seconds + SLACK
        other.execute("ROLLBACK")
        other.close()
        assert (await service.request()).ok().status == 200


@pytest.mark.row(102)
@pytest.mark.fault(4)
async def test_an_acquire_whose_reply_is_lost_for_good_leaves_the_lease_to_end_it(surface, memory, clock):
    layer = FailingLayer(memory, "acquire", applied=True)
    service = surface(layer, config=IdempotencyConfig(lease_seconds=30))
    assert (await service.request()).slug == "store-unavailable"
    layer.verbs = ()
    assert (await service.request()).slug == "in-progress"
    clock.advance(30)
    assert (await service.request()).ok().status == 200
    assert service.runs == 1
