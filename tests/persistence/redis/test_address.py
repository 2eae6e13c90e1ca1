"""The address of a server: what is refused, and that no secret is shown."""

import pytest

from idempotency_mw.errors import (
    IdempotencyConfigurationError,
    IdempotencyPersistenceLayerError,
)
from idempotency_mw.persistence.redis import (
    RedisConnection,
)
from tests.clusters import SERVICE
from tests.persistence.driven import a_claim, driven

HERE = [("127.0.0.1", 26379)]


SECRET = "s3cr3t-of-the-test"


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
