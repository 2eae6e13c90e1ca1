"""Stores and surfaces for the scenarios."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from idempotency_mw.persistence.memory import MemoryPersistenceLayer
from idempotency_mw.persistence.redis import AsyncRedisPersistenceLayer
from idempotency_mw.persistence.sqlite import SQLitePersistenceLayer
from idempotency_mw.testing import ManualClock
from tests.asgi.driver import ASGISurface
from tests.asgi.layers import AroundLayer
from tests.wsgi.surface import WSGISurface


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def memory(clock: ManualClock) -> MemoryPersistenceLayer:
    """A store whose clock the test moves."""
    return MemoryPersistenceLayer(clock=clock)


@pytest.fixture(params=["memory", "sqlite", "valkey"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[AroundLayer]:
    """Each kind of store in turn, counting its verbs."""
    if request.param == "memory":
        yield AroundLayer(MemoryPersistenceLayer())
    elif request.param == "sqlite":
        with SQLitePersistenceLayer(tmp_path / "records.db", durability="normal") as layer:
            yield AroundLayer(layer)
    else:
        url = request.getfixturevalue("any_server").url
        async with AsyncRedisPersistenceLayer.from_url(url, key_prefix=f"{uuid4().hex}:") as layer:
            yield AroundLayer(layer)


@pytest.fixture(params=["asgi", "wsgi"])
async def surface(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """The surface that the scenarios use: ASGI and WSGI in turn."""
    return {"asgi": ASGISurface, "wsgi": WSGISurface}[request.param]


@pytest.fixture
def asgi_surface() -> type[ASGISurface]:
    """The ASGI surface alone, for scenarios that are about ASGI."""
    return ASGISurface
