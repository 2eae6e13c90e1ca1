"""What Redis layers do when messages, scripts, memory or the server are lost."""

import asyncio
import threading
import time
import traceback

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from idempotency_mw.core.record import Acquired, Existing, Lost, Settled, Status
from idempotency_mw.errors import (
    IdempotencyPersistenceConnectionError,
    IdempotencyPersistenceLayerError,
    IdempotencyRecordError,
)
from idempotency_mw.persistence.redis import AsyncRedisPersistenceLayer, RedisPersistenceLayer, commands
from idempotency_mw.persistence.threaded import ThreadedPersistenceLayer
from tests.clusters import until
from tests.persistence.driven import a_claim, driven, rival
from tests.proxy import Proxy
from tests.servers import RedisServer

EVAL = (b"EVAL",)  # and EVALSHA


@pytest.fixture
def layer(kind, proxy):
    with driven(kind.from_url(proxy.url)) as layer:
        layer.release(a_claim())  # from here on it is connected, and the server knows the scripts
        warm = a_claim()
        layer.acquire(warm)
        layer.extend(warm)
        layer.complete(warm, b"")
        proxy.requests.clear()
        yield layer


@pytest.fixture
def store(any_server):
    with any_server.client() as client:
        yield client


def test_each_verb_is_one_message(layer, proxy):
    claim = a_claim()
    verbs = [
        lambda: layer.acquire(claim),
        lambda: layer.acquire(rival(claim)),
        lambda: layer.extend(claim),
        lambda: layer.complete(claim, b"done"),
        lambda: layer.acquire(rival(claim)),
        lambda: layer.release(claim),
    ]
    for sent, verb in enumerate(verbs, start=1):
        verb()
        assert len(proxy.requests) == sent
        assert proxy.requests[-1].startswith(b"*") and b"EVALSHA" in proxy.requests[-1]


@pytest.mark.row(105)
@pytest.mark.fault(2)
def test_a_lost_reply_to_acquire_does_not_lock_the_owner_out(layer, proxy):
    proxy.when(b"EVALSHA", "cut reply")
    claim = a_claim()
    assert layer.acquire(claim) == Acquired(1)
    assert proxy.count(*EVAL) == 2
    assert isinstance(layer.acquire(rival(claim)), Existing)


@pytest.mark.fault(3)
def test_a_lost_acquire_is_sent_again(layer, proxy):
    proxy.when(b"EVALSHA", "cut request")
    assert layer.acquire(a_claim()) == Acquired(1)
    assert proxy.count(*EVAL) == 2


@pytest.mark.row(105)
@pytest.mark.fault(14)
def test_a_complete_whose_reply_was_lost_is_settled(layer, proxy):
    claim = a_claim()
    layer.acquire(claim)
    proxy.when(b"EVALSHA", "cut reply")
    assert layer.complete(claim, b"done") == Settled()
    assert layer.acquire(rival(claim)).record.result == b"done"


def test_an_extend_whose_reply_was_lost_is_extended(layer, proxy):
    claim = a_claim()
    layer.acquire(claim)
    proxy.when(b"EVALSHA", "cut reply")
    assert layer.extend(claim) is True


def test_after_a_lost_reply_to_release_the_key_is_free(layer, proxy):
    claim = a_claim()
    layer.acquire(claim)
    proxy.when(b"EVALSHA", "cut reply")
    assert layer.release(claim) is False  # the first try had released it already
    assert layer.acquire(rival(claim)) == Acquired(1)


UNREADABLE = [b":4111 1111\r\n", b"?4111 1111\r\n", b"$4111 1111\r\n", b"-MOVED 4111 1111\r\n"]


@pytest.mark.fault(2)
@pytest.mark.parametrize("reply", UNREADABLE)
def test_a_reply_that_can_not_be_read_is_asked_for_again(kind, proxy, reply):
    with driven(kind.from_url(proxy.url, direct=True)) as layer:
        layer.extend(a_claim())
        proxy.when(b"EVALSHA", "answer request", reply=reply)
        assert layer.acquire(a_claim()) == Acquired(1)


@pytest.mark.fault(4)
@pytest.mark.parametrize("reply", UNREADABLE)
def test_a_reply_that_can_not_be_read_is_not_quoted(kind, proxy, reply):
    with driven(kind.from_url(proxy.url, timeout_seconds=0.1, direct=True)) as layer:
        layer.extend(a_claim())
        proxy.when(b"EVALSHA", "answer request", reply=reply, times=None)
        with pytest.raises(IdempotencyPersistenceConnectionError) as raised:
            layer.acquire(a_claim())
        assert "1111" not in "".join(traceback.format_exception(raised.value))


NO_REPLY_OF_OURS = [b"+OK\r\n", b":-1\r\n", b"$0\r\n\r\n", b"*0\r\n", b"*3\r\n:0\r\n:1\r\n:2\r\n"]


@pytest.mark.fault(22)
@pytest.mark.parametrize("reply", [*NO_REPLY_OF_OURS, b":0\r\n", b"*1\r\n:0\r\n"])
def test_a_reply_that_no_script_gives_raises_our_error(kind, proxy, reply):
    with driven(kind.from_url(proxy.url, direct=True)) as layer:
        layer.extend(a_claim())
        proxy.when(b"EVALSHA", "answer request", reply=reply)
        with pytest.raises(IdempotencyRecordError):
            layer.acquire(a_claim())


@pytest.mark.fault(22)
@pytest.mark.parametrize("reply", [*NO_REPLY_OF_OURS, b":0\r\n", b":2\r\n"])
def test_a_reply_that_no_script_gives_settles_no_claim(kind, proxy, reply):
    with driven(kind.from_url(proxy.url, direct=True)) as layer:
        layer.extend(a_claim())
        proxy.when(b"EVALSHA", "answer request", reply=reply)
        with pytest.raises(IdempotencyRecordError):
            layer.complete(a_claim(), b"result")


@pytest.mark.fault(22)
@pytest.mark.parametrize("verb", ["extend", "release"])
@pytest.mark.parametrize("reply", [*NO_REPLY_OF_OURS, b":2\r\n"])
def test_a_reply_that_no_script_gives_loses_no_claim(kind, proxy, reply, verb):
    with driven(kind.from_url(proxy.url, direct=True)) as layer:
        layer.extend(a_claim())
        proxy.when(b"EVALSHA", "answer request", reply=reply)
        with pytest.raises(IdempotencyRecordError):
            getattr(layer, verb)(a_claim())


@pytest.mark.fault(22)
@pytest.mark.parametrize("direct", [True, False])
def test_a_null_reply_settles_nothing_and_raises_our_error(kind, proxy, direct):
    with driven(kind.from_url(proxy.url, timeout_seconds=0.3, direct=direct)) as layer:
        layer.extend(a_claim())
        proxy.when(b"EVALSHA", "answer request", reply=b"_\r\n", times=None)
        with pytest.raises(IdempotencyPersistenceLayerError):
            layer.complete(a_claim(), b"result")


@pytest.mark.fault(2)
def test_a_slow_reply_within_the_deadline_is_the_answer(layer, proxy):
    proxy.when(b"EVALSHA", "delay reply", seconds=0.2)
    assert layer.acquire(a_claim()) == Acquired(1)
    assert proxy.count(*EVAL) == 1


@pytest.mark.row(108)
@pytest.mark.fault(6)
def test_scripts_that_the_server_lost_are_loaded_again(server, kind):
    with driven(kind.from_url(server.url)) as layer, server.client() as store:
        claim = a_claim()
        for verb, answer in (
            (lambda: layer.acquire(claim), Acquired(1)),
            (lambda: layer.extend(claim), True),
            (lambda: layer.complete(claim, b"done"), Settled()),
            (lambda: layer.release(claim), False),
        ):
            store.script_flush()
            assert verb() == answer
        store.script_flush()
        layer.acquire(rival(claim))
        before = store.info("commandstats")
        layer.acquire(rival(claim))
        after = store.info("commandstats")
        assert _calls(after, "evalsha") == _calls(before, "evalsha") + 1
        assert _calls(after, "eval") == _calls(before, "eval")


def _calls(stats, command):
    return stats.get(f"cmdstat_{command}", {}).get("calls", 0)


@pytest.mark.row(108)
@pytest.mark.fault(20)
def test_a_restarted_server_is_used_again(any_binary, kind):
    with RedisServer(any_binary) as server, driven(kind.from_url(server.url)) as layer:
        claim = a_claim()
        assert layer.acquire(claim) == Acquired(1)
        server.kill()
        server.start()
        assert layer.complete(claim, b"done") == Lost(None)
        assert layer.acquire(claim) == Acquired(1)


@pytest.mark.fault(18)
def test_a_server_that_comes_back_within_the_deadline_causes_no_error(any_binary, kind):
    with RedisServer(any_binary) as server, driven(kind.from_url(server.url, timeout_seconds=10)) as layer:
        layer.acquire(a_claim())
        server.kill()
        back = threading.Timer(0.3, server.start)
        back.start()
        assert layer.acquire(a_claim()) == Acquired(1)
        back.join()


@pytest.mark.row(107)
@pytest.mark.fault(5, 16)
def test_a_full_server_refuses_new_claims_and_loses_no_result(every_binary, kind):
    with RedisServer(every_binary) as server, driven(kind.from_url(server.url)) as layer, server.client() as store:
        done, running, left = a_claim(), a_claim(), a_claim()
        for claim in (done, running, left):
            assert layer.acquire(claim) == Acquired(1)
        assert layer.complete(done, b"done") == Settled()
        fill(store)
        new = a_claim()
        with pytest.raises(IdempotencyPersistenceLayerError) as refused:
            layer.acquire(new)
        assert not isinstance(refused.value, IdempotencyPersistenceConnectionError)
        assert isinstance(refused.value.__cause__, redis.RedisError)
        assert store.exists("idempotency:" + new.storage_key) == 0
        assert layer.acquire(rival(done)).record.result == b"done"
        assert layer.acquire(rival(running)).record.status is Status.IN_PROGRESS
        assert layer.extend(running) is True
        assert layer.complete(running, b"x" * 100_000) == Settled()
        assert layer.release(left) is True
        assert len(layer.acquire(rival(running)).record.result) == 100_000


@pytest.mark.row(108)
@pytest.mark.fault(6, 16)
def test_a_full_server_that_lost_the_scripts_still_settles(every_binary, kind):
    with RedisServer(every_binary) as server, driven(kind.from_url(server.url)) as layer, server.client() as store:
        claim = a_claim()
        assert layer.acquire(claim) == Acquired(1)
        fill(store)
        store.script_flush()
        assert layer.complete(claim, b"done") == Settled()
        assert layer.acquire(rival(claim)).record.result == b"done"


def fill(store):
    """Make the server refuse every command that needs memory."""
    store.config_set("maxmemory-policy", "noeviction")
    store.config_set("maxmemory", 1)


@pytest.mark.row(106)
@pytest.mark.fault(20)
def test_a_flushed_record_is_not_created_by_completing_it(layer, store):
    claim = a_claim()
    layer.acquire(claim)
    store.delete("idempotency:" + claim.storage_key)
    assert layer.complete(claim, b"done") == Lost(None)
    assert layer.extend(claim) is False
    assert store.exists("idempotency:" + claim.storage_key) == 0


@pytest.mark.fault(18)
@pytest.mark.parametrize("direct", [True, False], ids=["direct", "usual"])
@pytest.mark.parametrize("size", [3, 20_000])
def test_after_a_planned_failover_the_name_is_resolved_again(any_binary, kind, size, direct):
    with (
        RedisServer(any_binary) as old,
        RedisServer(any_binary) as new,
        Proxy(old.port) as name,
        driven(kind.from_url(name.url, direct=direct)) as layer,
        old.client() as admin,
        new.client() as store,
    ):
        known, claim = a_claim(), a_claim()
        for each in (known, claim):
            layer.acquire(each)
        layer.complete(known, b"x" * size)
        store.set("idempotency:" + claim.storage_key, admin.get("idempotency:" + claim.storage_key))
        admin.execute_command("REPLICAOF", "127.0.0.1", new.port)  # its connections stay open
        name.target_port = new.port
        assert layer.complete(claim, b"x" * size) == Settled()
        assert layer.acquire(a_claim()) == Acquired(1)


class Interrupted(redis.Redis):
    """A client whose caller is interrupted once, after the server has answered."""

    is_due = True

    def execute_command(self, *args, **options):
        reply = super().execute_command(*args, **options)
        if self.is_due and args[0] in ("EVAL", "EVALSHA"):
            self.is_due = False
            raise KeyboardInterrupt
        return reply


@pytest.mark.fault(4)
def test_an_acquire_whose_caller_was_interrupted_is_released(any_server):
    claim = a_claim()
    with (
        Interrupted(
            port=any_server.port, socket_timeout=1, socket_connect_timeout=1, retry=Retry(NoBackoff(), 0)
        ) as client,
        RedisPersistenceLayer(client) as layer,
        any_server.client() as admin,
    ):
        with pytest.raises(KeyboardInterrupt):
            layer.acquire(claim)
        layer.close()  # waits for the release
        assert admin.exists("idempotency:" + claim.storage_key) == 0
        assert layer.acquire(a_claim()) == Acquired(1)


@pytest.mark.fault(4)
def test_an_acquire_that_was_in_doubt_is_released_when_the_server_answers_again(any_binary, kind):
    with (
        RedisServer(any_binary) as server,
        driven(kind.from_url(server.url, timeout_seconds=0.5)) as layer,
        server.client() as store,
    ):
        layer.acquire(a_claim())
        claim = a_claim()
        server.freeze()
        with pytest.raises(IdempotencyPersistenceConnectionError):
            layer.acquire(claim)
        server.thaw()
        layer.rest(0.2)
        until(lambda: store.info("commandstats")["cmdstat_evalsha"]["calls"] >= 3, within=5)
        until(lambda: store.exists("idempotency:" + claim.storage_key) == 0, within=5)
        assert layer.acquire(rival(claim)) == Acquired(1)


@pytest.mark.fault(4)
def test_a_reply_that_never_comes_leaves_no_claim(layer, proxy, store):
    layer.layer.timeout_seconds = 0.3
    claim = a_claim()
    proxy.when(commands.acquire("", claim).script.sha.encode(), "hang reply", times=None)
    with pytest.raises(IdempotencyPersistenceConnectionError):
        layer.acquire(claim)
    layer.rest(0.1)
    until(lambda: store.exists("idempotency:" + claim.storage_key) == 0, within=5)


@pytest.mark.fault(4)
def test_closing_waits_for_the_release_of_a_claim_in_doubt(proxy, store):
    with RedisPersistenceLayer.from_url(proxy.url, timeout_seconds=0.5) as layer:
        layer.acquire(a_claim())
        claim = a_claim()
        proxy.when(commands.acquire("", claim).script.sha.encode(), "hang reply", times=None)
        proxy.when(commands.release("", claim).script.sha.encode(), "delay request", seconds=0.2)
        with pytest.raises(IdempotencyPersistenceConnectionError):
            layer.acquire(claim)
    assert store.exists("idempotency:" + claim.storage_key) == 0


@pytest.mark.fault(12)
async def test_a_cancelled_acquire_leaves_no_claim(proxy, store):
    async with AsyncRedisPersistenceLayer.from_url(proxy.url) as layer:
        await layer.acquire(a_claim())
        claim = a_claim()
        proxy.when(b"EVALSHA", "delay reply", seconds=0.3)
        await _cancelled_soon(layer.acquire(claim))
    assert store.exists("idempotency:" + claim.storage_key) == 0


async def _cancelled_soon(waiting):
    task = asyncio.ensure_future(waiting)
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.fault(4, 12)
async def test_in_threads_a_cancelled_acquire_is_released_after_it_has_ended(proxy, store):
    with RedisPersistenceLayer.from_url(proxy.url) as blocking:
        layer = ThreadedPersistenceLayer(blocking)
        await layer.acquire(a_claim())
        await layer.release(a_claim())
        proxy.requests.clear()
        claim = a_claim()
        proxy.when(b"EVALSHA", "delay request", seconds=0.3)
        await _cancelled_soon(layer.acquire(claim))
        assert proxy.count(*EVAL) == 1
        until(lambda: proxy.count(*EVAL) == 2, within=5)
        until(lambda: store.exists("idempotency:" + claim.storage_key) == 0, within=5)


def test_every_error_is_chained_to_the_drivers_own(kind, any_server):
    no_such_database = f"redis://127.0.0.1:{any_server.port}/9999"
    with (
        driven(kind.from_url(no_such_database)) as layer,
        pytest.raises(IdempotencyPersistenceLayerError) as refused,
    ):
        layer.acquire(a_claim())
    assert isinstance(refused.value.__cause__, redis.RedisError)


@pytest.mark.row(37)
def test_every_key_has_an_expiry(layer, store):
    claim = a_claim()
    for verb in (
        lambda: layer.acquire(claim),
        lambda: layer.acquire(claim),
        lambda: layer.extend(claim),
        lambda: layer.complete(claim, b"done"),
        lambda: layer.complete(claim, None),
    ):
        verb()
        assert 0 < store.pttl("idempotency:" + claim.storage_key) <= 60_000


@pytest.mark.fault(26)
def test_the_servers_time_decides(layer, store, monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 0.0)
    claim = a_claim()
    assert layer.acquire(claim) == Acquired(1)
    assert isinstance(layer.acquire(rival(claim)), Existing)


@pytest.mark.fault(4)
def test_without_a_thread_for_the_release_the_stores_error_is_raised_all_the_same(monkeypatch):
    def refuse(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with (
        RedisPersistenceLayer.from_url("redis://127.0.0.1:1", timeout_seconds=0.2) as layer,
        pytest.raises(IdempotencyPersistenceConnectionError),
    ):
        layer.acquire(a_claim())


@pytest.mark.fault(4)
def test_closing_accepts_a_release_whose_thread_is_about_to_start(monkeypatch):
    layer = RedisPersistenceLayer.from_url("redis://127.0.0.1:1", timeout_seconds=0.2)
    before = set(threading.enumerate())
    begun, gate = threading.Event(), threading.Event()
    start = threading.Thread.start

    def slow_start(thread):
        begun.set()
        gate.wait(5)
        start(thread)

    def acquire():
        with pytest.raises(IdempotencyPersistenceConnectionError):
            layer.acquire(a_claim())

    acquiring = threading.Thread(target=acquire)
    acquiring.start()
    monkeypatch.setattr(threading.Thread, "start", slow_start)
    assert begun.wait(5)
    layer.close()
    gate.set()
    acquiring.join()
    layer.close()
    assert set(threading.enumerate()) <= before
