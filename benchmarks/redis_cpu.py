"""Measure the server's CPU that completing costs, over a plain SET of the same bytes, on every server found here.

"script" is complete.lua, which gets the result as an argument; "renamed" is a SET under a temporary key and
complete_large.lua in one trip. `*` marks the way that the layer takes for the size. The CPU is that of the
server's process, user and system: with what it takes to read the bytes and to answer, one command a trip as in
real use. The ways take turns, and each figure is the least of its rounds: what else runs on the machine only adds.

Exits 0 where the layer takes the cheaper way for each size, or one that is about as cheap, 1 otherwise. The
budgets are shown beside it: docs/decisions/011 says where they are not met. Takes most of a minute. A noisy
machine gives noisy ratios: run it again before believing one.
"""
# ruff: noqa: SLF001 -- a script: it forces the layer one way or the other, and prints

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from idempotency_mw.core.record import Claim, Operation, Settled
from idempotency_mw.persistence.frame import Frame, Status
from idempotency_mw.persistence.redis import RedisPersistenceLayer
from idempotency_mw.persistence.redis.commands import LARGE, ROOM, temporary_key
from tests.servers import RedisServer, binaries

SMALL_BUDGET, LARGE_BUDGET = 1.5, 1.25
ALIKE = 1.1
SIZES = {200: 100, 10_000: 80, 30_000: 60, 100_000: 40, 1_000_000: 8, 10 << 20: 1}
ROUNDS = 60
SECONDS = 25.0
"""For one server. Sizes share it: however slow the machine, the run ends."""

TOKEN, FINGERPRINT = "b" * 32, "a" * 64
DAY_MS = 86_400_000

Way = Callable[[RedisPersistenceLayer, redis.Redis, Claim, bytes], None]


def plain(layer: RedisPersistenceLayer, client: redis.Redis, claim: Claim, result: bytes) -> None:
    client.set(layer._key(claim), ROOM + result, px=DAY_MS)


def script(layer: RedisPersistenceLayer, _client: redis.Redis, claim: Claim, result: bytes) -> None:
    layer._temporary = lambda *_: None  # type: ignore[method-assign]
    settle(layer, claim, result)


def renamed(layer: RedisPersistenceLayer, _client: redis.Redis, claim: Claim, result: bytes) -> None:
    layer._temporary = lambda key, claim, _: temporary_key(layer.key_prefix, key, claim.token)  # type: ignore[method-assign]
    settle(layer, claim, result)


def settle(layer: RedisPersistenceLayer, claim: Claim, result: bytes) -> None:
    if layer.complete(claim, result) != Settled():
        raise SystemExit("A claim was lost: nothing was measured.")


WAYS: tuple[Way, ...] = (plain, script, renamed)


def planted(layer: RedisPersistenceLayer, client: redis.Redis, number: int) -> list[Claim]:
    """Return so many claims that stand on an otherwise empty server."""
    client.flushall()
    claims = [Claim(Operation(f"{n:064d}", FINGERPRINT), TOKEN, DAY_MS, DAY_MS) for n in range(number)]
    record = Frame(Status.IN_PROGRESS, TOKEN, 1, 10**14, FINGERPRINT).encode()
    pipeline = client.pipeline(transaction=False)
    for claim in claims:
        pipeline.set(layer._key(claim), record, px=DAY_MS)
    pipeline.execute()
    return claims


def cpu_us(client: redis.Redis) -> float:
    info: Any = client.info("cpu")
    return (info["used_cpu_user"] + info["used_cpu_sys"]) * 1e6


def least_us(layer: RedisPersistenceLayer, client: redis.Redis, size: int) -> list[float]:
    """Return the microseconds of CPU that one result of this size takes, each way."""
    least = [float("inf")] * len(WAYS)
    ends = time.monotonic() + SECONDS / len(SIZES)
    result = bytes(size)
    for number in range(ROUNDS):
        for index, way in enumerate(WAYS):
            claims = planted(layer, client, SIZES[size])
            before = cpu_us(client)
            for claim in claims:
                way(layer, client, claim, result)
            least[index] = min(least[index], (cpu_us(client) - before) / len(claims))
        if number >= 2 and time.monotonic() > ends:
            break
    return least


def measured(name: str, binary: Path) -> bool:
    """Print the table of one server, and tell whether the layer takes the cheaper way."""
    verdicts = []
    with (
        RedisServer(binary) as server,
        server.client() as client,
        RedisPersistenceLayer.from_url(server.url, timeout_seconds=60) as layer,
    ):
        for way in WAYS:
            way(layer, client, planted(layer, client, 1)[0], b"")  # connected, and the scripts are known
        for size in SIZES:
            bare, *ours = least_us(layer, client, size)
            ratios = [each / bare for each in ours]
            taken, budget = (1, LARGE_BUDGET) if size >= LARGE else (0, SMALL_BUDGET)
            verdicts.append(ratios[taken] <= ALIKE * ratios[1 - taken])
            marks = ("*", " ") if size < LARGE else (" ", "*")
            verdict = "met" if ratios[taken] <= budget else "not met"
            figures = "  ".join(f"{each:>7.2f}{mark}" for each, mark in zip(ratios, marks, strict=True))
            print(f"{name:<8} {size:>10,}  {bare:>10,.1f}  {figures}  {budget:>6}  {verdict}", flush=True)
    return all(verdicts)


def main() -> int:
    print(f"{'server':<8} {'bytes':>10}  {'SET, us':>10}  {'script':>8}  {'renamed':>8}  budget")
    verdicts = [measured(name, binary) for name, binary in binaries().items()]
    print("The cheaper way is taken." if all(verdicts) else "THE DEARER WAY IS TAKEN.")
    return 0 if all(verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
