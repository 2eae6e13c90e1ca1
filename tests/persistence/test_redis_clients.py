"""How Redis layers are built, checked and closed, and what they make of the clients that they are given."""

import asyncio
import gc
import os
import sys
import threading
import warnings

import pytest
import redis
import redis.asyncio
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.retry import Retry

from idempotency_mw.core.record import Acquired, Existing, Lost, Settled
from idempotency_mw.errors import (
    IdempotencyConfigurationError,
    IdempotencyPersistenceConnectionError,
    IdempotencyPersistenceLayerError,
)
from idempotency_mw.persistence.redis import (
    AsyncRedisPersistenceLayer,
    RedisConnection,
    RedisPersistenceLayer,
    errors,
)
from idempotency_mw.persistence.redis.checks import check_policy, check_version
from idempotency_mw.persistence.redis.clients.closing import closers, drop
from tests.clusters import SERVICE, RedisCluster, until
from tests.persistence.driven import KINDS, a_claim, driven, rival
from tests.proxy import Proxy
from tests.servers import RedisServer

HERE = [("127.0.0.1", 26379)]
SECRET = "s3cr3t-of-the-test"
LARGE_RESULT = b"x" * 20_000

# Everything that the layer says to a server, and nothing else. README.md shows it.
LEAST_PRIVILEGE = "resetkeys ~idempotency:* resetchannels -@all +eval +evalsha +get +set +del +time +pttl"
# What spares the server most of the cost of large results; test_redis_large.py shows what is without it.
FOR_LARGE = "+setrange +pexpire +rename"
FOR_REPLICAS = "+wait"
# What redis-py itself says when it connects.
CONNECTING = "+hello +client|setinfo"
CHECKING = "+info +config|get"


@pytest.fixture(params=KINDS)
def kind(request):
    return KINDS[request.param]


@pytest.mark.parametrize(
    "values",
    [
        {"mode": "single"},
        {"url": 5},
        {"url": "http://localhost"},
        {"url": "redis://localhost:port/0"},
        {"url": "redis://localhost?max_connections=many"},
        {"url": "redis://localhost", "host": "localhost"},
        {"url": "redis://localhost", "port": 6379},
        {"url": "redis://localhost", "username": "me"},
        {"url": "redis://localhost", "password": SECRET},
        {"url": "redis://localhost", "db_index": 0},
        {"url": "redis://localhost", "ssl": True},
        {"url": "redis://localhost", "mode": "sentinel"},
        {"url": "redis://localhost/1", "mode": "cluster"},
        {"url": "unix:///socket", "mode": "cluster"},
        {"mode": "cluster", "db_index": 1},
        {"mode": "sentinel"},
        {"mode": "sentinel", "sentinels": HERE},
        {"mode": "sentinel", "service_name": SERVICE},
        {"mode": "sentinel", "sentinels": HERE, "service_name": SERVICE, "host": "localhost"},
        {"mode": "sentinel", "sentinels": HERE, "service_name": SERVICE, "port": 6379},
        {"mode": "sentinel", "sentinels": ["127.0.0.1:26379"], "service_name": SERVICE},
        {"sentinels": HERE},
        {"service_name": SERVICE},
        {"sentinel_username": "me"},
        {"mode": "cluster", "sentinel_password": SECRET},
        {"port": 0},
        {"port": 65536},
        {"port": "6379"},
        {"port": True},
        {"db_index": -1},
    ],
    ids=str,
)
def test_a_connection_that_contradicts_itself_is_refused(values):
    with pytest.raises(IdempotencyConfigurationError) as refused:
        RedisConnection(**values)
    assert SECRET not in str(refused.value)


def test_a_url_and_single_values_say_the_same():
    by_url = RedisConnection(url="redis://me:pw@there:7000/3").options()
    by_values = RedisConnection(host="there", port=7000, username="me", password="pw", db_index=3).options()
    assert by_url == {key: value for key, value in by_values.items() if key != "ssl"}
    assert RedisConnection(url="rediss://there").options()["ssl"] is True
    assert RedisConnection().options() == {
        "username": None,
        "password": None,
        "ssl": False,
        "db": 0,
        "host": "localhost",
        "port": 6379,
    }


@pytest.mark.row(59)
def test_no_repr_shows_a_secret(kind):
    url = f"redis://{SECRET}:{SECRET}@localhost:1/0"
    shown = [
        repr(RedisConnection(url=url)),
        repr(RedisConnection(username=SECRET, password=SECRET)),
        repr(RedisConnection(mode="sentinel", sentinels=HERE, service_name=SERVICE, sentinel_password=SECRET)),
        repr(kind.from_url(url)),
        repr(a_claim(token=SECRET)),
    ]
    assert not [each for each in shown if SECRET in each]


@pytest.mark.row(59)
def test_no_error_shows_a_secret(kind, any_server):
    url = f"redis://{SECRET}:{SECRET}@127.0.0.1:{any_server.port}/0"
    with driven(kind.from_url(url)) as layer, pytest.raises(IdempotencyPersistenceLayerError) as refused:
        layer.acquire(a_claim())
    assert SECRET not in f"{refused.value}{refused.value.__cause__}"


@pytest.mark.parametrize("timeout", [0, -1, 3601, float("nan"), float("inf"), "2", True, None])
def test_a_time_out_that_can_not_be_meant_is_refused(kind, timeout):
    with pytest.raises(IdempotencyConfigurationError):
        kind.from_url("redis://localhost", timeout_seconds=timeout)


def test_a_prefix_that_is_not_text_is_refused(kind):
    with pytest.raises(IdempotencyConfigurationError):
        kind.from_url("redis://localhost", key_prefix=b"idempotency:")


def test_the_prefix_stands_before_the_storage_key(kind, any_server):
    with driven(kind.from_url(any_server.url, key_prefix="mine/")) as layer, any_server.client() as store:
        claim = a_claim()
        layer.acquire(claim)
        assert store.exists("mine/" + claim.storage_key) == 1


def test_an_async_client_is_refused_by_the_blocking_layer_and_the_reverse():
    with pytest.raises(IdempotencyConfigurationError, match="AsyncRedisPersistenceLayer"):
        RedisPersistenceLayer(redis.asyncio.Redis())
    with pytest.raises(IdempotencyConfigurationError, match="RedisPersistenceLayer"):
        AsyncRedisPersistenceLayer(redis.Redis())
    with pytest.raises(IdempotencyConfigurationError, match="RedisPersistenceLayer"):
        AsyncRedisPersistenceLayer(None)


def test_options_for_a_client_that_is_brought_along_are_refused():
    with pytest.raises(IdempotencyConfigurationError, match="socket_timeout"):
        AsyncRedisPersistenceLayer(redis.asyncio.Redis(), socket_timeout=1)


def quick(**options):
    waits = {"socket_timeout": 0.5, "socket_connect_timeout": 0.5, "retry": Retry(NoBackoff(), 1)}
    return redis.Redis(**waits | options)


def test_a_client_that_keeps_within_the_time_out_is_taken_without_a_word():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        RedisPersistenceLayer(quick(), timeout_seconds=2.0)


@pytest.mark.parametrize(
    "options",
    [
        {"socket_timeout": None},
        {"socket_connect_timeout": None},
        {"socket_timeout": 2},
        {"retry": Retry(NoBackoff(), 3)},
    ],
    ids=["reads", "connects", "is slow to read", "tries again"],
)
def test_a_client_that_can_exceed_the_time_out_is_warned_of(options):
    with pytest.warns(RuntimeWarning, match="timeout_seconds=2"):
        RedisPersistenceLayer(quick(**options), timeout_seconds=2.0)


def test_a_client_without_a_known_bound_is_warned_of():
    class Client:
        def execute_command(self, *args, **options):
            return 1

    with pytest.warns(RuntimeWarning, match="without bound"):
        layer = RedisPersistenceLayer(Client())
    assert layer.extend(a_claim()) is True


def test_a_client_that_is_brought_along_is_not_closed(any_server):
    client = quick(port=any_server.port)
    with RedisPersistenceLayer(client) as layer:
        layer.acquire(a_claim())
        held = client.connection_pool._available_connections[0]
    assert held._sock is not None
    client.close()


async def test_an_async_client_that_is_brought_along_is_not_closed(any_server):
    client = redis.asyncio.Redis(port=any_server.port)
    async with AsyncRedisPersistenceLayer(client) as layer:
        await layer.acquire(a_claim())
    assert client.connection_pool._available_connections[0].is_connected
    await closers(client)[0]()


def connections(server, cluster, sentinel):
    """Return how to reach each of them, by mode."""
    return {
        "standalone": RedisConnection(url=server.url),
        "cluster": RedisConnection(mode="cluster", host="127.0.0.1", port=cluster.masters[0].port),
        "sentinel": RedisConnection(
            mode="sentinel", sentinels=[("127.0.0.1", sentinel.port)], service_name=SERVICE
        ),
    }


def connections_to(*servers):
    """Return how many connections the servers have, without our own question and those of Sentinels and nodes."""
    total = 0
    for server in servers:
        with server.client() as store:
            names = [each["name"] for each in store.client_list()]
        total += sum(not name.startswith("sentinel") for name in names) - 1
    return total


@pytest.mark.parametrize("mode", ["standalone", "cluster", "sentinel"])
def test_a_client_of_our_own_is_closed_and_made_again(kind, mode, any_server, cluster, sentinel):
    where = connections(any_server, cluster, sentinel)[mode]
    servers = [any_server, sentinel, *cluster.masters]
    before = connections_to(*servers)
    with driven(kind.connect(where)) as layer:
        assert layer.acquire(a_claim()) == Acquired(1)
        assert connections_to(*servers) > before
        layer.close()
        until(lambda: connections_to(*servers) == before, within=2)
        assert layer.acquire(a_claim()) == Acquired(1)
    until(lambda: connections_to(*servers) == before, within=2)


def test_closing_what_was_never_used_does_nothing(kind):
    with driven(kind.from_url("redis://localhost:1")):
        pass


def test_a_cluster_is_reached_by_its_url(kind, cluster):
    with driven(kind.connect(RedisConnection(url=cluster.url, mode="cluster"))) as layer:
        assert layer.acquire(a_claim()) == Acquired(1)


def test_a_unix_socket_is_reached_by_its_url(kind, any_binary, tmp_path):
    path = tmp_path / "socket"
    with RedisServer(any_binary, "--unixsocket", str(path)), driven(kind.from_url(f"unix://{path}")) as layer:
        assert layer.acquire(a_claim()) == Acquired(1)


def test_threads_that_begin_at_once_ask_a_cluster_for_its_slots_once(cluster):
    def slots_asked():
        total = 0
        for master in cluster.masters:
            with master.client() as store:
                stats = store.info("commandstats")
            total += sum(each["calls"] for name, each in stats.items() if name in SLOTS)
        return total

    before = slots_asked()
    where = RedisConnection(mode="cluster", host="127.0.0.1", port=cluster.masters[0].port)
    with RedisPersistenceLayer.connect(where, timeout_seconds=10) as layer:
        threads = [threading.Thread(target=layer.acquire, args=(a_claim(),)) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert 1 <= slots_asked() - before <= 2


SLOTS = ("cmdstat_cluster|slots", "cmdstat_cluster|shards")


@pytest.mark.parametrize("mode", ["standalone", "cluster", "sentinel"])
def test_each_event_loop_has_a_client_of_its_own_and_a_closed_one_is_dropped_in_silence(
    mode, any_server, cluster, sentinel
):
    where = connections(any_server, cluster, sentinel)[mode]
    servers = [any_server, sentinel, *cluster.masters]
    layer = AsyncRedisPersistenceLayer.connect(where)
    claim = a_claim()
    assert asyncio.run(layer.acquire(claim)) == Acquired(1)
    first = connections_to(*servers)
    for _ in range(3):
        assert isinstance(asyncio.run(layer.acquire(rival(claim))), Existing)
    gc.collect()  # whatever complains when it is collected does so here
    assert len(layer._own) == 1
    until(lambda: connections_to(*servers) <= first + 1, within=2)  # a cluster may be asked at another node
    asyncio.run(_settled(layer, claim))
    gc.collect()


async def _settled(layer, claim):
    async with layer:
        assert await layer.complete(claim, b"done") == Settled()


def test_a_loop_that_was_closed_in_mid_verb_is_dropped_in_silence(any_server):
    with Proxy(any_server.port) as proxy:
        layer = AsyncRedisPersistenceLayer.from_url(proxy.url)
        asyncio.run(layer.acquire(a_claim()))
        loop = asyncio.new_event_loop()
        proxy.when(b"EVALSHA", "hang reply")
        task = loop.create_task(layer.acquire(a_claim()))
        loop.run_until_complete(asyncio.sleep(0.1))
        task.cancel()
        loop.run_until_complete(asyncio.wait([task]))
        for left in asyncio.all_tasks(loop):
            left.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        asyncio.run(_used_and_closed(layer))
    gc.collect()


async def _used_and_closed(layer):
    async with layer:
        assert await layer.acquire(a_claim()) == Acquired(1)


def test_a_layer_is_used_on_both_sides_of_a_fork(any_server):
    with RedisPersistenceLayer.from_url(any_server.url) as layer:
        claim = a_claim()
        assert layer.acquire(claim) == Acquired(1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of forking with threads, from 3.12 on
            child = os.fork()
        if child == 0:
            os._exit(0 if layer.complete(claim, b"the child's") == Settled() else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert layer.acquire(rival(claim)).record.result == b"the child's"


def test_a_fork_leaves_the_connection_of_its_parents_loop_alone(any_server):
    claim = a_claim()
    with Proxy(any_server.port) as proxy, asyncio.Runner() as runner:
        layer = AsyncRedisPersistenceLayer.from_url(proxy.url)
        assert runner.run(layer.acquire(claim)) == Acquired(1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of forking with threads, from 3.12 on
            child = os.fork()
        if child == 0:
            found = asyncio.run(layer.acquire(rival(claim)))
            os._exit(0 if isinstance(found, Existing) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        proxy.requests.clear()
        assert isinstance(runner.run(layer.acquire(rival(claim))), Existing)
        assert len(proxy.requests) == 1  # on the connection that it had
        runner.run(layer.aclose())


@pytest.mark.parametrize("direct", [True, False], ids=["direct", "usual"])
def test_what_another_process_made_is_dropped_without_striking_its_sockets_off(any_server, direct):
    async def connected():
        layer = AsyncRedisPersistenceLayer.from_url(any_server.url, direct=direct)
        assert await layer.acquire(a_claim()) == Acquired(1)
        return layer._client()

    loop = asyncio.SelectorEventLoop()
    client = loop.run_until_complete(connected())
    heard = set(loop._selector.get_map())
    drop(client, loop, os.getpid() + 1)
    assert set(loop._selector.get_map()) == heard
    loop.close()


def test_without_valkey_py_errors_are_those_of_redis_py(monkeypatch):
    monkeypatch.setitem(sys.modules, "valkey.exceptions", None)
    assert errors._drivers() == [redis.exceptions]


def test_the_check_is_content_with_the_servers_of_these_tests(kind, server):
    with driven(kind.from_url(server.url)) as layer:
        layer.check()


def test_the_check_asks_every_node_of_a_cluster(kind, cluster):
    with driven(kind.connect(RedisConnection(url=cluster.url, mode="cluster"))) as layer:
        layer.check()


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
def test_the_check_warns_of_a_server_that_evicts(kind, any_binary, policy):
    with (
        RedisServer(any_binary, "--maxmemory-policy", policy) as server,
        driven(kind.from_url(server.url)) as layer,
        pytest.warns(RuntimeWarning, match=policy),
    ):
        layer.check()


@pytest.mark.parametrize("version", ["6.2.14", "5.0", "6"])
def test_a_server_that_is_too_old_is_refused(version):
    with pytest.raises(IdempotencyConfigurationError, match=version):
        check_version({"redis_version": version})
    with pytest.raises(IdempotencyConfigurationError, match=version):
        check_version({"a:1": {"redis_version": "7.2.4"}, "b:1": {"redis_version": version}})


@pytest.mark.parametrize("version", ["7.0.0", "7.2.4", "10.1", "8.0-rc1"])
def test_a_server_that_is_new_enough_is_not(version):
    check_version({"redis_version": version})


def test_the_policy_of_each_node_counts():
    check_policy({"maxmemory-policy": "noeviction"})
    with pytest.warns(RuntimeWarning, match="allkeys-lru"):
        check_policy({"a:1": {"maxmemory-policy": "noeviction"}, "b:1": {"maxmemory-policy": "allkeys-lru"}})


def test_the_check_reports_a_server_that_is_not_there_or_refuses(kind, any_server):
    with driven(kind.from_url("redis://127.0.0.1:1")) as layer, pytest.raises(IdempotencyPersistenceLayerError):
        layer.check()
    wrong = f"redis://nobody:nothing@127.0.0.1:{any_server.port}"
    with driven(kind.from_url(wrong)) as layer, pytest.raises(IdempotencyPersistenceLayerError):
        layer.check()


@pytest.fixture
def restricted(server):
    """Return a function that makes a user with these rules, and its URL."""

    def with_rules(rules):
        with server.client() as store:
            # Redis knows this subcommand, and so the rule, from 7.2 on.
            version = store.info("server")["redis_version"].split(".")
            if (int(version[0]), int(version[1])) < (7, 2):
                rules = rules.replace(" +client|setinfo", "")
            store.execute_command("ACL", "SETUSER", "app", "reset", "on", ">pw", *rules.split())
        return f"redis://app:pw@127.0.0.1:{server.port}/0"

    yield with_rules
    with server.client() as store:
        store.execute_command("ACL", "DELUSER", "app")


def test_a_user_with_the_least_privileges_can_do_all_that_the_layer_needs(kind, server, restricted):
    url = restricted(f"{LEAST_PRIVILEGE} {CONNECTING}")
    with server.client() as store, driven(kind.from_url(url)) as layer:
        store.script_flush()
        claim = a_claim()
        assert layer.acquire(claim) == Acquired(1)
        assert layer.extend(claim) is True
        assert layer.complete(claim, b"done") == Settled()
        assert isinstance(layer.acquire(rival(claim)), Existing)
        other = a_claim()
        assert layer.acquire(other) == Acquired(1)
        assert layer.release(other) is True
        assert layer.complete(other, b"done") == Lost(None)
        layer.check()


def test_large_results_and_replicas_need_what_the_readme_says(kind, server, restricted):
    url = restricted(f"{LEAST_PRIVILEGE} {FOR_LARGE} {FOR_REPLICAS} {CONNECTING}")
    with server.client() as store, driven(kind.from_url(url, min_replicas=1)) as layer:
        claim = a_claim()
        with pytest.raises(IdempotencyPersistenceConnectionError, match="0 of 1"):
            layer.acquire(claim)
        layer.layer.min_replicas = 0
        layer.acquire(claim)
        layer.complete(claim, LARGE_RESULT)  # the script is known from here on
        assert layer.acquire(claim).record.result == LARGE_RESULT
        other = a_claim()
        layer.acquire(other)
        before = store.info("errorstats")
        assert layer.complete(other, LARGE_RESULT) == Settled()
        assert store.info("errorstats") == before


def test_no_privilege_of_the_least_is_too_much(server, restricted):
    rules = LEAST_PRIVILEGE.split()
    for rule in [each for each in rules if each.startswith("+")]:
        url = restricted(" ".join([*(each for each in rules if each != rule), CONNECTING]))
        with RedisPersistenceLayer.from_url(url) as layer, pytest.raises(IdempotencyPersistenceLayerError):
            run_all(layer, server)


def run_all(layer, server):
    with server.client() as store:
        store.script_flush()
    claim = a_claim()
    layer.acquire(claim)
    layer.release(claim)
    layer.acquire(claim)
    layer.complete(claim, b"done")
    layer.acquire(rival(claim))


def test_other_keys_are_out_of_reach_for_the_least_privileged(kind, restricted):
    url = restricted(f"{LEAST_PRIVILEGE} {CONNECTING}")
    with (
        driven(kind.from_url(url, key_prefix="other:")) as layer,
        pytest.raises(IdempotencyPersistenceLayerError) as refused,
    ):
        layer.acquire(a_claim())
    assert isinstance(refused.value.__cause__, redis.RedisError)


def test_the_check_warns_where_the_acl_lets_it_see(kind, restricted):
    with driven(kind.from_url(restricted(f"{LEAST_PRIVILEGE} {CONNECTING} {CHECKING}"))) as layer:
        layer.check()


def test_a_connection_that_is_not_open_opens_to_send(any_server):
    with RedisPersistenceLayer.from_url(any_server.url) as layer:
        layer.check()
        connection = layer._own.connection_pool.make_connection()
        connection.send_packed_command(connection.pack_command("PING"))
        assert connection.read_response() in (b"PONG", "PONG")
        connection.disconnect()


def test_a_transport_that_can_not_be_aborted_is_left_to_the_collector():
    class Transport:
        def abort(self):
            raise RuntimeError("Event loop is closed")

    class Writer:
        transport = Transport()

    class Connection:
        _writer = _reader = Writer()

    class Pool:
        _available_connections = (Connection(),)

    class Client:
        connection_pool = Pool()

    loop = asyncio.new_event_loop()
    loop.close()
    drop(Client(), loop, os.getpid())
    assert Pool._available_connections[0]._writer is None


class Crowded:
    """A client that counts how many commands are under way on it at once, and claims whatever is asked."""

    def __init__(self, limit=None):
        self.most = self.now = 0
        if limit is not None:
            self.connection_pool = type("Pool", (), {"max_connections": limit})

    async def execute_command(self, *words, **_):
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0)
        self.now -= 1
        return 1


@pytest.mark.parametrize(("limit", "most"), [(None, 50), (1000, 50), (7, 7)])
async def test_a_herd_takes_turns_at_the_client_instead_of_being_refused_by_its_pool(limit, most):
    client = Crowded(limit)
    layer = AsyncRedisPersistenceLayer(client)
    won = await asyncio.gather(*(layer.acquire(a_claim()) for _ in range(400)))
    assert won == [Acquired(1)] * 400
    assert client.most == most


async def test_a_herd_opens_a_few_connections_and_not_one_each(any_server):
    async with AsyncRedisPersistenceLayer.from_url(any_server.url, client_name="herd") as layer:
        await asyncio.gather(*(layer.acquire(a_claim()) for _ in range(400)))
        with any_server.client() as store:
            assert 1 <= sum(each["name"] == "herd" for each in store.client_list()) <= 50


def redirections(client):
    return client.info("errorstats").get("errorstat_MOVED", {"count": 0})["count"]


@pytest.mark.fault(21)
async def test_slots_that_have_moved_do_not_cost_connections_on_which_others_wait(any_binary):
    with RedisCluster(any_binary) as cluster:
        source, *others = clients = [master.client() for master in cluster.masters]
        target_id = others[0].execute_command("CLUSTER", "MYID")
        async with AsyncRedisPersistenceLayer.connect(RedisConnection(mode="cluster", url=cluster.url)) as layer:
            claims = [a_claim() for _ in range(60)]
            await asyncio.gather(*(layer.extend(claim) for claim in claims))
            slots = {key_slot((layer.key_prefix + claim.storage_key).encode()) for claim in claims}
            moved = [slot for slot in slots if slot <= 16384 // 3 - 1]
            before = {each["id"] for client in clients for each in client.client_list()}
            for node in (others[0], source, others[1]):
                for slot in moved:
                    node.execute_command("CLUSTER", "SETSLOT", slot, "NODE", target_id)
            redirected = sum(
                client.info("errorstats").get("errorstat_MOVED", {"count": 0})["count"] for client in clients
            )
            for claim in claims:
                assert await layer.extend(claim) is False
            after = {each["id"] for client in clients for each in client.client_list()}
            seen = sum(
                client.info("errorstats").get("errorstat_MOVED", {"count": 0})["count"] for client in clients
            )
    assert seen - redirected == len(moved) >= 5
    assert before <= after
