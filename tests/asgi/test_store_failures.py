"""Rows 102 to 108, on real stores: one that is down, hangs, is full, loses replies, records or scripts."""

import asyncio
import time
from uuid import uuid4

import pytest

from idempotency_mw import IdempotencyConfig, current_execution
from idempotency_mw.core.record import Claim, Operation, Status
from idempotency_mw.persistence.redis import AsyncRedisPersistenceLayer, RedisPersistenceLayer, commands
from idempotency_mw.persistence.sqlite import SQLitePersistenceLayer
from tests.asgi.driver import ASGISurface, Play, until
from tests.asgi.layers import AroundLayer, FailingLayer
from tests.asgi.relay import relay_to
from tests.asgi.scenario import NO_HEARTBEAT, arecord_of
from tests.servers import RedisServer, binaries

SLACK = 0.1 + 2.0
"""A tenth of a second by the contract, and two for a busy machine. Without a deadline a frozen server would never
answer; that layers keep theirs to a tenth of a second is measured in tests/persistence."""

PASS = IdempotencyConfig(on_store_failure="pass")
CLAIM = Claim(Operation("a" * 64, "b" * 64), "c" * 32, 1000, 1000)
DIGESTS = {
    "acquire": commands.acquire("key", CLAIM).script.sha.encode(),
    "complete": commands.complete("key", CLAIM, b"").script.sha.encode(),
}
"""The digest of each verb's script, which is part of its command."""


@pytest.fixture
def own_server():
    """A server that the test may stop or break."""
    if not binaries():
        pytest.skip("no Redis or Valkey server was found")
    with RedisServer(next(iter(binaries().values()))) as started:
        yield started


@pytest.fixture(params=["async", "threads"])
async def redis_layer(request, own_server):
    """An async and a blocking Redis layer over that server."""
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
async def test_requests_are_refused_in_time_if_the_store_is_down_or_hangs(
    surface, own_server, redis_layer, how, warm, caplog
):
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
        # The server handles the refused acquire late, and the layer's release frees the key again.
        async with asyncio.timeout(5):
            while (await service.request()).status != 200:
                await asyncio.sleep(0.02)


@pytest.mark.row(103)
@pytest.mark.parametrize("how", ["killed", "frozen"])
async def test_with_on_store_failure_pass_the_app_runs_unprotected_if_the_store_is_down(
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
async def test_a_client_gets_its_answer_if_the_store_is_down_at_the_end(
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
async def test_a_record_that_could_not_be_completed_stays_in_progress_until_its_lease_ends(surface, memory, clock):
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
    """The connection breaks during the run, and the server can be reached again 0.2 s later."""
    async with relay_to(any_server.port) as relay:
        url = f"redis://127.0.0.1:{relay.port}/0"
        async with AsyncRedisPersistenceLayer.from_url(url, key_prefix=f"{uuid4().hex}:") as layer:
            real = relay.upstream

            async def cut(_):
                relay.upstream = 1
                relay.losing = DIGESTS["complete"]
                asyncio.get_running_loop().call_later(0.2, setattr, relay, "upstream", real)

            service = surface(layer, Play(seen=cut))
            assert (await service.request()).ok().brief() == (200, b"done")
            assert (await service.request()).replayed
            assert service.runs == 1


@pytest.mark.row(105)
@pytest.mark.fault(2, 14)
@pytest.mark.parametrize("kind", [AsyncRedisPersistenceLayer, RedisPersistenceLayer])
@pytest.mark.parametrize("script", ["acquire", "complete"])
async def test_a_command_whose_reply_was_lost_is_repeated_and_the_client_does_not_notice(
    surface, any_server, kind, script
):
    async with relay_to(any_server.port) as relay:
        layer = kind.from_url(f"redis://127.0.0.1:{relay.port}/0", key_prefix=f"{uuid4().hex}:")
        seen = []
        service = surface(layer, Play(seen=lambda _: seen.append(current_execution().attempt)))
        await service.request(key="warm")
        relay.losing = DIGESTS[script]
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
async def test_a_record_lost_in_mid_run_is_not_created_again_by_its_completion(surface, any_server, loss, caplog):
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
async def test_a_full_store_refuses_new_requests_and_completes_those_that_run(surface, own_server):
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
async def test_every_verb_loads_lost_scripts_again(surface, own_server):
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
async def test_a_client_does_not_notice_that_the_store_restarted_between_requests(surface, own_server):
    async with AsyncRedisPersistenceLayer.from_url(own_server.url) as layer:
        service = surface(layer)
        assert (await service.request()).ok().status == 200
        own_server.kill()
        own_server.start()
        assert (await service.request()).ok().status == 200


@pytest.mark.row(102)
@pytest.mark.fault(25)
async def test_requests_are_refused_in_time_while_the_sqlite_file_is_locked(surface, tmp_path):
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
async def test_after_an_acquire_without_any_reply_the_key_is_free_when_the_lease_ends(surface, memory, clock):
    layer = FailingLayer(memory, "acquire", applied=True)
    service = surface(layer, config=IdempotencyConfig(lease_seconds=30))
    assert (await service.request()).slug == "store-unavailable"
    layer.verbs = ()
    assert (await service.request()).slug == "in-progress"
    clock.advance(30)
    assert (await service.request()).ok().status == 200
    assert service.runs == 1


@pytest.mark.row(104)
async def test_an_unexpected_exception_of_a_layer_while_completing_loses_no_answer(memory):
    layer = FailingLayer(memory, "complete", error=lambda: KeyError("a bug"))
    service = ASGISurface(layer, config=NO_HEARTBEAT)
    assert (await service.request()).ok().body == b"done"
    assert (await service.request()).slug == "in-progress"
