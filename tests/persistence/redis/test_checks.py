"""The check of a server before the first request."""

import sys
from importlib.util import find_spec, module_from_spec

import pytest

from idempotency_mw.errors import (
    IdempotencyConfigurationError,
    IdempotencyPersistenceLayerError,
)
from idempotency_mw.persistence.redis import (
    RedisConnection,
    errors,
)
from idempotency_mw.persistence.redis.checks import check_policy, check_version
from tests.persistence.driven import driven
from tests.servers import RedisServer


def test_without_valkey_py_errors_are_those_of_redis_py(monkeypatch):
    monkeypatch.setitem(sys.modules, "valkey.exceptions", None)
    spec = find_spec(errors.__name__)
    without = module_from_spec(spec)  # a second copy of the module, which nothing else uses
    spec.loader.exec_module(without)
    kinds = [*without.DRIVER_ERRORS, *without.RESPONSE, *without.NO_SCRIPT]
    assert {kind.__module__ for kind in kinds} == {"builtins", "redis.exceptions"}


def test_the_check_accepts_the_servers_of_these_tests(kind, server):
    with driven(kind.from_url(server.url)) as layer:
        layer.check()


def test_the_check_asks_every_node_of_a_cluster(kind, cluster):
    with driven(kind.connect(RedisConnection(url=cluster.url, mode="cluster"))) as layer:
        layer.check()


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
def test_the_check_warns_about_a_server_that_evicts(kind, any_binary, policy):
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
def test_a_server_that_is_new_enough_is_accepted(version):
    check_version({"redis_version": version})


def test_the_policy_of_each_node_counts():
    check_policy({"maxmemory-policy": "noeviction"})
    with pytest.warns(RuntimeWarning, match="allkeys-lru"):
        check_policy({"a:1": {"maxmemory-policy": "noeviction"}, "b:1": {"maxmemory-policy": "allkeys-lru"}})


def test_the_check_reports_a_server_that_is_unreachable_or_refuses(kind, any_server):
    with driven(kind.from_url("redis://127.0.0.1:1")) as layer, pytest.raises(IdempotencyPersistenceLayerError):
        layer.check()
    wrong = f"redis://nobody:nothing@127.0.0.1:{any_server.port}"
    with driven(kind.from_url(wrong)) as layer, pytest.raises(IdempotencyPersistenceLayerError):
        layer.check()
