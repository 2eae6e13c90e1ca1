"""Herds: hundreds of duplicates of each key, sent by several processes at once, on one store.

In one form a duplicate is refused with 409 and asks again; in the other it waits in the middleware
(`wait_seconds`). In both forms each key runs once, and all its duplicates get that execution's answer. The cost is
shown too: the memory of a process, and the connections to the server.
"""

import asyncio
import contextlib
import json
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import redis

from proof.figures import Figure, Progress, Size
from proof.stage.app import Setting
from proof.stage.fleet import ROOT
from proof.stage.herds import Herd
from proof.stage.journal import Reader
from proof.stage.scene import Scene, folder
from tests.servers import RedisServer, binaries

__all__ = ["Form", "made", "run"]

LEASE = 10
"""Seconds. An execution takes 0.15 s, so no lease lapses, even on a busy machine."""
MOST_KIB_A_DUPLICATE = 160
"""Limit on the growth of peak memory: a request, its task, and in the worst case a connection with two buffers."""


@dataclass(frozen=True, slots=True)
class Form:
    """One way for duplicates to wait, and the size of the herd."""

    name: str
    config: dict[str, Any]
    herd: Herd


def _forms(keys: int, duplicates: int, at_once: int) -> tuple[Form, ...]:
    return (
        Form("asking again", {}, Herd("asking", keys, duplicates, 4, at_once)),
        Form("waiting", {"wait_seconds": 30}, Herd("waiting", keys, duplicates, 4, at_once)),
    )


FORMS = {Size.CI: _forms(100, 500, 5), Size.LONG: _forms(1000, 1000, 5)}
LONGEST = {Size.CI: 200, Size.LONG: 3600}
"""Seconds that one herd may take on a busy machine. The usual time on two cores is a fifth of that."""


def run(size: Size, progress: Progress) -> Iterator[Figure]:
    """Send the herds; yield the figures."""
    yield from made(FORMS[size], progress, LONGEST[size])
    yield bounded(keys=5, duplicates=100, waiters=10)


def made(forms: tuple[Form, ...], progress: Progress, longest: float = 3600) -> Iterator[Figure]:
    """Yield the figures of these herds. A herd is killed after `longest` seconds, and judged by its results."""
    of = sum(form.herd.keys for form in forms)
    done = 0
    for number, form in enumerate(forms):
        names = sorted(binaries())
        binary = binaries()[names[number % len(names)]]
        try:
            with folder() as where, RedisServer(binary) as server, server.client() as client:
                seen = _Seen(form)
                config = {"lease_seconds": LEASE} | form.config
                setting = Setting(str(where), {"url": server.url}, config, timeout_seconds=20)
                for each in _stampede(form, setting, client, seen, longest):
                    seen.add(each)
                    progress(done + len(seen.keys), of)
                done += form.herd.keys
                yield from seen.figures(Reader(where / "journal"))
        except Exception as error:
            yield Figure("", f"herd {form.name}", "it finishes", repr(error), holds=False)


@dataclass(slots=True)
class _Key:
    """What all processes saw of one key."""

    answers: int = 0
    runs: int = 0
    bodies: set[str] = field(default_factory=set)


@dataclass(slots=True)
class _Seen:
    """What all processes saw."""

    form: Form
    keys: dict[str, _Key] = field(default_factory=dict)
    refused: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    grown_kib: int = 0
    connections: int = 0

    def add(self, told: dict[str, Any]) -> None:
        """Add what one process saw in one round."""
        self.grown_kib = max(self.grown_kib, told["grown_kib"])
        for name, seen in told["seen"].items():
            key = self.keys.setdefault(name, _Key())
            key.answers += seen["answers"]
            key.runs += seen["runs"]
            key.bodies.update(seen["bodies"])
            self.refused.update(seen["refused"])
            self.statuses.update(seen["statuses"])

    def figures(self, reader: Reader) -> Iterator[Figure]:
        """Yield the figures."""
        reader.read()
        herd, name = self.form.herd, self.form.name
        of = f"{herd.keys} keys x {herd.duplicates}, {herd.processes} processes"
        runs = Counter(len(some) for some in reader.of_key.values())
        good = [key for key in self.keys.values() if len(key.bodies) == key.runs == 1]
        whole = sum(key.answers == herd.duplicates // herd.processes * herd.processes for key in good)
        is_one = runs == {1: herd.keys} and whole == herd.keys == len(self.keys) and set(self.statuses) == {"201"}
        text = f"{whole} keys, {sum(self.statuses.values()):,} answers"
        yield Figure("I1 I2 #24", f"herd {name}: {of}", "1 run and 1 body each", text, is_one)
        other = {problem: count for problem, count in self.refused.items() if problem != "in-progress"}
        text = str(other or f"0; {self.refused['in-progress']:,} times 409")
        yield Figure("#24", f"herd {name}: refused for any other reason", "0", text, not other)
        at_once = herd.at_once * herd.duplicates
        yield Figure("", f"herd {name}: connections to the server", f"at most {at_once:,}, one each",
                     f"{self.connections:,} at most", self.connections <= at_once)  # fmt: skip
        a_process = at_once // herd.processes
        most = MOST_KIB_A_DUPLICATE * a_process / 1024
        text = f"{self.grown_kib / 1024:.0f} MiB ({self.grown_kib / a_process:.0f} KiB each)"
        what = f"herd {name}: a process grows, {a_process:,} at once"
        yield Figure("", what, f"at most {most:.0f} MiB", text, self.grown_kib / 1024 <= most)


def bounded(keys: int, duplicates: int, waiters: int) -> Figure:
    """Return what `max_waiters` shows: that many duplicates of a key wait; the others get 409 at once."""
    what = f"herd: max_waiters={waiters}, {keys} keys x {duplicates} in one process"
    turned_away = keys * (duplicates - 1 - waiters)
    wanted = f"{turned_away} refused at once"
    try:
        with folder() as where, RedisServer(next(iter(binaries().values()))) as server:
            seen, answers = asyncio.run(_crowded(where, server.url, keys, duplicates, waiters))
    except Exception as error:
        return Figure("#24", what, wanted, repr(error), holds=False)
    is_held = seen == turned_away and answers == keys * (1 + waiters)
    return Figure("#24", what, wanted, f"{seen} refused, {answers} answered at the end", is_held)


async def _crowded(where: Path, url: str, keys: int, duplicates: int, waiters: int) -> tuple[int, int]:
    async with asyncio.timeout(60), Scene(where, {"url": url}, wait_seconds=50, max_waiters=waiters) as scene:
        clients = scene.clients("crowd", 1)
        crowd = [clients.new_key() for _ in range(keys)]
        clients.wishes.update(dict.fromkeys(crowd, b'{"gate": "gate"}'))
        asked = [
            asyncio.create_task(clients.ask_once(key, 50, scene.asks[0]))
            for key in crowd
            for _ in range(duplicates)
        ]
        settled = 0
        while (now := sum(task.done() for task in asked)) < keys * (duplicates - 1 - waiters) or now > settled:
            settled = now
            await asyncio.sleep(0.3)
        scene.open_gate("gate")
        answers = await asyncio.gather(*asked)
    return settled, sum(answer is not None and answer.status == 201 for answer in answers)


def _stampede(form: Form, setting: Setting, client: Any, seen: _Seen, longest: float) -> Iterator[dict[str, Any]]:
    command = [sys.executable, "-m", "proof.stage.herds", *form.herd.arguments()]
    environment = {"PYTHONPATH": str(ROOT), **setting.environment()}
    with _Counting(client) as counting, subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:  # fmt: skip
        watch = threading.Timer(longest, process.kill)
        watch.start()
        assert process.stdout is not None
        try:
            for line in process.stdout:
                yield json.loads(line)
                seen.connections = counting.most
        finally:
            watch.cancel()
            process.kill()
        if process.wait() not in (0, -9):
            raise RuntimeError(f"the processes ended with exit status {process.returncode}")


class _Counting:
    """Watches how many connections the server has, in a thread. The watching connection is not counted."""

    def __init__(self, client: Any) -> None:
        self.most = 0
        self._client = client
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._count, daemon=True)

    def _count(self) -> None:
        while not self._over.wait(0.02):
            with contextlib.suppress(redis.RedisError):
                self.most = max(self.most, self._client.info("clients")["connected_clients"] - 1)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
