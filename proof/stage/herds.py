"""Sends duplicates of the same keys from several processes at once, as a program.

    python -m proof.stage.herds SEED KEYS DUPLICATES PROCESSES AT_ONCE     (a `Herd`)

In each round every process sends its share of the duplicates of `AT_ONCE` keys. Each process calls a middleware
of its own, on a layer of its own; an HTTP server in between would only make it slower. Prints one line of JSON for
each round and process: what this process saw of every key.
"""

import asyncio
import contextlib
import json
import os
import random
import resource
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from proof.stage.app import Setting, asgi_app
from proof.stage.asking import Answer, Ask, asking
from proof.stage.workers import end_with_parent

__all__ = ["Herd", "main"]

RUN_SECONDS = 0.15
"""How long each execution takes: long enough that duplicates arrive while it runs."""
BODY = json.dumps({"seconds": RUN_SECONDS}).encode("ascii")
PATIENCE = 60.0
"""Seconds until a request counts as hung: more than the 30 that a duplicate may wait inside the middleware."""


@dataclass(frozen=True, slots=True)
class Herd:
    """The size of a herd: `at_once` keys at a time, each asked for `duplicates` times."""

    seed: str
    keys: int
    duplicates: int
    processes: int
    at_once: int

    def arguments(self) -> list[str]:
        """Return the command line arguments from which `read` makes this herd."""
        counts = (self.keys, self.duplicates, self.processes, self.at_once)
        return [self.seed, *(str(count) for count in counts)]

    @classmethod
    def read(cls, arguments: list[str]) -> "Herd":
        """Return the herd that `arguments` describe."""
        return cls(arguments[0], *(int(count) for count in arguments[1:]))

    def rounds(self) -> Iterator[list[str]]:
        """Yield the keys of each round."""
        keys = [f"{self.seed}-{number}" for number in range(self.keys)]
        for start in range(0, self.keys, self.at_once):
            yield keys[start : start + self.at_once]


def main(herd: Herd) -> None:
    """Fork the processes, and let all of them begin each round together."""
    end_with_parent()
    setting = Setting.here()
    ends = [_forked(herd, setting, number) for number in range(herd.processes)]
    for _ in herd.rounds():
        for start, _ in ends:
            os.write(start, b"\n")
        for _, heard in ends:
            print(heard.readline(), end="", flush=True)
    for _ in ends:
        os.wait()


def _forked(herd: Herd, setting: Setting, number: int) -> tuple[int, Any]:
    """Start a process; return the pipe that starts a round there, and the file that receives its results."""
    (ours_in, start), (heard, tells) = os.pipe(), os.pipe()
    if os.fork() == 0:
        try:
            end_with_parent()
            asyncio.run(_Flock(herd, setting, number).stampede(os.fdopen(ours_in), tells))
        finally:
            os._exit(0)
    os.close(ours_in)
    os.close(tells)
    return start, os.fdopen(heard)


class _Flock:
    """One process's share of the duplicates."""

    def __init__(self, herd: Herd, setting: Setting, number: int) -> None:
        self._herd = herd
        self._share = herd.duplicates // herd.processes
        self._random = random.Random(f"{herd.seed}-{number}")
        self._setting = setting

    async def stampede(self, starts: Any, tells: int) -> None:
        """Go through all rounds; write one line of results for each."""
        ask = asking(asgi_app(self._setting))
        before = _peak_kib()
        for keys in self._herd.rounds():
            starts.readline()
            seen = await asyncio.gather(*(self._herd_of(ask, key) for key in keys))
            told = {"grown_kib": _peak_kib() - before, "seen": dict(zip(keys, seen, strict=True))}
            os.write(tells, json.dumps(told).encode("ascii") + b"\n")

    async def _herd_of(self, ask: Ask, key: str) -> dict[str, Any]:
        refused: Counter[str] = Counter()
        answers = await asyncio.gather(*(self._until_answered(ask, key, refused) for _ in range(self._share)))
        return {
            "answers": len(answers),
            "bodies": sorted({answer.digest for answer in answers}),
            "runs": sum(not answer.is_replay for answer in answers),
            "refused": refused,
            "statuses": Counter(answer.status for answer in answers),
        }

    async def _until_answered(self, ask: Ask, key: str, refused: Counter[str]) -> Answer:
        while (answer := await ask(key, BODY, PATIENCE)).problem in ("in-progress", "store-unavailable"):
            refused[answer.problem] += 1
            # Later than Retry-After says, and spread: otherwise all would ask at the same moment again.
            await asyncio.sleep(self._random.uniform(RUN_SECONDS, 3 * RUN_SECONDS))
        return answer


def _peak_kib() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // 1024 if sys.platform == "darwin" else peak


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        main(Herd.read(sys.argv[1:]))
