"""Requests through every surface, on a real server, while random messages are dropped, cut, hung or delayed.

Each key gets three requests at the same time, which ask again when they are refused. Leases last longer than the
whole run, so no lease lapses in it and each key runs at most once until the faults are over. Then the leases are
made to lapse, and each key must get its answer.
"""

import asyncio
import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from secrets import token_hex
from typing import Any

from idempotency_mw import IdempotencyConfig
from idempotency_mw.core.record import Settled
from idempotency_mw.persistence.base import is_async
from proof.matrix.watching import Lag, Watched, WatchedAsync
from tests.faults.stores import RedisStore
from tests.faults.surfaces import SURFACES, Play, surface_over

__all__ = ["Chaos", "Seen"]

ACTIONS = [
    f"{action} {message}" for action in ("drop", "cut", "hang", "delay") for message in ("request", "reply")
]
DEADLINE = 0.25
"""The layers' `timeout_seconds`: short, because half of all faults make a verb use it up."""
OVER = 0.1
"""Seconds by which a verb may exceed its deadline: I11's limit."""
WORK = 0.01
"""Seconds that the app takes."""
LEASE = 60.0
"""Seconds: longer than the whole run, so that no lease lapses in it."""
DUPLICATES = 3
TRIES = 6
"""How often a client asks with its key."""
KEYS_AT_ONCE = 12
PLANS_AT_ONCE = 4
"""How many faults wait for their message at a time."""


@dataclass
class Key:
    """What was seen of one key."""

    runs: int = 0
    own: list[bytes] = field(default_factory=list)
    """The answers of its executions, as their clients got them."""
    replays: set[bytes] = field(default_factory=set)
    is_acknowledged: bool = False
    surface: Any = None


@dataclass
class Seen:
    """What was seen of all keys. Each violation is a sentence."""

    faults: int = 0
    requests: int = 0
    refused: int = 0
    replays: int = 0
    verbs: int = 0
    slowest: float = 0.0
    """The most by which a verb exceeded its deadline, in seconds, after the machine's own lag was subtracted."""
    lag: float = 0.0
    two_live: list[str] = field(default_factory=list)
    not_identical: list[str] = field(default_factory=list)
    ran_refused: list[str] = field(default_factory=list)
    without_expiry: int = 0
    unanswered: int = 0
    records: int = 0


async def _work(marker: Path) -> None:
    """Take as long as an app does. The marker file exists during that time."""
    await asyncio.sleep(WORK)
    marker.unlink(missing_ok=True)  # noqa: ASYNC240 - takes no time


class Chaos:
    """One server, the surfaces on it, and what is seen of the keys."""

    def __init__(
        self,
        store: RedisStore,
        folder: Path,
        seed: int,
        *,
        around: Callable[[Any], Any] = lambda layer: layer,
        actions: Sequence[Any] = ACTIONS,
    ) -> None:
        self.store = store
        self.seen = Seen()
        self.keys: dict[str, Key] = defaultdict(Key)
        self._random = Random(seed)
        self._actions = actions
        self._folder = folder
        self._proxy = store.ground.proxies[0]
        self._lock = threading.Lock()
        self._layers: list[Any] = []
        self._surfaces = [self._surface(kind, around) for kind in SURFACES]

    def _surface(self, kind: str, around: Callable[[Any], Any]) -> Any:
        layer = self.store.layer(is_async=kind in ("asgi", "async function"), timeout_seconds=5.0)
        self._layers.append(layer)
        wrong = around(layer)
        watched = (WatchedAsync if is_async(layer) else Watched)(wrong, self)
        config = IdempotencyConfig(lease_seconds=LEASE, heartbeat=False)
        return surface_over(kind, watched, self._play, config=config)

    # The app

    def _play(self, body: bytes) -> Play:
        name = body.decode().strip('"')
        marker = self._folder / name
        with self._lock:
            self.keys[name].runs += 1
            try:
                os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                self.seen.two_live.append(f"{name}: a second run began before the first was over")
        return Play(chunks=(f"{name} {token_hex(8)}".encode(),), seen=lambda _: _work(marker))

    # What the layers report

    def note_verb(self, began: float) -> None:
        """Note by how much a verb exceeded its deadline, and how much of that was the machine's lag."""
        took = time.monotonic() - began
        with self._lock:
            self.seen.verbs += 1
            if took > DEADLINE:
                lag = self._lag.since(began)
                self.seen.lag = max(self.seen.lag, lag)
                self.seen.slowest = max(self.seen.slowest, took - DEADLINE - lag)

    def note_completed(self, result: bytes | None, outcome: Any) -> None:
        """Note a completion that the store acknowledged."""
        if isinstance(outcome, Settled) and result is not None:
            name = next((name for name in self.keys if name.encode() in result), None)
            if name is not None:
                self.keys[name].is_acknowledged = True

    # The run

    async def run(self, faults: int, progress: Callable[[int], None]) -> Seen:
        """Send requests until that many messages were disturbed; then compare what was seen."""
        async with Lag() as self._lag:
            await self._warm()
            for layer in self._layers:
                layer.timeout_seconds = DEADLINE
            await asyncio.gather(*(self._stories(faults, progress) for _ in range(KEYS_AT_ONCE)))
            self._proxy.pass_all()
            self._judge_runs()
            for layer in self._layers:
                layer.timeout_seconds = 10.0
            await asyncio.sleep(2 * DEADLINE)  # delayed messages arrive in this time
        self.seen.faults = len(self._proxy.taken)
        await self._bring_to_an_end()
        self.seen.records = len(self.store.records())
        self.seen.without_expiry = self.store.without_expiry()
        await self._close()
        return self.seen

    async def _warm(self) -> None:
        self._proxy.taken.clear()
        for surface in self._surfaces:
            await surface.send(b'"warm"', key="warm")
        self.keys.clear()
        self.store.lose()

    async def _stories(self, faults: int, progress: Callable[[int], None]) -> None:
        while (done := len(self._proxy.taken)) < faults:
            progress(done)
            self._plan()
            name = token_hex(8)
            surface = self._random.choice(self._surfaces)
            self.keys[name].surface = surface
            await asyncio.gather(*(self._client(surface, name) for _ in range(DUPLICATES)))

    def _plan(self) -> None:
        while self._proxy.planned < PLANS_AT_ONCE:
            self._proxy.when(
                b"EVAL",
                self._random.choice(self._actions),
                seconds=self._random.choice([0.02, 0.1, 2 * DEADLINE]),
                after=self._random.randrange(8),
            )

    async def _client(self, surface: Any, name: str) -> None:
        for _ in range(TRIES):
            if await self._ask(surface, name):
                return
            await asyncio.sleep(self._random.uniform(0, 0.1))

    async def _ask(self, surface: Any, name: str) -> bool:
        seen = await surface.send(f'"{name}"'.encode(), key=name)
        key = self.keys[name]
        self.seen.requests += 1
        if seen.answer is None:
            self.seen.refused += 1
            return False
        if seen.replayed:
            self.seen.replays += 1
            key.replays.add(seen.answer)
        else:
            key.own.append(seen.answer)
        return True

    def _judge_runs(self) -> None:
        """Check that each key ran at most once, and that its client got the answer: no lease has lapsed so far."""
        for name, key in self.keys.items():
            if key.runs > 1:
                self.seen.two_live.append(f"{name}: {key.runs} runs, and no lease had lapsed")
            if key.runs != len(key.own):
                self.seen.ran_refused.append(f"{name}: {key.runs} runs, {len(key.own)} clients got their answer")
            if key.replays - set(key.own):
                self.seen.not_identical.append(f"{name}: a replay that is nobody's answer")

    async def _bring_to_an_end(self) -> None:
        """Let the leases lapse, and ask twice for each key: acknowledged ones must replay, the others must run."""
        self.store.pass_time(LEASE + 1)
        for name, key in list(self.keys.items()):
            runs, first, was_acknowledged = key.runs, set(key.own), key.is_acknowledged
            key.replays.clear()
            for _ in range(2):
                self.seen.unanswered += not await self._ask(key.surface, name)
            if was_acknowledged and (key.runs > runs or not key.replays <= first):
                self.seen.not_identical.append(f"{name}: acknowledged, and yet another answer")
            if len(key.replays) > 1 or key.replays - set(key.own):
                self.seen.not_identical.append(f"{name}: replays of {len(key.replays)} kinds")

    async def _close(self) -> None:
        for layer in self._layers:
            await layer.aclose() if is_async(layer) else layer.close()
