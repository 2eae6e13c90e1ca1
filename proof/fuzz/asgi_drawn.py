"""Draws programs for the ASGI middleware from a seed."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from proof.fuzz.programs import (
    LEASE_SECONDS,
    AppError,
    AppStop,
    lengths,
)

__all__ = ["Message", "Program"]

Message = dict[str, Any]


@dataclass
class Program:
    """Everything that happens around one request."""

    seed: int
    steps: list[Any] = field(default_factory=list)
    method: str = "POST"
    is_tolerant: bool = False
    """The app catches what `send` raises, and continues."""
    is_malformed: bool = False
    """Some message lacks a key, or has a value of the wrong type."""
    gone_after: int | None = None
    on_gone: str = "silent"
    cancel_after: float | None = None
    taken_over_at: int | None = None
    """Another owner takes the key over before this step."""
    fails: frozenset[str] = frozenset()
    on_error: str = "release"

    @classmethod
    def drawn(cls, seed: int) -> "Program":
        """Draw a program; the same seed gives the same program."""
        chance = random.Random(seed)
        self = cls(seed)
        count = chance.randint(0, 7)
        self.steps = _answer(chance) if chance.random() < 0.6 else []
        for _ in range(count):
            self.steps.insert(chance.randint(0, len(self.steps)), _step(chance, self))
        self.method = chance.choice(["POST"] * 5 + ["HEAD"])
        self.is_tolerant = chance.random() < 0.3
        if chance.random() < 0.2:
            self.gone_after = chance.randint(0, 4)
            self.on_gone = chance.choice(["silent", "raise"])
        if chance.random() < 0.15:
            self.cancel_after = chance.choice([0.0, 0.01, 0.04, 0.06, 0.5])
        if chance.random() < 0.1:
            self.taken_over_at = chance.randint(0, len(self.steps))
        if chance.random() < 0.2:
            self.fails = frozenset(chance.sample(["complete", "release", "extend"], chance.randint(1, 2)))
        self.on_error = chance.choice(["release", "store"])
        return self


def _start(chance: random.Random, body: int = 4) -> Message:
    headers = [(b"content-length", value) for value in lengths(chance, body)]
    if chance.random() < 0.3:
        headers.append(chance.choice([(b"X-A", b"\xe9"), (b"set-cookie", b"a=b"), (b"idempotent-replayed", b"t")]))
    if chance.random() < 0.05:
        headers.append((b"bad\r\n", b"x"))
    status = chance.choice([200, 200, 200, 201, 204, 304, 404, 500, 302])
    message: Message = {"type": "http.response.start", "status": status, "headers": headers}
    if chance.random() < 0.1:
        del message["headers"]
    if chance.random() < 0.1:
        message["trailers"] = True
    return message


def _body(chance: random.Random, *, more: bool) -> Message:
    chunk = chance.choice([b"", b"ab", b"abcd", b"x" * 15, bytearray(b"ab"), memoryview(b"cd")])
    message: Message = {"type": "http.response.body", "body": chunk, "more_body": more}
    if not chunk and chance.random() < 0.5:
        del message["body"]
    if not more and chance.random() < 0.5:
        del message["more_body"]
    return message


def _answer(chance: random.Random) -> list[Any]:
    """Return a complete answer; its Content-Length may be right, wrong or missing."""
    bodies = [_body(chance, more=True) for _ in range(chance.randint(0, 3))]
    bodies.append(_body(chance, more=False))
    size = sum(len(message.get("body", b"")) for message in bodies)
    return [("send", message) for message in (_start(chance, size), *bodies)]


_OTHER = (
    {"type": "http.response.trailers", "headers": [], "more_trailers": False},
    {"type": "http.response.push", "path": "/", "headers": []},
    {"type": "http.response.early_hint", "links": []},
    {"type": "http.response.pathsend", "path": "/etc/hostname"},
    {"type": "http.response.debug", "info": {}},
    {"type": "websocket.send", "bytes": b"x"},
    {"type": ""},
)
_MALFORMED: tuple[Any, ...] = (
    {},
    {"type": None},
    {"type": "http.response.start"},
    {"type": "http.response.start", "status": "200", "headers": []},
    {"type": "http.response.start", "status": None, "headers": []},
    {"type": "http.response.start", "status": 200, "headers": [("a", "b")]},
    {"type": "http.response.start", "status": 200, "headers": [(b"a",)]},
    {"type": "http.response.start", "status": 200, "headers": None},
    {"type": "http.response.start", "status": 0, "headers": []},
    {"type": "http.response.start", "status": 10**6, "headers": []},
    {"type": "http.response.body", "body": 5},
    {"type": "http.response.body", "body": None},
    {"type": "http.response.body", "body": "text"},
    {"type": "http.response.body", "body": [1, 2]},
)


def _step(chance: random.Random, program: Program) -> Any:
    steps: list[Callable[[], Any]] = [
        lambda: ("send", _start(chance)),
        lambda: ("send", _body(chance, more=chance.random() < 0.6)),
        lambda: ("send", _body(chance, more=chance.random() < 0.6)),
        lambda: ("send", chance.choice(_OTHER)),
        lambda: ("send", _malformed(chance, program)),
        lambda: ("sleep", chance.choice([0, 0, 0.01, 0.04, 0.06, 1.0, LEASE_SECONDS + 1])),
        lambda: ("receive",),
        lambda: ("raise", chance.choice([AppError, AppError, AppStop, asyncio.CancelledError])),
        lambda: ("discard",),
        lambda: ("task", [_step(chance, program) for _ in range(chance.randint(1, 3))]),
        lambda: ("join",),
        lambda: ("return",),
    ]
    return chance.choice(steps)()


def _malformed(chance: random.Random, program: Program) -> Any:
    program.is_malformed = True
    return chance.choice(_MALFORMED)
