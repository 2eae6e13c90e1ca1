"""`min_replicas`: replicas acknowledge a claim in the round trip of `acquire`, or the claim is released."""

import pytest
import redis
import redis.asyncio

from idempotency_mw.asgi import IdempotencyMiddleware
from idempotency_mw.core.record import Acquired, Existing, Settled
from idempotency_mw.errors import (
    IdempotencyConfigurationError,
    IdempotencyPersistenceConnectionError,
    IdempotencyPersistenceLayerError,
    IdempotencyRecordError,
)
from idempotency_mw.persistence.redis import AsyncRedisPersistenceLayer, RedisConnection, RedisPersistenceLayer
from idempotency_mw.persistence.redis.clients.closing import closers
from tests.clusters import SERVICE, RedisCluster, RedisSentinel, until
from tests.persistence.driven import Claim, Operation, a_claim, driven, rival
from tests.proxy import Proxy
from tests.servers import RedisServer
from tests.timing import fastest, seconds

httpx = pytest.importorskip("httpx")

SHORT = 0.6
PATIENCE = 10.0
SLACK = 0.1
PREFIX = "idempotency:"
AT_ONCE = ("--repl-diskless-sync-delay", "0")


@pytest.fixture(scope="module")
def master(any_binary):
    with RedisServer(any_binary, *AT_ONCE) as started:
        yield started


@pytest.fixture(scope="module")
def only_replica(any_binary, master):
    with RedisServer(any_binary, "--replicaof", "127.0.0.1", str(master.port)) as started:
        until(lambda: replicas_online(master) == 1)
        yield started


@pytest.fixture
def replica(only_replica, master):
    yield only_replica
    only_replica.thaw()
    until(lambda: acknowledges(master))


def replicas_online(server):
    with server.client() as store:
        info = store.info("replication")
    return sum(info[f"slave{n}"]["state"] == "online" for n in range(info["connected_slaves"]))


def acknowledges(server):
    with server.client() as store:
        store.set("asked", 1, px=1000)
        return store.wait(1, 1000) == 1


@pytest.fixture
def store(master):
    with master.client() as client:
        yield client


@pytest.fixture
def proxy(master):
    with Proxy(master.port) as proxy:
        yield proxy


@pytest.fixture
def layer(kind, proxy, replica):
    with driven(kind.from_url(proxy.url, timeout_seconds=PATIENCE, min_replicas=1)) as layer:
        layer.release(a_claim())  # from here on it is connected, and the server knows the scripts
        layer.acquire(a_claim())
        proxy.requests.clear()
        yield layer


def test_a_claim_and_its_acknowledgement_are_one_message(layer, proxy):
    claim = a_claim()
    assert layer.acquire(claim) == Acquired(1)
    assert len(proxy.requests) == 1
    assert b"EVALSHA" in proxy.requests[0]
    assert b"WAIT" in proxy.requests[0]


def test_completing_waits_for_no_replica(layer, proxy):
    claim = a_claim()
    layer.acquire(claim)
    proxy.requests.clear()
    assert layer.extend(claim) is True
    assert layer.complete(claim, b"done") == Settled()
    assert proxy.count(b"WAIT") == 0


def test_without_the_option_no_replica_is_waited_for(kind, proxy):
    with driven(kind.from_url(proxy.url)) as layer:
        assert layer.acquire(a_claim()) == Acquired(1)
    assert proxy.count(b"WAIT") == 0


def test_a_claim_that_no_replica_acknowledges_is_released_and_refused_within_the_deadline(layer, replica, store):
    layer.layer.timeout_seconds = SHORT
    replica.freeze()
    claim = a_claim()

    def refused():
        with pytest.raises(IdempotencyPersistenceConnectionError, match="0 of 1 replicas"):
            layer.acquire(claim)
        assert store.exists(PREFIX + claim.storage_key) == 0

    bound = SHORT + SLACK
    assert SHORT / 2 - SLACK <= fastest(lambda: seconds(refused), bound) <= bound
    replica.thaw()
    layer.layer.timeout_seconds = PATIENCE
    assert layer.acquire(rival(claim)) == Acquired(1)


def test_the_message_counts_those_that_did_acknowledge(kind, master, replica):
    with (
        driven(kind.from_url(master.url, timeout_seconds=SHORT, min_replicas=2)) as layer,
        pytest.raises(IdempotencyPersistenceConnectionError, match="1 of 2 replicas"),
    ):
        layer.acquire(a_claim())


def test_a_refused_claim_is_released_once(layer, proxy, replica):
    layer.layer.timeout_seconds = SHORT
    replica.freeze()
    with pytest.raises(IdempotencyPersistenceConnectionError):
        layer.acquire(a_claim())
    layer.close()
    assert len(proxy.requests) == 2


def test_an_existing_record_needs_no_acknowledgement(layer, replica):
    done, running = a_claim(), a_claim()
    layer.acquire(running)
    layer.acquire(done)
    layer.complete(done, b"done")
    replica.freeze()
    layer.layer.timeout_seconds = SHORT
    assert isinstance(layer.acquire(rival(running)), Existing)
    assert layer.acquire(rival(done)).record.result == b"done"


def test_a_claim_whose_reply_was_lost_is_acknowledged_when_it_is_asked_for_again(layer, proxy, replica, store):
    proxy.when(b"EVALSHA", "cut reply")
    assert layer.acquire(a_claim()) == Acquired(1)
    assert proxy.count(b"WAIT") == 2
    layer.layer.timeout_seconds = SHORT
    replica.freeze()
    proxy.when(b"EVALSHA", "cut request")
    claim = a_claim()
    with pytest.raises(IdempotencyPersistenceConnectionError, match="0 of 1"):
        layer.acquire(claim)
    assert store.exists(PREFIX + claim.storage_key) == 0


def test_a_wait_that_is_not_answered_with_a_number_is_an_error_and_the_claim_is_released(layer, proxy):
    claim = a_claim()
    proxy.when(b"WAIT", "answer request", reply=b":1\r\n+OK\r\n")
    with pytest.raises(IdempotencyRecordError):
        layer.acquire(claim)
    asked, released = proxy.requests
    assert b"WAIT" in asked
    assert claim.token.encode() in released


def test_a_server_that_lost_the_scripts_is_waited_for_again(layer, proxy, store):
    store.script_flush()
    assert layer.acquire(a_claim()) == Acquired(1)
    assert proxy.count(b"WAIT") == 2
    assert len(proxy.requests) == 2


def test_a_wait_is_over_before_the_clients_own_time_out(kind, master, replica):
    module = redis if kind is RedisPersistenceLayer else redis.asyncio
    given = module.Redis(port=master.port, socket_timeout=SHORT, socket_connect_timeout=SHORT, retry=None)
    with driven(kind(given, timeout_seconds=PATIENCE, min_replicas=1)) as layer:
        assert layer.acquire(a_claim()) == Acquired(1)
        replica.freeze()

        def refused():
            with pytest.raises(IdempotencyPersistenceConnectionError, match="0 of 1"):
                layer.acquire(a_claim())

        assert fastest(lambda: seconds(refused), SHORT + SLACK) <= SHORT + SLACK
        for close in closers(given):
            layer.runner.run(close()) if kind is AsyncRedisPersistenceLayer else close()


def test_an_acl_that_forbids_wait_leaves_no_claim(kind, master, replica, store):
    rules = "~idempotency:* -@all +hello +eval +evalsha +get +set +del +time +pttl"
    store.execute_command("ACL", "SETUSER", "app", "reset", "on", ">pw", *rules.split())
    url = f"redis://app:pw@127.0.0.1:{master.port}"
    with driven(kind.from_url(url, timeout_seconds=PATIENCE, min_replicas=1)) as layer:
        claim = a_claim()
        with pytest.raises(IdempotencyPersistenceLayerError) as refused:
            layer.acquire(claim)
        assert not isinstance(refused.value, IdempotencyPersistenceConnectionError)
        assert store.exists(PREFIX + claim.storage_key) == 0
        store.execute_command("ACL", "SETUSER", "app", "+wait")
        assert layer.acquire(claim) == Acquired(1)
    store.execute_command("ACL", "DELUSER", "app")


async def test_a_request_whose_claim_is_not_acknowledged_gets_503_and_does_not_run(master, replica):
    ran = []

    async def app(scope, receive, send):
        ran.append(scope["path"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})

    async with AsyncRedisPersistenceLayer.from_url(master.url, timeout_seconds=SHORT, min_replicas=1) as layer:
        wrapped = IdempotencyMiddleware(app, persistence_store=layer)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(wrapped), base_url="http://test") as http:
            replica.freeze()
            assert (await http.post("/", headers={"Idempotency-Key": "k-1"})).status_code == 503
            assert ran == []
            replica.thaw()
            layer.timeout_seconds = PATIENCE
            assert (await http.post("/", headers={"Idempotency-Key": "k-1"})).status_code == 200
            assert ran == ["/"]


@pytest.mark.parametrize("value", [-1, 1.0, True, "1", None])
def test_an_invalid_number_of_replicas_is_refused(kind, value):
    with pytest.raises(IdempotencyConfigurationError, match="min_replicas"):
        kind.from_url("redis://localhost", min_replicas=value)
    with pytest.raises(IdempotencyConfigurationError, match="min_replicas"):
        kind.connect(RedisConnection(), min_replicas=value)


def test_replicas_need_a_client_with_a_pipeline():
    class Client:
        async def execute_command(self, *args, **options):
            return 1

    assert AsyncRedisPersistenceLayer(Client()).min_replicas == 0
    with pytest.raises(IdempotencyConfigurationError, match="pipeline"):
        AsyncRedisPersistenceLayer(Client(), min_replicas=1)


def test_replicas_behind_a_sentinel_acknowledge(kind, any_binary, master, replica):
    with RedisSentinel(any_binary, master) as sentinel:
        where = RedisConnection(mode="sentinel", sentinels=[("127.0.0.1", sentinel.port)], service_name=SERVICE)
        with driven(kind.connect(where, timeout_seconds=PATIENCE, min_replicas=1)) as layer:
            assert layer.acquire(a_claim()) == Acquired(1)
            replica.freeze()
            layer.layer.timeout_seconds = SHORT
            with pytest.raises(IdempotencyPersistenceConnectionError, match="0 of 1"):
                layer.acquire(a_claim())
            replica.thaw()


@pytest.fixture(scope="module")
def replicated(any_binary):
    """Three masters with a replica each."""
    with RedisCluster(any_binary, *AT_ONCE, replicas=1) as started:
        yield started


def claim_in(slot):
    """Return a claim whose key lies in this slot."""
    claim = a_claim()
    for number in range(1_000_000):
        name = f"{claim.storage_key}-{number}"
        if redis.crc.key_slot((PREFIX + name).encode()) == slot:
            return Claim(Operation(name, claim.fingerprint), claim.token, 60_000, 60_000)
    raise AssertionError(slot)


def tell(node, *command):
    with node.client() as client:
        return client.execute_command(*command)


def test_in_a_cluster_the_owner_of_the_slot_is_waited_for(kind, replicated):
    where = RedisConnection(mode="cluster", host="127.0.0.1", port=replicated.masters[0].port)
    with driven(kind.connect(where, timeout_seconds=PATIENCE, min_replicas=1)) as layer:
        for slot in (0, 8000, 16000):  # one slot of each master
            claim = claim_in(slot)
            assert layer.acquire(claim) == Acquired(1)
            assert isinstance(layer.acquire(rival(claim)), Existing)
        frozen = replicated.replicas[1]
        frozen.freeze()
        try:
            layer.layer.timeout_seconds = SHORT
            assert layer.acquire(claim_in(1)) == Acquired(1)
            with pytest.raises(IdempotencyPersistenceConnectionError, match="0 of 1"):
                layer.acquire(claim_in(8001))
        finally:
            frozen.thaw()


def test_in_a_cluster_a_slot_that_moves_is_followed(kind, replicated):
    source, target = replicated.masters[:2]
    where = RedisConnection(mode="cluster", host="127.0.0.1", port=source.port)
    ids = {node: tell(node, "CLUSTER", "MYID").decode() for node in replicated.masters}
    slot = 10 if kind is RedisPersistenceLayer else 11
    with driven(kind.connect(where, timeout_seconds=PATIENCE, min_replicas=1)) as layer:
        assert layer.acquire(claim_in(slot)) == Acquired(1)
        tell(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source])
        tell(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target])
        claim = claim_in(slot)
        assert layer.acquire(claim) == Acquired(1)  # the key is looked for at the target
        assert isinstance(layer.acquire(rival(claim)), Existing)
        for key in tell(source, "CLUSTER", "GETKEYSINSLOT", slot, 10):
            tell(source, "MIGRATE", "127.0.0.1", target.port, key, 0, 1000)
        for node in (target, source, *replicated.masters):
            tell(node, "CLUSTER", "SETSLOT", slot, "NODE", ids[target])
        assert layer.acquire(claim_in(slot)) == Acquired(1)  # moved
        assert isinstance(layer.acquire(rival(claim)), Existing)


@pytest.mark.fault(21)
def test_in_a_cluster_the_first_slot_of_a_new_node_is_followed(kind, any_binary, replicated):
    source, slot = replicated.masters[0], 20
    where = RedisConnection(mode="cluster", host="127.0.0.1", port=source.port)
    options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "1000")
    with (
        RedisServer(any_binary, *options) as newcomer,
        driven(kind.connect(where, timeout_seconds=PATIENCE)) as layer,
    ):
        assert layer.acquire(claim_in(slot)) == Acquired(1)  # from here on this client knows the slots
        tell(newcomer, "CLUSTER", "MEET", "127.0.0.1", source.port)
        # First: while a node imports a slot, Redis 7.0 does not learn from others who owns it, and stays down.
        until(lambda: b"cluster_state:ok" in tell(newcomer, "CLUSTER", "INFO"))
        ids = {node: tell(node, "CLUSTER", "MYID").decode() for node in (source, newcomer)}
        until(lambda: tell(newcomer, "CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source]))
        until(lambda: tell(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", ids[newcomer]))
        claim = claim_in(slot)
        try:
            assert layer.acquire(claim) == Acquired(1)
            assert layer.complete(claim, b"x" * 20_000) == Settled()
            assert layer.acquire(rival(claim)).record.result == b"x" * 20_000
            layer.layer.min_replicas = 1
            layer.layer.timeout_seconds = SHORT
            with pytest.raises(IdempotencyPersistenceConnectionError, match="0 of 1"):  # it has no replica
                layer.acquire(claim_in(slot))
        finally:
            tell(source, "CLUSTER", "SETSLOT", slot, "STABLE")


def test_in_a_cluster_a_failover_is_followed(kind, replicated):
    """This is the last test of the file, because the cluster loses a master."""
    lost, slot = (2, 16000) if kind is RedisPersistenceLayer else (1, 8000)
    where = RedisConnection(mode="cluster", host="127.0.0.1", port=replicated.masters[0].port)
    with driven(kind.connect(where, timeout_seconds=PATIENCE, min_replicas=1)) as layer:
        assert layer.acquire(claim_in(slot)) == Acquired(1)
        replicated.masters[lost].kill()
        until(lambda: tell(replicated.replicas[lost], "ROLE")[0] == b"master")
        until(lambda: b"cluster_state:ok" in tell(replicated.replicas[lost], "CLUSTER", "INFO"))
        layer.layer.timeout_seconds = 4.0  # half for the WAIT, half for a busy machine to find the new master
        with pytest.raises(IdempotencyPersistenceConnectionError, match="0 of 1"):  # the new master has no replica
            layer.acquire(claim_in(slot))
