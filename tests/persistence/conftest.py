"""A cluster and a Sentinel for this folder."""

import pytest

from tests.clusters import RedisCluster, RedisSentinel
from tests.servers import binaries


@pytest.fixture(scope="session")
def any_binary():
    """One server binary: for what does not depend on which."""
    found = binaries()
    if not found:
        pytest.skip("no Redis or Valkey server was found")
    return next(iter(found.values()))


@pytest.fixture(scope="session")
def cluster(any_binary):
    """Three masters."""
    with RedisCluster(any_binary) as started:
        yield started


@pytest.fixture(scope="session")
def sentinel(any_server, any_binary):
    """A Sentinel that watches `any_server`."""
    with RedisSentinel(any_binary, any_server) as started:
        yield started
