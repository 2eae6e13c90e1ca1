"""The user that README.md shows, with the rules as they stand there: it runs every layer, and can do no more."""

import re
from pathlib import Path

import pytest
import redis

from idempotency_mw.core.record import Acquired, Existing, Lost, Settled
from idempotency_mw.errors import IdempotencyPersistenceLayerError
from idempotency_mw.persistence.redis import RedisConnection
from tests.persistence.driven import KINDS, a_claim, driven, rival

README = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
LINE = re.search(r"^ACL SETUSER idempotency (.+)$", README, re.MULTILINE)[1]
PASSWORD = "canary-acl-password"
CHECKING = "+info +config|get"
IN_A_CLUSTER = "+cluster|slots +command +asking"


@pytest.fixture(params=KINDS)
def kind(request):
    return KINDS[request.param]


def make_user(node, *more):
    """Make the user of the README on a server, and return its version."""
    with node.client() as store:
        info = store.info("server")
        version = tuple(int(part) for part in info["redis_version"].split(".")[:2])
        rules = LINE.replace("PASSWORD", PASSWORD).split()
        if version < (7, 2):
            rules.remove("+client|setinfo")  # as the README says
        store.execute_command("ACL", "SETUSER", "idempotency", "reset", *rules, *" ".join(more).split())


def drop_user(node):
    with node.client() as store:
        store.execute_command("ACL", "DELUSER", "idempotency")


@pytest.fixture
def user(server):
    """Return a function that makes the user, with rules besides, and its URL."""

    def with_rules(*more):
        make_user(server, *more)
        return f"redis://idempotency:{PASSWORD}@127.0.0.1:{server.port}/0"

    yield with_rules
    drop_user(server)


def all_verbs(layer):
    """Run each verb to each of its ends."""
    claim, other = a_claim(), a_claim()
    assert layer.acquire(claim) == Acquired(1)
    assert layer.acquire(claim) == Acquired(1)
    assert isinstance(layer.acquire(rival(claim)), Existing)
    assert layer.extend(claim) is True
    assert layer.complete(claim, b"done") == Settled()
    assert layer.acquire(rival(claim)).record.result == b"done"
    assert layer.acquire(other) == Acquired(1)
    assert layer.release(other) is True
    assert layer.complete(other, None) == Lost(None)
    assert layer.acquire(other) == Acquired(1)
    assert layer.complete(other, None) == Settled()
    large = a_claim()
    layer.acquire(large)
    assert layer.complete(large, b"x" * 200_000) == Settled()
    assert len(layer.acquire(rival(large)).record.result) == 200_000


@pytest.mark.parametrize("more", ["", CHECKING], ids=["as it stands", "and it may see the policy"])
def test_the_user_of_the_readme_runs_every_verb(kind, server, user, more):
    with driven(kind.from_url(user(more), timeout_seconds=10)) as layer, server.client() as store:
        store.script_flush()  # the user may not have loaded them before
        all_verbs(layer)
        layer.check()


def test_only_who_may_see_the_policy_is_warned_of_one_that_evicts(kind, server, user):
    with server.client() as store:
        try:
            store.config_set("maxmemory-policy", "allkeys-lru")
            with driven(kind.from_url(user())) as layer:
                layer.check()
            with (
                driven(kind.from_url(user(CHECKING))) as layer,
                pytest.warns(RuntimeWarning, match="maxmemory-policy is allkeys-lru"),
            ):
                layer.check()
        finally:
            store.config_set("maxmemory-policy", "noeviction")


FORBIDDEN = (
    ("KEYS", "*"),
    ("SCAN", "0"),
    ("FLUSHALL",),
    ("CONFIG", "GET", "*"),
    ("GET", "another:key"),
    ("SET", "another:key", "x"),
    ("EVAL", "return redis.call('GET', 'another:key')", 0),
    ("EVAL", "return redis.call('KEYS', '*')", 0),
    ("SUBSCRIBE", "a"),
    ("ACL", "WHOAMI"),
    ("SCRIPT", "FLUSH"),
    ("HSET", "idempotency:x", "a", "b"),
)


@pytest.mark.parametrize("command", FORBIDDEN, ids=lambda command: " ".join(map(str, command)))
def test_the_user_of_the_readme_can_do_nothing_else(user, command):
    with redis.Redis.from_url(user(), socket_timeout=10) as client, pytest.raises(redis.ResponseError) as refused:
        client.execute_command(*command)
    assert "permission" in str(refused.value).lower()


def test_another_prefix_is_out_of_reach(kind, user):
    with (
        driven(kind.from_url(user(), key_prefix="another:")) as layer,
        pytest.raises(IdempotencyPersistenceLayerError) as refused,
    ):
        layer.acquire(a_claim())
    assert isinstance(refused.value.__cause__, redis.RedisError)


@pytest.mark.parametrize("more", ["", CHECKING], ids=["as it stands", "and it may see the policy"])
def test_in_a_cluster_the_user_needs_three_rules_more(kind, cluster, more):
    for node in cluster.nodes:
        make_user(node, IN_A_CLUSTER, more)
    try:
        at = RedisConnection(
            host="127.0.0.1",
            port=cluster.masters[0].port,
            username="idempotency",
            password=PASSWORD,
            mode="cluster",
        )
        with driven(kind.connect(at, timeout_seconds=10)) as layer:
            for _ in range(5):  # keys on every node
                all_verbs(layer)
            layer.check()
        url = f"redis://idempotency:{PASSWORD}@127.0.0.1:{cluster.masters[0].port}/0"
        with redis.Redis.from_url(url, socket_timeout=10) as client:
            assert client.execute_command("ASKING") in (True, b"OK")  # what slots that move ask for
    finally:
        for node in cluster.nodes:
            drop_user(node)


def test_the_readme_says_what_a_cluster_needs_besides():
    assert f"`{IN_A_CLUSTER}`" in README
    assert f"`{CHECKING}`" in README
