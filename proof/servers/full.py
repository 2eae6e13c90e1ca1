"""A server without free memory, which evicts nothing."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import redis

from proof.figures import Figure, in_short
from proof.servers.amount import LONGEST, Amount
from proof.stage.asking import Answer
from proof.stage.judging import contradictions, lost_completions
from proof.stage.scene import Scene, folder
from proof.stage.stores import RedisLook
from tests.servers import RedisServer, binaries

__all__ = ["full"]


def full(amount: Amount) -> Iterator[Figure]:
    """Rows 5 and 16: no new execution begins, and no result is lost."""
    for name, binary in sorted(binaries().items())[:2]:
        with folder() as where, RedisServer(binary) as server, server.client() as client:
            yield from asyncio.run(_fill(name, where, client, server.url, amount))


async def _fill(name: str, where: Path, client: Any, url: str, amount: Amount) -> list[Figure]:
    async with asyncio.timeout(LONGEST), Scene(where, {"url": url}) as scene:
        clients = scene.clients(f"full-{name}", amount.clients)
        done = [clients.new_key() for _ in range(amount.held)]
        await asyncio.gather(*(clients.ask_until_answered(key, 10) for key in done))
        held = [clients.new_key() for _ in range(amount.held)]
        clients.wishes.update(dict.fromkeys(held, b'{"gate": "gate"}'))
        running = [asyncio.create_task(clients.ask_until_answered(key, 60)) for key in held]
        await scene.have_begun(len(done) + len(held))
        _fill_up(client)
        new = [clients.new_key() for _ in range(2 * amount.held)]
        refused = await _problems(clients, new)
        duplicates = await _problems(clients, held)
        replays = await _problems(clients, done)
        scene.reader.read()
        begun = len(scene.reader.executions)
        scene.open_gate("gate")
        late = await asyncio.gather(*running)
        replays += await _problems(clients, held)
        _empty(client)
        await asyncio.gather(*(clients.ask_until_answered(key, 10) for key in new))
        scene.reader.read()
        wrong = contradictions(scene.reader, clients.answers) + lost_completions(scene.reader, RedisLook(client))
    runs = begun - len(done) - len(held)
    refusals = f"{refused.count('store-unavailable')} of {len(new)} refused with 503, {runs} runs"
    is_held = refused == ["store-unavailable"] * len(new) and runs == 0
    yielded = [
        Figure("I7 #5", f"new keys on a full server ({name})", "all refused with 503, 0 runs", refusals, is_held)
    ]
    kept = len(late) + len(replays) - sum(answer.status != 201 for answer in late)
    text = f"{replays.count(None)} replays, {len(duplicates)} refused with 409; {kept} answers in all"
    is_held = not wrong and set(replays) == {None} and set(duplicates) == {"in-progress"}
    what = f"results and duplicates on a full server ({name})"
    return [*yielded, Figure("I2 #16", what, "all kept, all answered", in_short(wrong) or text, is_held)]


async def _problems(clients: Any, keys: list[str]) -> list[str | None]:
    """Ask once with each key; return the problem of each answer, None for a result."""
    answers = await asyncio.gather(*(clients.ask_once(key, 10) for key in keys))
    return [answer.problem for answer in answers if isinstance(answer, Answer)]


def _fill_up(client: Any) -> None:
    """Fill the server until it accepts no write."""
    client.config_set("maxmemory", client.info("memory")["used_memory"] + (2 << 20))
    client.config_set("maxmemory-policy", "noeviction")
    for size in (1 << 16, 1 << 10, 16):
        try:
            for number in range(100_000):
                client.set(f"filler-{size}-{number}", b"x" * size)
        except redis.OutOfMemoryError:
            continue
    # Connection buffers count as used memory, and their size changes; half of it leaves no room in any case.
    client.config_set("maxmemory", client.info("memory")["used_memory"] // 2)


def _empty(client: Any) -> None:
    client.config_set("maxmemory", 0)
    for key in client.scan_iter("filler-*", count=1000):
        client.delete(key)
