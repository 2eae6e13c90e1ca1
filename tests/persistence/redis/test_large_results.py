"""Large results are set under a temporary key and renamed in one round trip, and do not pass through Lua."""

from dataclasses import replace

import pytest
import redis
import redis.asyncio

from idempotency_mw.core.record import Acquired, Lost, Settled, Status
from idempotency_mw.errors import IdempotencyRecordError
from idempotency_mw.persistence.frame import Frame
from idempotency_mw.persistence.redis import AsyncRedisPersistenceLayer, RedisConnection, RedisPersistenceLayer
from idempotency_mw.persistence.redis import layer as redis_layer
from idempotency_mw.persistence.redis.clients.closing import closers
from idempotency_mw.persistence.redis.commands import LARGE, temporary_key
from tests.persistence.driven import Claim, Operation, a_claim, driven, rival
from tests.persistence.redis.test_agreement import by_the_model, outcome
from tests.persistence.redis.test_conformance import OnCluster, OnOneServer
from tests.persistence.test_frame import GOLDEN, contradictions, flips
from tests.persistence.test_frame import TOKEN as GOLDEN_TOKEN
from tests.servers import RedisServer

PREFIX = "idempotency:"
RESULT = bytes(range(256)) * (LARGE // 256 + 1)
TOKEN = "f" * 32


@pytest.fixture
def store(any_server):
    with any_server.client() as client:
        yield client


@pytest.fixture
def layer(kind, proxy):
    with driven(kind.from_url(proxy.url, timeout_seconds=10)) as layer:
        claim = a_claim()
        layer.acquire(claim)  # from here on it is connected, and the server knows the scripts
        layer.complete(claim, RESULT)
        layer.complete(claim, b"")
        proxy.requests.clear()
        yield layer


@pytest.fixture
def claim(layer, proxy):
    claim = a_claim()
    layer.acquire(claim)
    proxy.requests.clear()
    return claim


def assert_nothing_temporary(store):
    assert not [key for key in store.scan_iter(count=1000) if b"{" in key]


def key_of(claim):
    return PREFIX + claim.storage_key


def sent_to_scripts(proxy):
    """Return how many bytes followed a script's name."""
    sent = b"".join(proxy.requests)
    return len(sent) - sent.find(b"EVALSHA")


def test_a_large_result_and_its_script_are_one_message(layer, claim, proxy, store):
    assert layer.complete(claim, RESULT) == Settled()
    assert proxy.count(b"EVALSHA") == 1
    assert sum(request.startswith(b"*") for request in proxy.requests) == 1
    assert sent_to_scripts(proxy) < 1000
    frame = Frame.decode(store.get(key_of(claim)))
    assert frame.result == RESULT
    assert 0 < store.pttl(key_of(claim)) <= claim.retention_ms
    assert abs(store.pttl(key_of(claim)) - claim.retention_ms) < 5_000
    assert_nothing_temporary(store)
    assert layer.acquire(rival(claim)).record.result == RESULT


@pytest.mark.parametrize("length", [0, LARGE - 1])
def test_a_smaller_result_goes_through_the_script(layer, claim, proxy, length):
    assert layer.complete(claim, b"x" * length) == Settled()
    assert sent_to_scripts(proxy) > length
    assert proxy.count(b"PX") == 0


@pytest.mark.parametrize("length", [LARGE, 3 << 20])
def test_any_length_arrives_whole(layer, claim, length):
    assert layer.complete(claim, b"x" * length) == Settled()
    assert layer.acquire(rival(claim)).record.result == b"x" * length


def test_a_claim_that_is_gone_is_not_created_and_no_temporary_key_is_left(layer, claim, store):
    store.delete(key_of(claim))
    assert layer.complete(claim, RESULT) == Lost(None)
    assert store.exists(key_of(claim)) == 0
    assert_nothing_temporary(store)


def test_another_owner_changes_nothing_and_leaves_no_temporary_key(layer, claim, store):
    standing = store.get(key_of(claim))
    answer = layer.complete(rival(claim), RESULT)
    assert answer.record.attempt == 1
    assert store.get(key_of(claim)) == standing
    assert_nothing_temporary(store)


@pytest.mark.parametrize("result", [b"small", RESULT], ids=["small", "large"])
def test_another_owner_gets_the_rest_of_the_lease_and_then_the_life_of_the_record(layer, claim, result):
    mine = replace(claim, lease_ms=20_000, retention_ms=80_000)
    assert layer.extend(mine) is True
    assert 10_000 < layer.complete(rival(claim), result).record.remaining_ms <= 20_000
    assert layer.complete(mine, result) == Settled()
    assert 70_000 < layer.complete(rival(claim), result).record.remaining_ms <= 80_000


def test_a_completed_record_is_final(layer, claim, store):
    assert layer.complete(claim, RESULT) == Settled()
    assert layer.complete(claim, RESULT[::-1]) == Settled()
    assert layer.acquire(rival(claim)).record.result == RESULT
    assert_nothing_temporary(store)


@pytest.mark.fault(14)
def test_a_complete_whose_reply_was_lost_is_settled(layer, claim, proxy, store):
    proxy.when(b"EVALSHA", "cut reply")
    assert layer.complete(claim, RESULT) == Settled()
    assert layer.acquire(rival(claim)).record.result == RESULT
    assert_nothing_temporary(store)


@pytest.mark.fault(6)
def test_a_script_that_the_server_lost_is_sent_without_the_result(layer, claim, proxy, store):
    store.script_flush()
    assert layer.complete(claim, RESULT) == Settled()
    assert sum(map(len, proxy.requests)) < 1.6 * len(RESULT) + 4000
    assert layer.acquire(rival(claim)).record.result == RESULT


@pytest.mark.fault(16)
def test_a_full_server_gets_the_result_through_the_script(kind, any_binary):
    with RedisServer(any_binary) as server, driven(kind.from_url(server.url)) as layer, server.client() as store:
        claims = [a_claim(), a_claim()]
        for claim in claims:
            layer.acquire(claim)
        store.config_set("maxmemory", 1)
        assert layer.complete(claims[0], RESULT) == Settled()
        store.script_flush()
        assert layer.complete(claims[1], RESULT) == Settled()
        for claim in claims:
            assert layer.acquire(rival(claim)).record.result == RESULT
        assert_nothing_temporary(store)


@pytest.mark.parametrize("forbidden", ["setrange", "pexpire", "rename"])
def test_with_an_acl_that_forbids_renaming_the_result_passes_through_the_script(kind, server, forbidden):
    needed = f"+eval +evalsha +get +set +del +time +pttl +setrange +pexpire +rename -{forbidden}"
    with server.client() as store:
        rules = f"~idempotency:* -@all +hello {needed}"
        store.execute_command("ACL", "SETUSER", "app", "reset", "on", ">pw", *rules.split())
        with driven(kind.from_url(f"redis://app:pw@127.0.0.1:{server.port}", timeout_seconds=10)) as layer:
            claim = a_claim()
            layer.acquire(claim)
            assert layer.complete(claim, RESULT) == Settled()
            assert layer.acquire(rival(claim)).record.result == RESULT
            assert all(store.pttl(key) <= 10_000 for key in store.scan_iter() if b"{" in key)
            store.delete(*store.scan_iter())
        store.execute_command("ACL", "DELUSER", "app")


class Interrupted:
    """A client with its own `send_pipeline`, which loses the value under the temporary key."""

    def __init__(self, client):
        self.execute_command = client.execute_command
        self.trips = []

    def send_pipeline(self, commands):
        self.trips.append([command[0] for command in commands])
        return [self._one(command) for command in commands]

    def _one(self, command):
        try:
            reply = self.execute_command(*command)
        except redis.ResponseError as error:
            return error
        if command[0] == "SET":
            self.execute_command("DEL", command[1])
        return reply


@pytest.mark.filterwarnings("ignore:this client can wait:RuntimeWarning")
def test_a_result_that_is_gone_from_its_temporary_key_goes_through_the_script(store):
    client = Interrupted(store)
    layer, claim = RedisPersistenceLayer(client), a_claim()
    assert layer.acquire(claim) == Acquired(1)
    assert layer.complete(claim, RESULT) == Settled()
    assert client.trips[0] == ["SET", "EVALSHA"]
    assert client.trips[-1] in (["EVALSHA"], ["EVAL"])
    assert layer.acquire(rival(claim)).record.result == RESULT
    assert_nothing_temporary(store)


async def test_an_async_client_with_a_pipeline_of_its_own_is_given_the_commands(store, any_server):
    given = redis.asyncio.Redis(port=any_server.port)

    class Client:
        trips = 0

        async def execute_command(self, *args, **options):
            return await given.execute_command(*args, **options)

        async def send_pipeline(self, commands):
            self.trips += 1
            pipeline = given.pipeline(transaction=False)
            for command in commands:
                pipeline.execute_command(*command)
            return await pipeline.execute(raise_on_error=False)

    client = Client()
    layer, claim = AsyncRedisPersistenceLayer(client), a_claim()
    assert await layer.acquire(claim) == Acquired(1)
    assert await layer.complete(claim, RESULT) == Settled()
    assert client.trips >= 1
    assert (await layer.acquire(rival(claim))).record.result == RESULT
    await closers(given)[0]()


@pytest.mark.filterwarnings("ignore:this client can wait:RuntimeWarning")
def test_a_client_without_a_pipeline_sends_the_result_through_the_script(store):
    class Client:
        execute_command = store.execute_command

    layer, claim = RedisPersistenceLayer(Client()), a_claim()
    layer.acquire(claim)
    assert layer.complete(claim, RESULT) == Settled()
    assert layer.acquire(rival(claim)).record.result == RESULT


@pytest.mark.parametrize("prefix", ["", "a:", "{t}", "{t}:", "a{t}b:", "{}", "a{", "a}", "}{t}", "{t", "{a}{b}"])
def test_a_temporary_key_begins_with_the_prefix_and_shares_the_slot_or_there_is_none(prefix):
    key = prefix + "0" * 64
    temporary = temporary_key(prefix, key, TOKEN)
    if temporary is None:
        assert prefix in ("{}", "a{", "a}", "{t")
    else:
        assert temporary.startswith(prefix)
        assert TOKEN in temporary
        assert redis.crc.key_slot(temporary.encode()) == redis.crc.key_slot(key.encode())
        assert temporary != key


@pytest.mark.parametrize("prefix", ["{t}:", "a{t}b:", "{}", "a{", "a}"])
def test_braces_in_a_prefix_do_no_harm_in_a_cluster(kind, cluster, prefix):
    where = RedisConnection(mode="cluster", host="127.0.0.1", port=cluster.masters[0].port)
    with driven(kind.connect(where, key_prefix=prefix, timeout_seconds=10)) as layer:
        for _ in range(3):
            claim = a_claim()
            assert layer.acquire(claim) == Acquired(1)
            assert layer.complete(claim, RESULT) == Settled()
            assert layer.acquire(rival(claim)).record.result == RESULT


@pytest.mark.fault(21)
def test_a_slot_that_moves_gets_the_result_all_the_same(kind, cluster):
    with driven(kind.connect(RedisConnection(url=cluster.url, mode="cluster"), timeout_seconds=10)) as layer:
        claims = [a_claim() for _ in range(3)]
        for claim in claims:
            layer.acquire(claim)
        slot, source, target = where_is(cluster, key_of(claims[0]))
        ids = {node: tell(node, "CLUSTER", "MYID").decode() for node in cluster.masters}
        tell(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source])
        tell(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target])
        # The record is still at the source, which takes no new keys for this slot.
        assert layer.complete(claims[0], RESULT) == Settled()
        tell(source, "MIGRATE", "127.0.0.1", target.port, key_of(claims[0]), 0, 1000)
        for node in (target, source, *cluster.masters):
            tell(node, "CLUSTER", "SETSLOT", slot, "NODE", ids[target])
        assert layer.acquire(rival(claims[0])).record.result == RESULT
        with target.client() as store:
            store.delete(key_of(claims[0]))
            assert layer.acquire(claims[0]) == Acquired(1)
        assert layer.complete(claims[0], RESULT) == Settled()  # moved
        assert layer.acquire(rival(claims[0])).record.result == RESULT
        for claim in claims[1:]:
            assert layer.complete(claim, RESULT) == Settled()


def where_is(cluster, key):
    slot = redis.crc.key_slot(key.encode())
    source = next(node for node in cluster.masters if owns(node, slot))
    return slot, source, next(node for node in cluster.masters if node is not source)


def owns(node, slot):
    with node.client() as client:
        try:
            client.execute_command("EXISTS", _key_in(slot))
        except redis.ResponseError:
            return False
        return True


def _key_in(slot):
    return next(str(n) for n in range(1_000_000) if redis.crc.key_slot(str(n).encode()) == slot)


def tell(node, *command):
    with node.client() as client:
        return client.execute_command(*command)


@pytest.mark.row(52)
@pytest.mark.fault(22)
def test_the_scripts_for_large_and_small_results_agree_on_every_flipped_bit(server, monkeypatch):
    monkeypatch.setattr(redis_layer, "LARGE", 0)
    golden = GOLDEN[Status.IN_PROGRESS]
    claim = Claim(Operation("the-key", Frame.decode(golden).fingerprint), GOLDEN_TOKEN, 60_000, 60_000)
    with server.client() as store, RedisPersistenceLayer.from_url(server.url, timeout_seconds=10) as layer:
        now_ms = store.time()[0] * 1000
        for data in (golden, *flips(golden), *GOLDEN.values(), *contradictions().values()):
            store.set(key_of(claim), data, px=60_000)
            expected = outcome(by_the_model, "complete", data, claim, now_ms)
            wanted, changes = (expected, False) if expected is IdempotencyRecordError else expected
            assert outcome(layer.complete, claim, b"done") == outcome(lambda wanted=wanted: wanted), data
            assert changes or store.get(key_of(claim)) == data
        assert_nothing_temporary(store)


class EveryResultIsLarge:
    """The conformance suite, with every result stored as a large one."""

    @pytest.fixture(autouse=True)
    def _large(self, monkeypatch):
        monkeypatch.setattr(redis_layer, "LARGE", 0)


class TestBlocking(EveryResultIsLarge, OnOneServer):
    def make_layer(self):
        return RedisPersistenceLayer.from_url(self.server.url, timeout_seconds=10)


class TestAsyncThatDecodes(EveryResultIsLarge, OnOneServer):
    def make_layer(self):
        self.given = redis.asyncio.Redis(port=self.server.port, decode_responses=True)
        return AsyncRedisPersistenceLayer(self.given, timeout_seconds=10)

    def teardown_method(self):
        self._runner.run(closers(self.given)[0]())
        super().teardown_method()


class TestAsyncCluster(EveryResultIsLarge, OnCluster):
    def make_layer(self):
        return AsyncRedisPersistenceLayer.connect(self.connection, timeout_seconds=10)
