"""Moves slots from master to master, as a program: `python -m proof.stage.slots JOURNAL COUNT SEED PORTS`.

It moves them as `redis-cli --cluster reshard` does, with a pause between the steps. It prefers slots in which an
execution is under way (it reads the journal), and prints as JSON what it moved. It is a process of its own, so
that it never waits for the clients that it disturbs.

A third of the slots goes from each of the three masters to the next. Between the thirds it waits until all masters
have the same view, or a slot could end up with two owners:

    time 0   B receives the slot and raises its own epoch above all epochs that it knows
    time 1   the slot moves on to C, which has not heard of B's new epoch yet and picks the same or a lower one
    time 2   B and C each believe the other one owns the slot, and redirect clients to each other for ever
"""

import json
import random
import sys
import time
from pathlib import Path
from typing import Any

import redis
from redis.crc import key_slot

from proof.stage.journal import Reader
from proof.stage.stores import PREFIX
from proof.stage.workers import end_with_parent

__all__ = ["slot_of"]

SLOTS = 16384
"""The number of slots of every Redis cluster."""
LONGEST_PAUSE = 0.003
"""Seconds between two steps: several requests of the run's clients meet each state of a move."""


def slot_of(storage_key: str) -> int:
    """Return the cluster slot of a record."""
    return int(key_slot((PREFIX + storage_key).encode("ascii")))


class Mover:
    """Moves slots, and keeps track of which master owns which slot."""

    def __init__(self, journal: Path, seed: int, ports: list[int]) -> None:
        self.records = 0
        self._reader = Reader(journal)
        self._random = random.Random(seed)
        self._ports = ports
        self._nodes: list[Any] = [redis.Redis(port=port, socket_timeout=10) for port in ports]
        self._ids = [node.execute_command("CLUSTER", "MYID").decode() for node in self._nodes]
        self._owner = dict(self._owners())

    def _owners(self) -> Any:
        for first, last, master, *_ in self._nodes[0].execute_command("CLUSTER", "SLOTS"):
            for slot in range(first, last + 1):
                yield slot, self._ports.index(master[1])

    def go_around(self, count: int) -> None:
        """Move that many slots: a third from each master to the next."""
        for number in range(count):
            source = number * 3 // count
            if source != (number - 1) * 3 // count:
                self._wait_until_agreed()
            self._move(self._one_of(source), source, (source + 1) % 3)

    def _one_of(self, source: int) -> int:
        """Return one of this master's slots, if possible one with an execution under way."""
        self._reader.read()
        slots = [slot_of(each.storage_key) for each in self._reader.live()]
        theirs = [slot for slot in slots if self._owner[slot] == source]
        return self._random.choice(theirs or [slot for slot, owner in self._owner.items() if owner == source])

    def _move(self, slot: int, source: int, target: int) -> None:
        self._tell(target, "SETSLOT", slot, "IMPORTING", self._ids[source])
        self._tell(source, "SETSLOT", slot, "MIGRATING", self._ids[target])
        self._pause()
        while keys := self._tell(source, "GETKEYSINSLOT", slot, 100):
            where = ("127.0.0.1", self._ports[target], "", 0, 5000)
            self._nodes[source].execute_command("MIGRATE", *where, "KEYS", *keys)
            self.records += len(keys)
        self._pause()
        for number in (target, source, 3 - target - source):
            self._tell(number, "SETSLOT", slot, "NODE", self._ids[target])
        self._owner[slot] = target

    def _wait_until_agreed(self) -> None:
        while len({self._view(node) for node in self._nodes}) > 1:
            time.sleep(0.05)

    def _view(self, node: Any) -> str:
        """Return a master's view of all masters: their epochs and slots."""
        lines: bytes = node.execute_command("CLUSTER", "NODES")
        fields = [line.split() for line in lines.splitlines()]
        return str(sorted((each[0], each[6], each[8:]) for each in fields))

    def _tell(self, number: int, *words: Any) -> Any:
        return self._nodes[number].execute_command("CLUSTER", *words)

    def _pause(self) -> None:
        time.sleep(self._random.uniform(0, LONGEST_PAUSE))


def _main(journal: str, count: str, seed: str, *ports: str) -> None:
    end_with_parent()
    mover = Mover(Path(journal), int(seed), [int(port) for port in ports])
    mover.go_around(int(count))
    print(json.dumps({"moved": int(count), "records": mover.records}), flush=True)


if __name__ == "__main__":
    _main(*sys.argv[1:])
