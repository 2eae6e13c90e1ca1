"""Draws programs for the WSGI middleware from a seed."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from proof.fuzz.programs import (
    AppError,
    AppStop,
    lengths,
)

__all__ = ["Headers", "Program", "Step"]

Headers = list[tuple[str, str]]
Step = tuple[Any, ...]

ENDS = ("list", "tuple", "generator", "generator", "generator", "iterator", "iterator", "none", "text")
SERVERS = ("plain", "plain", "plain", "stop", "stop", "unread", "twice", "never", "again")


@dataclass
class Program:
    """Everything that happens around one request."""

    seed: int
    called: list[Step] = field(default_factory=list)
    """The app's steps before it returns."""
    iterated: list[Step] = field(default_factory=list)
    """The steps of its iterable. Of a list or tuple only the chunks count."""
    returns: str = "list"
    on_close: type[BaseException] | None = None
    is_tolerant: bool = False
    """The app catches what `start_response` and `write` raise, and continues."""
    is_malformed: bool = False
    server: str = "plain"
    stops_after: int = 0
    breaks_after: int | None = None
    """The client has gone after that many chunks."""
    method: str = "POST"
    fails: frozenset[str] = frozenset()
    is_taken_over: bool = False
    on_error: str = "release"

    @classmethod
    def drawn(cls, seed: int) -> "Program":
        """Draw a program; the same seed gives the same program."""
        chance = random.Random(seed)
        self = cls(seed)
        chunks = [chance.choice(_CHUNKS) for _ in range(chance.randint(0, 4))]
        if chance.random() < 0.9:
            self.called.append(_start(chance, sum(map(len, chunks))))
        self.iterated = [("chunk", chunk) for chunk in chunks]
        for steps in (self.called, self.iterated):
            for _ in range(chance.choice([0, 0, 1, 2])):
                steps.insert(chance.randint(0, len(steps)), _step(chance, self))
        self.returns = chance.choice(ENDS)
        self.is_malformed |= self.returns in ("none", "text")
        self.on_close = chance.choice([None, None, None, AppError, AppStop])
        self.is_tolerant = chance.random() < 0.3
        self.server = chance.choice(SERVERS)
        self.stops_after = chance.randint(0, 3)
        self.breaks_after = chance.choice([None, None, None, 0, 1, 2])
        self.method = chance.choice(["POST"] * 5 + ["HEAD"])
        if chance.random() < 0.2:
            self.fails = frozenset(chance.sample(["complete", "release"], chance.randint(1, 2)))
        self.is_taken_over = chance.random() < 0.1
        self.on_error = chance.choice(["release", "store"])
        return self


_CHUNKS = (b"", b"ab", b"abcd", b"x" * 15)
_EXC_INFO = ("none", "none", "none", "error", "error", "empty", "hollow")
_MALFORMED: tuple[Step, ...] = (
    ("start", "abc", [], "none"),
    ("start", "", [], "none"),
    ("start", None, [], "none"),
    ("start", "200 OK", None, "none"),
    ("start", "200 OK", [("x", 5)], "none"),
    ("start", "200 OK", [("x", "\u20ac")], "none"),
    ("start", "200 OK", [("x",)], "none"),
    ("chunk", "text"),
    ("chunk", None),
    ("chunk", 5),
    ("write", "text"),
    ("raise", StopIteration),
)


def _start(chance: random.Random, size: int) -> Step:
    headers = [("Content-Length", value.decode()) for value in lengths(chance, size)]
    if chance.random() < 0.3:
        headers.append(chance.choice([("X-A", "\xe9"), ("Set-Cookie", "a=b"), ("Idempotent-Replayed", "t")]))
    if chance.random() < 0.05:
        headers.append(("Bad\r\n", "x"))
    status = chance.choice(
        ["200 OK", "200 OK", "201 Created", "204 No Content", "404 Not Found", "500 Oh", "302 X"]
    )
    return "start", status, headers, chance.choice(_EXC_INFO)


def _step(chance: random.Random, program: Program) -> Step:
    steps: list[Callable[[], Step]] = [
        lambda: _start(chance, 4),
        lambda: ("write", chance.choice(_CHUNKS)),
        lambda: ("write", chance.choice(_CHUNKS)),
        lambda: ("chunk", chance.choice(_CHUNKS)),
        lambda: ("raise", chance.choice([AppError, AppError, AppStop, GeneratorExit])),
        lambda: ("discard",),
        lambda: ("return",),
        lambda: _malformed(chance, program),
    ]
    return chance.choice(steps)()


def _malformed(chance: random.Random, program: Program) -> Step:
    program.is_malformed = True
    return chance.choice(_MALFORMED)
