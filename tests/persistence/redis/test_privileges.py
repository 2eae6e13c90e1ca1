"""The privileges that a user of the server needs."""

import pytest
import redis
import redis.asyncio

from idempotency_mw.core.record import Acquired, Existing, Lost, Settled
from idempotency_mw.errors import (
    IdempotencyPersistenceConnectionError,
    IdempotencyPersistenceLayerError,
)
from idempotency_mw.persistence.redis import (
    RedisPersistenceLayer,
)
from tests.persistence.driven import a_claim, driven, rival

LARGE_RESULT = b"x" * 20_000


# Exactly the commands that the layer sends. README.md shows them.
LEAST_PRIVILEGE = "resetkeys ~idempotency:* resetchannels -@all +eval +evalsha +get +set +del +time +pttl"


# With these, large results cost the server little; test_large_results.py shows how it works without them.
FOR_LARGE = "+setrange +pexpire +rename"


FOR_REPLICAS = "+wait"


# The commands that redis-py itself sends when it connects.
CONNECTING = "+hello +client|setinfo"


CHECKING = "+info +config|get"


@pytest.fixture
def restricted(server):
    """Return a function that makes a user with these rules, and its URL."""

    def with_rules(rules):
        with server.client() as store:
            # Redis knows this subcommand from 7.2 on.
            version = store.info("server")["redis_version"].split(".")
            if (int(version[0]), int(version[1])) < (7, 2):
                rules = rules.replace(" +client|setinfo", "")
            store.execute_command("ACL", "SETUSER", "app", "reset", "on", ">pw", *rules.split())
        return f"redis://app:pw@127.0.0.1:{server.port}/0"

    yield with_rules
    with server.client() as store:
        store.execute_command("ACL", "DELUSER", "app")


def test_a_user_with_the_least_privileges_can_run_every_verb(kind, server, restricted):
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


def test_large_results_and_replicas_need_the_privileges_in_the_readme(kind, server, restricted):
    url = restricted(f"{LEAST_PRIVILEGE} {FOR_LARGE} {FOR_REPLICAS} {CONNECTING}")
    with server.client() as store, driven(kind.from_url(url, min_replicas=1)) as layer:
        claim = a_claim()
        with pytest.raises(IdempotencyPersistenceConnectionError, match="0 of 1"):
            layer.acquire(claim)
        layer.layer.min_replicas = 0
        layer.acquire(claim)
        layer.complete(claim, LARGE_RESULT)  # from here on the server knows the script
        assert layer.acquire(claim).record.result == LARGE_RESULT
        other = a_claim()
        layer.acquire(other)
        before = store.info("errorstats")
        assert layer.complete(other, LARGE_RESULT) == Settled()
        assert store.info("errorstats") == before


def test_each_of_the_least_privileges_is_needed(server, restricted):
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
