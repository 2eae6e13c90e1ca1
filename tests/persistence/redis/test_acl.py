"""README.md shows an ACL user. With exactly those rules every layer works, and no other command is allowed."""

import re
from pathlib import Path

import pytest
import redis

from idempotency_mw.core.record import Acquired, Existing, Lost, Settled
from idempotency_mw.errors import IdempotencyPersistenceLayerError
from idempotency_mw.persistence.redis import RedisConnection
from tests.persistence.driven import a_claim, driven, rival

README = (Path(__file__).parents[3] / "README.md").read_text("utf-8")
LINE = re.search(r"^ACL SETUSER idempotency (.+)$", README, re.MULTILINE)[1]
PASSWORD = "canary-acl-password"
CHECKING = "+info +config|get"
IN_A_CLUSTER = "+cluster|slots +command +asking"


def make_user(node, *more):
    """Make the user of the README on a server, with the rules in `more` added."""
    with node.client() as store:
        info = store.info("server")
        version = tuple(int(part) for part in info["redis_version"].split(".")[:2])
        rules = LINE.replace("PASSWORD", PASSWORD).split()
        if version < (7, 2):
            rules.remove("+client|setinfo")  # the README tells users of Redis 7.0 to do the same
        store.execute_command("ACL", "SETUSER", "idempotency", "reset", *rules, *" ".join(more).split())


def drop_user(node):
    with node.client() as store:
        store.execute_command("ACL", "DELUSER", "idempotency")


@pytest.fixture
def user(server):
    """Return a function that makes the user, with the given rules added, and returns the URL to log in with."""

    def with_rules(*more):
        make_user(server, *more)
        return f"redis://idempotency:{PASSWORD}@127.0.0.1:{server.port}/0"

    yield with_rules
    drop_user(server)


def all_verbs(layer):
    """Call every verb, once for each kind of answer that it has."""
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


@pytest.mark.parametrize("more", ["", CHECKING], ids=["rules of the README", "and those for check()"])
def test_the_user_of_the_readme_may_run_every_verb(kind, server, user, more):
    with driven(kind.from_url(user(more), timeout_seconds=10)) as layer, server.client() as store:
        store.script_flush()  # another test's user may have loaded the scripts; this user must be able to do so
        all_verbs(layer)
        layer.check()


def test_check_warns_of_a_policy_that_evicts_only_if_the_user_may_read_it(kind, server, user):
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
def test_every_other_command_is_refused(user, command):
    with redis.Redis.from_url(user(), socket_timeout=10) as client, pytest.raises(redis.ResponseError) as refused:
        client.execute_command(*command)
    assert is_refusal(refused.value)


def is_refusal(error):
    """Tell whether the ACL caused the error. Inside a script the reply has no error code of its own for that."""
    from_a_script = ("ACL failure in script:", "The user executing the script can't")  # newer servers; Redis 7.0
    return isinstance(error, redis.exceptions.NoPermissionError) or str(error).startswith(from_a_script)


def test_keys_with_another_prefix_are_refused(kind, user):
    with (
        driven(kind.from_url(user(), key_prefix="another:")) as layer,
        pytest.raises(IdempotencyPersistenceLayerError) as refused,
    ):
        layer.acquire(a_claim())
    assert isinstance(refused.value.__cause__, redis.RedisError)


@pytest.mark.parametrize("more", ["", CHECKING], ids=["rules of the README", "and those for check()"])
def test_in_a_cluster_the_user_needs_three_more_rules(kind, cluster, more):
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
            for _ in range(5):  # 15 random keys, so that each of the three nodes gets some
                all_verbs(layer)
            layer.check()
        url = f"redis://idempotency:{PASSWORD}@127.0.0.1:{cluster.masters[0].port}/0"
        with redis.Redis.from_url(url, socket_timeout=10) as client:
            assert client.execute_command("ASKING") in (True, b"OK")  # clients send it while a slot moves
    finally:
        for node in cluster.nodes:
            drop_user(node)


def test_the_readme_names_the_rules_for_a_cluster_and_for_check():
    assert f"`{IN_A_CLUSTER}`" in README
    assert f"`{CHECKING}`" in README
