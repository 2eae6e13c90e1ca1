"""Stores for the blocking surface."""

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from idempotency_mw.persistence.memory import MemoryPersistenceLayer
from idempotency_mw.persistence.redis import RedisPersistenceLayer
from idempotency_mw.persistence.sqlite import SQLitePersistenceLayer
from idempotency_mw.testing import ManualClock
from tests.wsgi.driver import NotingLayer


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def memory(clock: ManualClock) -> NotingLayer:
    """A store whose clock the test moves."""
    return NotingLayer(MemoryPersistenceLayer(clock=clock))


@pytest.fixture(params=["memory", "sqlite", "valkey"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[NotingLayer]:
    """Each kind of store in turn, noting its verbs."""
    if request.param == "memory":
        yield NotingLayer(MemoryPersistenceLayer())
    elif request.param == "sqlite":
        with SQLitePersistenceLayer(tmp_path / "records.db", durability="normal") as layer:
            yield NotingLayer(layer)
    else:
        url = request.getfixturevalue("any_server").url
        with RedisPersistenceLayer.from_url(url, key_prefix=f"{uuid4().hex}:") as layer:
            yield NotingLayer(layer)
