"""Counts round trips and commands on the way to a real server, and the bytes that an answer takes there.

A proxy between worker and server keeps each message that the worker sends. A message is one round trip, whether it
is one command or a pipeline. Commands inside scripts are not counted.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.driving import Worker
from tests.proxy import Proxy
from tests.servers import RedisServer

__all__ = ["REQUESTS", "round_trips", "stored_bytes"]

REQUESTS = 10
"""Enough to tell what each request costs from what happens once."""
KINDS = ("first", "replay", "held", "mismatch")

Count = dict[str, Any]


def round_trips(
    contestants: Sequence[str], server: RedisServer, progress: Callable[[float], None]
) -> dict[str, dict[str, Count]]:
    """Return round trips and commands of one request, by contestant and kind; 409 is called "conflict"."""
    counted: dict[str, dict[str, Count]] = {}
    for number, contestant in enumerate(contestants, start=1):
        # For functions, 422 needs an option, so another contestant is asked.
        asked = "ours-function-validated" if contestant == "ours-function" else contestant
        kinds = KINDS if contestant != "powertools" else KINDS[:-1]
        counted[contestant] = _counts(asked, kinds, server)
        progress(number / len(contestants))
    return counted


def _counts(contestant: str, kinds: Sequence[str], server: RedisServer) -> dict[str, Count]:
    with Proxy(server.port) as proxy:
        worker = Worker(contestant, proxy.url)
        counts = {kind: _count(worker, kind, proxy) for kind in kinds}
        worker.end()
    held, first = counts.pop("held"), counts["first"]
    # "held" is a request and its duplicate; less the cost of the request alone, this is the duplicate's 409.
    counts["conflict"] = {
        "trips": round(held["trips"] - first["trips"], 2),
        "commands": dict(Counter(held["commands"]) - Counter(first["commands"])),
    }
    return counts


def _count(worker: Worker, kind: str, proxy: Proxy) -> Count:
    worker.ask(kind, 2)  # connects, and loads the scripts into the server
    before = len(proxy.requests)
    worker.ask(kind, REQUESTS)
    requests = proxy.requests[before:]
    names = Counter(name for request in requests for name in command_names(request))
    commands = {name: count / REQUESTS for name, count in names.items() if count >= REQUESTS}
    return {"trips": round(len(requests) / REQUESTS, 2), "commands": commands}


def command_names(message: bytes) -> list[str]:
    """Return the names of all commands in a message (RESP arrays of bulk strings)."""
    names: list[str] = []
    at = 0
    while at < len(message) and message[at : at + 1] == b"*":
        end = message.index(b"\r\n", at)
        words, at = int(message[at + 1 : end]), end + 2
        for word in range(words):
            end = message.index(b"\r\n", at)
            length, at = int(message[at + 1 : end]), end + 2
            if word == 0:
                names.append(message[at : at + length].decode("ascii").upper())
            at += length + 2
    return names


def stored_bytes(contestants: Sequence[str], server: RedisServer) -> dict[str, dict[str, int]]:
    """Return what one answer takes: the bytes of key and value, and the server's MEMORY USAGE."""
    return {contestant: _stored(contestant, server) for contestant in contestants}


def _stored(contestant: str, server: RedisServer) -> dict[str, int]:
    worker = Worker(contestant, server.url)
    worker.ask("first", 1)
    with server.client() as client:
        client.flushall()
        worker.ask("first", 1)
        keys: Any = client.keys()
        stored = {
            "key": sum(map(len, keys)),
            "value": sum(_length(client, key) for key in keys),
            "memory": sum(client.memory_usage(key, samples=0) for key in keys),
        }
    worker.end()
    return stored


def _length(client: Any, key: bytes) -> int:
    if client.type(key) == b"hash":
        return sum(len(name) + len(value) for name, value in client.hgetall(key).items())
    length: int = client.strlen(key)
    return length
