"""Places: each layer under each surface."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from idempotency_mw import IdempotencyConfig
from idempotency_mw.persistence.base import is_async
from tests.faults.stores import PATIENCE, Grounds, is_there
from tests.faults.surfaces import Play, surface_over


@pytest.fixture(scope="session")
def grounds() -> Iterator[Grounds]:
    with Grounds() as grounds:
        yield grounds


DONE = Play()


class Place:
    """One store and one kind of surface over it. `close` closes the layers that it created."""

    def __init__(self, store: Any, surface: str) -> None:
        self.store = store
        self.kind = surface
        self.is_async = surface in ("asgi", "async function")
        self._layers: list[Any] = []

    def layer(self, timeout_seconds: float = PATIENCE) -> Any:
        layer = self.store.layer(is_async=self.is_async, timeout_seconds=timeout_seconds)
        self._layers.append(layer)
        return layer

    def surface(
        self,
        play: Any = DONE,
        *,
        timeout_seconds: float = PATIENCE,
        around: Any = lambda layer: layer,
        http: Any = None,
        **config: Any,
    ) -> Any:
        layer = self.layer(timeout_seconds)
        surface = surface_over(self.kind, around(layer), play, config=IdempotencyConfig(**config), http=http)
        surface.layer = layer
        return surface

    async def close(self) -> None:
        for layer in self._layers:
            if is_async(layer):
                await layer.aclose()
            elif self.store.kind != "memory":
                layer.close()
        self.store.close()

    async def until_released(self, surface: Any) -> None:
        """Wait until the surface's layer has ended its releases in doubt. The surface is not used any more."""
        if self.is_async:
            await surface.layer.until_released(PATIENCE)
        else:
            await asyncio.to_thread(surface.layer.close)

    def status(self) -> str | None:
        """Return the status of the only record, or `None` if there is none."""
        frames = self.store.frames()
        assert len(frames) <= 1, frames
        return frames[0].status.value if frames else None

    async def assert_kept(self, surface: Any, answer: bytes, **request: Any) -> None:
        """Assert that a duplicate, also one over a new layer, is replayed these bytes and nothing runs."""
        runs = surface.runs
        other = self.surface(surface.play)
        for each in (surface, other):
            seen = await each.send(**request)
            assert (seen.answer, seen.replayed) == (answer, True), seen
        assert (surface.runs, other.runs) == (runs, 0)


@pytest.fixture
async def place(request: pytest.FixtureRequest, grounds: Grounds) -> AsyncIterator[Place]:
    layer, surface = request.param
    if not is_there(layer):
        pytest.skip(f"no server for {layer} was found")
    place = Place(grounds.open(layer), surface)
    yield place
    assert place.store.without_expiry() == 0
    await place.close()
