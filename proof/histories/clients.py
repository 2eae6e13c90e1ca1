"""What each process does: four clients at a time acquire, extend, complete and release claims of a few keys.

At any time all processes use the same three keys; every half second they go on to the next three. Leases are
short, so that some owners are late. Between the clients and a Redis stands a proxy that loses, delays, cuts or
hangs some of the messages.
"""

import asyncio
import multiprocessing
import random
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from secrets import token_hex
from typing import Any, Literal, get_args

from idempotency_mw.core.record import Acquired, Claim, Operation
from idempotency_mw.errors import IdempotencyPersistenceLayerError
from idempotency_mw.persistence.base import PersistenceLayer
from idempotency_mw.persistence.redis import AsyncRedisPersistenceLayer, RedisPersistenceLayer
from idempotency_mw.persistence.sqlite import SQLitePersistenceLayer
from proof.histories import operations as recorded
from proof.histories.checker import outcome_of
from proof.histories.operations import History
from proof.histories.recording import (
    AsyncRecordingClient,
    DirectBlockingRecordingClient,
    DirectRecordingClient,
    RecordingClient,
)
from tests.proxy import Action, Proxy

__all__ = ["Kind", "Plan", "record", "turn"]

WINDOW_SECONDS = 0.5
"""How long the processes use the same keys; then they go on to the next ones."""
KEYS = 3
CLIENTS = 4
FINGERPRINTS = ("a" * 64, "b" * 64)
LEASES_MS = (30, 80, 400)
"""The short ones lapse during the pauses of `turn`; the long one rarely does."""
RETENTION_MS = 600_000
MESSAGE_SECONDS = 0.15
"""The time-out of one message. A verb has time for two messages, so that some verbs are retried."""
VERB_SECONDS = 0.4
"""The `timeout_seconds` of the layers."""
FAULTS = 0.08
"""The part of all messages that the proxy disturbs: some in every history, and most are answered."""
_begin: Any = None


Kind = Literal["blocking", "direct blocking", "async", "direct", "sqlite"]


@dataclass(frozen=True, slots=True)
class Plan:
    """What one process does."""

    kind: Kind
    where: str
    """The port of a server, or the path of a SQLite file."""
    run: str
    """Distinguishes the keys of this run from those of other runs."""
    seconds: float


def record(plans: Sequence[Plan]) -> History:
    """Carry out each plan in a process of its own, all at the same time; return what they recorded."""
    context = multiprocessing.get_context("forkserver")
    begin = context.Barrier(len(plans))
    history = History()
    with ProcessPoolExecutor(len(plans), context, initializer=_meet_at, initargs=(begin,)) as processes:
        for operations in processes.map(_carry_out, plans):
            history.operations += operations
    return history


def _meet_at(begin: Any) -> None:
    global _begin  # noqa: PLW0603 - the barrier that a process gets when it starts
    _begin = begin


def _carry_out(plan: Plan) -> list[recorded.Operation]:
    _begin.wait()
    history = History()
    if plan.kind == "sqlite":
        with closing(SQLitePersistenceLayer(plan.where, durability="normal", timeout_seconds=5.0)) as layer:
            _in_threads(plan, lambda _: _Noting(layer, history))
        return history.operations
    with Proxy(int(plan.where)) as proxy:
        if plan.kind in _BLOCKING:
            _in_threads(plan, lambda claims: _blocking_layer(plan.kind, proxy, history, claims), proxy)
        else:
            asyncio.run(_in_tasks(plan, proxy, history))
    return history.operations


_BLOCKING: dict[Kind, Any] = {"blocking": RecordingClient, "direct blocking": DirectBlockingRecordingClient}
_ASYNC: dict[Kind, Any] = {"async": AsyncRecordingClient, "direct": DirectRecordingClient}


def _blocking_layer(kind: Kind, proxy: Proxy, history: History, claims: dict[str, Claim]) -> RedisPersistenceLayer:
    client = _BLOCKING[kind](proxy.port, MESSAGE_SECONDS, history, claims)
    return RedisPersistenceLayer(client, timeout_seconds=VERB_SECONDS)


def _in_threads(plan: Plan, make: Callable[[dict[str, Claim]], Any], proxy: Proxy | None = None) -> None:
    claims: dict[str, Claim] = {}
    layer = make(claims)
    threads = [threading.Thread(target=_take_turns, args=(plan, layer, claims, proxy)) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    layer.close()


def _take_turns(plan: Plan, layer: PersistenceLayer, claims: dict[str, Claim], proxy: Proxy | None) -> None:
    for claim in _claims(plan, claims):
        verbs = turn(claim)
        answer: Any = None
        with suppress(StopIteration, IdempotencyPersistenceLayerError):
            while True:
                seconds, verb, arguments = verbs.send(answer)
                time.sleep(seconds)
                _disturb(proxy)
                answer = getattr(layer, verb)(*arguments)


async def _in_tasks(plan: Plan, proxy: Proxy, history: History) -> None:
    claims: dict[str, Claim] = {}
    client = _ASYNC[plan.kind](proxy.port, MESSAGE_SECONDS, history, claims)
    layer = AsyncRedisPersistenceLayer(client, timeout_seconds=VERB_SECONDS)
    async with asyncio.TaskGroup() as tasks:
        for _ in range(CLIENTS):
            tasks.create_task(_take_turns_async(plan, layer, claims, proxy))
    await layer.aclose()
    await client.aclose()


async def _take_turns_async(
    plan: Plan, layer: AsyncRedisPersistenceLayer, claims: dict[str, Claim], proxy: Proxy
) -> None:
    for claim in _claims(plan, claims):
        verbs = turn(claim)
        answer: Any = None
        with suppress(StopIteration, IdempotencyPersistenceLayerError):
            while True:
                seconds, verb, arguments = verbs.send(answer)
                await asyncio.sleep(seconds)
                _disturb(proxy)
                answer = await getattr(layer, verb)(*arguments)


def _claims(plan: Plan, claims: dict[str, Claim]) -> Iterator[Claim]:
    """Yield claims until the time is over. All processes use the same three keys in each half second."""
    ends = time.monotonic() + plan.seconds
    while (now := time.monotonic()) < ends:
        window = int(now / WINDOW_SECONDS)
        key = f"{plan.run}-{window * KEYS + random.randrange(KEYS)}"
        operation = Operation(key, random.choices(FINGERPRINTS, (9, 1))[0])
        lease_ms, may_take_over = random.choice(LEASES_MS), random.random() < 0.9
        claim = Claim(operation, token_hex(16), lease_ms, RETENTION_MS, may_take_over)
        claims[claim.token] = claim
        yield claim


def turn(claim: Claim) -> Generator[tuple[float, str, tuple[Any, ...]], Any]:
    """Yield what one client does with a claim: the seconds of a pause, and then a verb with its arguments."""
    found = yield random.uniform(0, 0.03), "acquire", (claim,)
    if not isinstance(found, Acquired):
        return
    while random.random() < 0.3:
        if not (yield random.uniform(0, 0.05), "extend", (claim,)) and random.random() < 0.5:
            return
    pause = random.uniform(0, 0.06)
    chance = random.random()
    if chance < 0.15:
        result = None if chance < 0.03 else claim.token.encode()
        for _ in range(random.choice((1, 1, 2))):
            yield pause, "complete", (claim, result)
    elif chance < 0.75:
        for _ in range(random.choice((1, 1, 2))):
            yield pause, "release", (claim,)


def _disturb(proxy: Proxy | None) -> None:
    if proxy is not None and random.random() < FAULTS:
        action = random.choice(get_args(Action))
        proxy.when(b"EVALSHA", action, seconds=random.choice((0.02, 0.05, 0.1, 0.3)))


class _Noting:
    """A layer each of whose verbs is one transaction, and is recorded as one operation."""

    def __init__(self, layer: PersistenceLayer, history: History) -> None:
        self._layer = layer
        self._history = history

    def acquire(self, claim: Claim) -> Any:
        """As the layer's."""
        return self._note("acquire", claim)

    def extend(self, claim: Claim) -> Any:
        """As the layer's."""
        return self._note("extend", claim)

    def complete(self, claim: Claim, result: bytes | None) -> Any:
        """As the layer's."""
        return self._note("complete", claim, result)

    def release(self, claim: Claim) -> Any:
        """As the layer's."""
        return self._note("release", claim)

    def close(self) -> None:
        """Do nothing: the layer is shared, and closed elsewhere."""

    def _note(self, verb: str, claim: Claim, *result: bytes | None) -> Any:
        end = self._history.begin(verb, claim, *result)
        try:
            answer = getattr(self._layer, verb)(claim, *result)
        except BaseException:
            end(is_open=True)
            raise
        end(outcome_of(answer))
        return answer
