"""Measures the server's CPU for completing a claim, and for a plain SET of the same bytes.

In use: the layer completes, and redis-py's client sends the SET, as for all other floors. The result then also
depends on how the client sends: redis-py sends a large value in three pieces, each of which wakes the server, and
the longer a client works between two commands, the colder the server's caches are.

Sent alike: the messages are the layer's, but packed beforehand and sent in one piece over one connection, each as
soon as the previous one was answered. This is the cost of the scripts alone.
"""

import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from idempotency_mw.core.record import Claim, Operation, Settled, Status
from idempotency_mw.persistence.frame import Frame
from idempotency_mw.persistence.redis import RedisPersistenceLayer, commands
from idempotency_mw.persistence.redis.direct.resp import packed, pieces
from tests.servers import RedisServer

__all__ = ["ALIKE", "IN_USE", "measures", "way_taken"]

PREFIX, TOKEN, FINGERPRINT = "idempotency:", "b" * 32, "0123456789abcdef" * 4
DAY_MS = 86_400_000
RECORD = Frame(Status.IN_PROGRESS, TOKEN, 1, 10**14, FINGERPRINT).encode()
MESSAGES, BYTES = 200, 5_000_000
"""A measurement sends that many messages, or that many bytes if that is fewer messages."""

Sent = tuple[bytes, bytes]
"""A message, and the reply that it must get."""
Step = Callable[[], object]
"""Sends one message, and tells whether it got the right reply."""


def _plain(key: str, _claim: Claim, result: bytes) -> Sent:
    return packed(("SET", key, commands.ROOM + result, "PX", DAY_MS)), b"+OK\r\n"


def _script(key: str, claim: Claim, result: bytes) -> Sent:
    return packed(commands.complete(key, claim, result).by_digest), b":1\r\n"


def _renamed(key: str, claim: Claim, result: bytes) -> Sent:
    temporary = commands.temporary_key(PREFIX, key, claim.token) or ""
    together: Any = next(commands.complete_large(key, claim, result, temporary))
    return b"".join(pieces(together)), b"+OK\r\n:1\r\n"


ALIKE: dict[str, Callable[[str, Claim, bytes], Sent]] = {"SET": _plain, "script": _script, "renamed": _renamed}
IN_USE = ("redis-py's SET", "complete")
"""The names of the ways: sent alike (the keys of ALIKE), and as they are used in practice."""


def way_taken(size: int) -> str:
    """Return the way that a layer takes for a result of this size."""
    return "script" if size < commands.LARGE else "renamed"


@contextmanager
def measures(
    binary: Path, sizes: Sequence[int], ways: Callable[[int], Iterable[str]]
) -> Iterator[dict[tuple[str, int], Callable[[], float]]]:
    """Start a server; yield functions, by way and size, that measure the CPU microseconds of one message there."""
    with (
        RedisServer(binary) as server,
        server.client() as client,
        server.client() as other,
        RedisPersistenceLayer.from_url(server.url, key_prefix=PREFIX, timeout_seconds=60) as layer,
        socket.create_connection(("127.0.0.1", server.port)) as connection,
    ):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for size in (0, commands.LARGE):
            layer.complete(_planted(client, 1)[0], bytes(size))  # loads the scripts
        in_use = dict(zip(IN_USE, (partial(_sets, other), partial(_completions, layer)), strict=True))
        yield {
            (way, size): partial(_cpu_us, client, in_use.get(way) or partial(_messages, connection, way), size)
            for size in sizes
            for way in ways(size)
        }


def _sets(client: Any, claims: list[Claim], result: bytes) -> list[Step]:
    value = commands.ROOM + result
    return [
        partial(client.execute_command, "SET", PREFIX + claim.storage_key, value, "PX", DAY_MS) for claim in claims
    ]


def _completions(layer: RedisPersistenceLayer, claims: list[Claim], result: bytes) -> list[Step]:
    return [lambda claim=claim: layer.complete(claim, result) == Settled() for claim in claims]


def _messages(connection: socket.socket, way: str, claims: list[Claim], result: bytes) -> list[Step]:
    sent = [ALIKE[way](PREFIX + claim.storage_key, claim, result) for claim in claims]
    return [partial(_is_answered, connection, *each) for each in sent]


def _is_answered(connection: socket.socket, message: bytes, wanted: bytes) -> bool:
    connection.sendall(message)
    return _received(connection, len(wanted)) == wanted


def _planted(client: Any, number: int) -> list[Claim]:
    """Empty the server, and return that many claims that stand on it."""
    client.flushall()
    claims = [Claim(Operation(f"{n:064d}", FINGERPRINT), TOKEN, DAY_MS, DAY_MS) for n in range(number)]
    pipeline = client.pipeline(transaction=False)
    for claim in claims:
        pipeline.set(PREFIX + claim.storage_key, RECORD, px=DAY_MS)
    pipeline.execute()
    return claims


def _cpu_us(client: Any, steps: Callable[[list[Claim], bytes], list[Step]], size: int) -> float:
    prepared = steps(_planted(client, max(min(MESSAGES, BYTES // size), 1)), b"x" * size)
    before = _spent_us(client)
    for step in prepared:
        if not step():
            raise SystemExit("A claim was lost, so nothing was measured.")
    return (_spent_us(client) - before) / len(prepared)


def _received(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (more := connection.recv(65536)):
        data += more
    return data


def _spent_us(client: Any) -> float:
    info: dict[str, float] = client.info("cpu")
    return (info["used_cpu_user"] + info["used_cpu_sys"]) * 1e6
