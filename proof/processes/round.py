"""One part, carried out once: load, kills and stops, and what they show."""

import asyncio
import random
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from proof.processes.part import FREE_WITHIN, LEASE, RETENTION, Part
from proof.processes.seen import Seen
from proof.stage.app import MOMENTS, Setting
from proof.stage.asking import asking_over_http
from proof.stage.clients import Clients
from proof.stage.fleet import Fleet
from proof.stage.journal import Execution, Reader
from proof.stage.judging import cut_off, different_answers, live_beside, lost_completions, run_again
from proof.stage.stores import Look, RedisLook, SQLiteLook
from tests.servers import RedisServer, binaries

__all__ = ["Round"]

START, A_DEED = 20.0, 5.0
"""Seconds for a round to begin and end, and for each kill or stop in it, on a busy machine."""


@dataclass(slots=True)
class _Orphan:
    """A claim whose owner died, as the store held it then."""

    execution: Execution
    token: str
    lease_until: float
    held_until: float = 0.0
    """When it was last seen in the store, with or without a valid lease."""
    freed: float = 0.0
    """When it was first seen replaced by another claim, or gone."""


class Round:
    """One part, carried out once."""

    def __init__(self, part: Part, stack: ExitStack, seen: Seen, seed: str) -> None:
        self._part = part
        self._seen = seen
        self._random = random.Random(seed)
        self._orphans: list[_Orphan] = []
        self._watches: list[asyncio.Task[None]] = []
        self._dead: set[int] = set()
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="processes-")))
        store, self._look = _store(part.store, folder, stack)
        config = {"lease_seconds": LEASE, "expires_after_seconds": RETENTION}
        self._fleet = Fleet(part.kind, Setting(str(folder), store, config), part.workers)
        self._reader = Reader(folder / "journal")
        self._reader.path.touch()
        self._clients = Clients(
            [asking_over_http(self._fleet.port)], _wish, seed=f"{part.kind}-{seed}", count=part.clients,
            impatience=0.7,
        )  # fmt: skip

    def make(self, tell: Any) -> None:
        """Carry it out, and add to what was seen."""
        with self._fleet:
            asyncio.run(self._made_in_time(tell))
        if "Traceback" in self._fleet.log:
            self._seen.broken.append(f"{self._part.kind} over {self._part.store}: a traceback in the log")

    async def _made_in_time(self, tell: Any) -> None:
        part = self._part
        try:
            async with asyncio.timeout(START + A_DEED * (part.kills + part.deaths + part.stops)):
                await self._made(tell)
        except TimeoutError:
            self._seen.broken.append(f"{part.kind} over {part.store}: not at its end in time")
        self._reader.read()
        self._judge()

    async def _made(self, tell: Any) -> None:
        async with self._clients:
            await self._clients.have_answered(2 * self._part.clients)
            for deed in self._deeds():
                await asyncio.sleep(self._random.uniform(0.05, 0.25))
                await deed()
                tell()
        await self._clients.ask_all_again()
        await asyncio.gather(*self._watches)

    def _deeds(self) -> list[Any]:
        part = self._part
        deaths = [partial(self._die, MOMENTS[number % 4]) for number in range(part.deaths)]
        stops = [partial(self._stop, early=number % 2 == 0) for number in range(part.stops)]
        deeds = [*[self._kill] * part.kills, *deaths, *stops]
        self._random.shuffle(deeds)
        return deeds

    # What is done to workers

    async def _kill(self) -> None:
        victim = await self._one_alive()
        self._fleet.kill(victim.pid)
        self._seen.killed += 1
        await self._bury(victim.pid)

    async def _die(self, moment: str) -> None:
        key = self._clients.new_key()
        self._clients.wishes[key] = b'{"seconds": 0.02, "die": "%s"}' % moment.encode("ascii")
        asked = asyncio.create_task(self._clients.ask_until_answered(key, 0.7))
        while not (pids := {line.pid for line in self._reader.events("dies")} - self._dead):
            await self._read_soon()
        self._seen.killed += 1
        await self._bury(*pids)
        await asked

    async def _stop(self, *, early: bool) -> None:
        """Stop a worker past its lease, continue it, and check that it changes nothing.

        `early`: continue it while the takeover's execution runs, so that the first owner ends in the middle of it.
        Otherwise continue it when that execution is over.
        """
        key = self._clients.new_key()
        self._clients.wishes[key] = b'{"seconds": %.1f}' % (2 * LEASE)
        asked = asyncio.create_task(self._clients.ask_until_answered(key, 0.7))
        first = await self._run_of(key, 1)
        self._fleet.stop(first.pid)
        try:
            mine = [each for each in self._reader.live() if each.pid == first.pid]
            await self._run_of(key, 2)
            await (asyncio.sleep(0.1) if early else asked)
            self._reader.read()
            theirs = {each.storage_key for each in mine if self._is_taken_over(each)}
            before = {storage_key: self._look.frame(storage_key) for storage_key in theirs}
        finally:
            self._fleet.go_on(first.pid)
        self._seen.stopped += 1
        await asked
        await asyncio.sleep(0.3)
        for storage_key, frame in before.items():
            self._compare(storage_key, frame, self._look.frame(storage_key))

    async def _run_of(self, key: str, number: int) -> Execution:
        """Return the key's execution of this number once it has begun."""
        while len(self._reader.of_key.get(key, ())) < number:
            await self._read_soon()
        return self._reader.of_key[key][number - 1]

    def _is_taken_over(self, execution: Execution) -> bool:
        return self._reader.of_key[execution.key][-1] is not execution

    def _compare(self, storage_key: str, before: Any, after: Any) -> None:
        """I3: note a violation, if the continued worker changed the record.

        A completed record must be the same to the byte. One in progress must belong to the same owner, or to a
        later one.
        """
        is_same = after == before if before.result else after is not None and after.token == before.token
        if not is_same and (after is None or after.attempt <= before.attempt):
            self._seen.changed.append(f"{storage_key[:12]}: changed by the worker that was stopped")

    async def _one_alive(self) -> Execution:
        """Return an execution that is under way in a live worker."""
        while True:
            await self._read_soon()
            some = [each for each in self._reader.live() if each.pid not in self._dead]
            if some:
                return self._random.choice(some)

    async def _read_soon(self) -> None:
        await asyncio.sleep(0.01)
        self._reader.read()

    async def _bury(self, *pids: int) -> None:
        """Note which claims the dead workers leave, and watch how long the store holds them."""
        self._dead.update(pids)
        await asyncio.sleep(0.05)  # the store has processed what they had sent
        self._reader.read()
        for pid in pids:
            for execution in cut_off(self._reader, pid):
                frame = self._look.frame(execution.storage_key)
                if frame is not None and not frame.result and frame.attempt == execution.attempt:
                    orphan = _Orphan(execution, frame.token, frame.lease_until_ms / 1000)
                    self._orphans.append(orphan)
                    self._watches.append(asyncio.create_task(self._watch(orphan)))

    async def _watch(self, orphan: _Orphan) -> None:
        """Watch the record until another claim replaces it. Some client asks for that key all the time."""
        while not orphan.freed:
            now = time.time()
            frame = self._look.frame(orphan.execution.storage_key)
            if frame is not None and frame.token == orphan.token:
                orphan.held_until = now
            else:
                orphan.freed = time.time()
            await asyncio.sleep(0.02)

    # What it shows

    def _judge(self) -> None:
        seen, reader, answers = self._seen, self._reader, self._clients.answers
        seen.executions += len(reader.executions)
        seen.cut_off += len(self._orphans)
        seen.taken_over += sum(each.attempt > 1 for each in reader.executions.values())
        seen.late += len(reader.events("lost"))
        seen.answers += sum(answer.problem is None for some in answers.values() for answer in some)
        seen.beside += live_beside(reader, self._fleet.fates, any_stop=self._part.store == "sqlite")
        seen.different += different_answers(reader, answers) + run_again(reader, self._fleet.fates)
        seen.different += lost_completions(reader, self._look)
        for orphan in self._orphans:
            self._judge_orphan(orphan)
        bad, count = self._look.unexpiring()
        seen.unexpiring += bad
        seen.records += count

    def _judge_orphan(self, orphan: _Orphan) -> None:
        """I4: 0.25 s after the lease's end, no request is refused because the dead owner "runs"."""
        refused = [
            answer.sent - orphan.lease_until
            for answer in self._clients.answers.get(orphan.execution.key, [])
            if answer.problem == "in-progress" and answer.received < orphan.held_until
        ]
        last = max(refused, default=-LEASE)
        self._seen.last_refused = max(self._seen.last_refused, last)
        self._seen.longest_free = max(self._seen.longest_free, orphan.freed - orphan.lease_until)
        if last > FREE_WITHIN:
            self._seen.not_free.append(f"{orphan.execution.key}: refused {last:.2f} s after its owner's lease")


def _store(name: str, folder: Path, stack: ExitStack) -> tuple[dict[str, Any], Look]:
    if name == "sqlite":
        path = folder / "records.sqlite3"
        return {"path": str(path)}, SQLiteLook(path, RETENTION + 5)
    found = binaries()
    server = stack.enter_context(RedisServer(found.get(name) or next(iter(found.values()))))
    return {"url": server.url}, RedisLook(stack.enter_context(server.client()))


def _wish(draw: random.Random) -> dict[str, Any]:
    """Draw how long an execution takes: mostly a short time, sometimes so long that it needs its heartbeat."""
    longest = draw.choices((0.1, 0.4, 2 * LEASE), weights=(6, 3, 2))[0]
    return {"seconds": round(draw.uniform(longest / 4, longest), 3)}
