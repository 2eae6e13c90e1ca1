"""A verb ends within `timeout_seconds` and a tenth of a second, whatever the server does."""

import socket
import time
from contextlib import closing

import pytest

from idempotency_mw.errors import IdempotencyPersistenceConnectionError
from idempotency_mw.persistence.redis import RedisConnection
from tests.clusters import SERVICE, RedisSentinel, until
from tests.persistence.driven import a_claim, driven
from tests.proxy import Proxy
from tests.servers import RedisServer, free_port
from tests.timing import fastest, seconds

TIMEOUT = 0.2
SLACK = 0.1


@pytest.fixture
def nobody():
    """A port that refuses connections."""
    return free_port()


@pytest.fixture
def mute():
    """A port that accepts connections and never answers."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        yield listener.getsockname()[1]


@pytest.fixture
def plain(any_server):
    """A server without TLS."""
    return any_server.port


def connection(mode, port, *, ssl=False):
    if mode == "sentinel":
        return RedisConnection(mode=mode, sentinels=[("127.0.0.1", port)], service_name=SERVICE, ssl=ssl)
    return RedisConnection(mode=mode, host="127.0.0.1", port=port, ssl=ssl)


def seconds_until_failure(verb, *arguments):
    """Return how long the failing call took."""

    def failing():
        with pytest.raises(IdempotencyPersistenceConnectionError) as failed:
            verb(*arguments)
        assert failed.value.__cause__ is not None

    return fastest(lambda: seconds(failing), TIMEOUT + SLACK)


def assert_all_verbs_end_in_time(layer, slack=SLACK):
    assert seconds_until_failure(layer.acquire, a_claim()) <= TIMEOUT + slack
    assert seconds_until_failure(layer.complete, a_claim(), b"done") <= TIMEOUT + slack


@pytest.mark.row(102)
@pytest.mark.fault(1)
@pytest.mark.parametrize("mode", ["standalone", "cluster", "sentinel"])
@pytest.mark.parametrize("port", ["nobody", "mute"])
def test_a_verb_ends_in_time_if_the_server_refuses_or_never_answers(kind, mode, port, request):
    where = connection(mode, request.getfixturevalue(port))
    with driven(kind.connect(where, timeout_seconds=TIMEOUT)) as layer:
        assert_all_verbs_end_in_time(layer)


@pytest.mark.row(102)
@pytest.mark.parametrize("mode", ["standalone", "cluster"])
@pytest.mark.parametrize("port", ["mute", "plain"])
def test_a_verb_ends_in_time_if_the_port_does_not_speak_tls(kind, mode, port, request):
    where = connection(mode, request.getfixturevalue(port), ssl=True)
    with driven(kind.connect(where, timeout_seconds=TIMEOUT)) as layer:
        # A busy machine takes long to read the certificates of the system, and no deadline can stop that.
        assert_all_verbs_end_in_time(layer, slack=5 * SLACK)


@pytest.mark.row(102)
@pytest.mark.fault(1)
@pytest.mark.parametrize("connected", [True, False], ids=["connected before", "not connected before"])
def test_a_verb_ends_in_time_if_the_server_is_frozen(kind, any_binary, connected):
    with RedisServer(any_binary) as server, driven(kind.from_url(server.url, timeout_seconds=10)) as layer:
        if connected:
            layer.acquire(a_claim())
        layer.layer.timeout_seconds = TIMEOUT
        server.freeze()
        assert_all_verbs_end_in_time(layer)
        server.thaw()


@pytest.mark.row(102)
@pytest.mark.fault(1)
def test_a_verb_ends_in_time_if_a_node_of_the_cluster_is_frozen(kind, cluster):
    where = RedisConnection(mode="cluster", host="127.0.0.1", port=cluster.masters[0].port)
    with driven(kind.connect(where, timeout_seconds=10)) as layer:
        layer.acquire(a_claim())
        layer.layer.timeout_seconds = TIMEOUT
        for node in cluster.masters:
            node.freeze()
        try:
            assert_all_verbs_end_in_time(layer)
        finally:
            for node in cluster.masters:
                node.thaw()
            for node in cluster.masters:
                until(lambda node=node: b"cluster_state:ok" in node.client().execute_command("CLUSTER", "INFO"))


@pytest.mark.row(102)
@pytest.mark.fault(1)
@pytest.mark.parametrize("connected", [True, False], ids=["connected before", "not connected before"])
def test_a_verb_ends_in_time_if_the_master_behind_a_sentinel_is_frozen(kind, any_binary, connected):
    with RedisServer(any_binary) as master, RedisSentinel(any_binary, master) as sentinel:
        where = connection("sentinel", sentinel.port)
        with driven(kind.connect(where, timeout_seconds=10)) as layer:
            if connected:
                layer.acquire(a_claim())
            layer.layer.timeout_seconds = TIMEOUT
            master.freeze()
            assert_all_verbs_end_in_time(layer)
            master.thaw()


@pytest.mark.row(102)
def test_a_sentinel_that_never_answers_leaves_time_for_the_next(kind, mute, sentinel):
    where = RedisConnection(
        mode="sentinel",
        sentinels=[("127.0.0.1", mute), ("127.0.0.1", sentinel.port)],
        service_name=SERVICE,
    )
    with driven(kind.connect(where, timeout_seconds=1.0)) as layer:
        assert layer.acquire(a_claim()).attempt == 1


@pytest.mark.row(102)
@pytest.mark.parametrize("action", ["drop request", "drop reply", "hang reply", "cut request", "cut reply"])
def test_a_verb_ends_in_time_if_messages_are_lost_again_and_again(kind, any_server, action):
    with Proxy(any_server.port) as proxy, driven(kind.from_url(proxy.url, timeout_seconds=10)) as layer:
        layer.acquire(a_claim())
        layer.layer.timeout_seconds = TIMEOUT
        proxy.when(b"EVAL", action, times=None)
        assert_all_verbs_end_in_time(layer)
        proxy.pass_all()
        layer.layer.timeout_seconds = 10
        assert layer.acquire(a_claim()).attempt == 1


@pytest.mark.row(102)
def test_a_verb_ends_in_time_if_a_message_is_lost_at_any_step_of_connecting(kind, any_server):
    """The steps depend on the release of redis-py, so each message that it sends is hung in turn."""
    with Proxy(any_server.port) as counted, driven(kind.from_url(counted.url)) as layer:
        layer.acquire(a_claim())
        steps = len(counted.requests)
    assert steps >= 2
    for hung in range(steps):
        bound = TIMEOUT + 2 * SLACK
        assert fastest(lambda hung=hung: seconds_with_a_hung_message(kind, any_server, hung), bound) <= bound


def seconds_with_a_hung_message(kind, server, number):
    """Return how long a new layer's first verb takes if the message of this number does not pass."""
    with Proxy(server.port) as proxy:
        proxy.when(b"", "delay request", times=number, seconds=0.01)
        proxy.when(b"", "hang request", times=None)
        with driven(kind.from_url(proxy.url, timeout_seconds=TIMEOUT)) as layer:
            begun = time.monotonic()
            try:
                layer.acquire(a_claim())
            except IdempotencyPersistenceConnectionError:
                return time.monotonic() - begun
            # Two messages came as one this time, so the message of this number did not come.
            assert len(proxy.requests) <= number
            return 0.0


def test_the_check_keeps_to_the_deadline(kind, mute):
    with driven(kind.from_url(f"redis://127.0.0.1:{mute}", timeout_seconds=TIMEOUT)) as layer:
        assert seconds_until_failure(layer.check) <= TIMEOUT + SLACK
