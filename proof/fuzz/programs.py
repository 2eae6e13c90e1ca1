"""What the two surfaces are fuzzed with in common: a store that is watched, what the app may be, what must hold.

The outcomes that are declared: the app's own exceptions and the server's go through; what the app itself did wrong
raises `RuntimeError`, `AssertionError` (PEP 3333 names it), or for a message that lacks something or holds another
type what Python says of that. Nothing else is ever raised.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

from idempotency_mw.core.record import Acquired, Claim, Existing, Lost, Settled, Status
from idempotency_mw.errors import IdempotencyPersistenceConnectionError
from idempotency_mw.http import codec
from idempotency_mw.http.message import Response
from idempotency_mw.persistence.frame import Frame
from idempotency_mw.persistence.memory import MemoryPersistenceLayer

__all__ = [
    "BODILESS",
    "FAILED",
    "LEASE_SECONDS",
    "MAX_BODY",
    "SLACK_SECONDS",
    "AppError",
    "AppStop",
    "GoneError",
    "ServerError",
    "Surprise",
    "Watched",
    "Whole",
    "check_record",
    "declared",
    "lengths",
]

LEASE_SECONDS = 3.0
SLACK_SECONDS = 0.25
MAX_BODY = 20
BODILESS = (204, 205, 304)

FAILED = b"urn:idempotency-mw:problem:execution-failed"


class Surprise(Exception):  # noqa: N818 - it is not an error of the program, but what the fuzzer looks for
    """Something happened that nobody declared."""


class AppError(Exception):
    """What an app raises."""


class AppStop(BaseException):
    """What interrupts an app, and is no `Exception`."""


class ServerError(Exception):
    """What a server raises at an app that breaks the protocol."""


class GoneError(OSError):
    """What a server raises, since ASGI 2.4, when the client has gone."""


class Watched(MemoryPersistenceLayer):
    """Records in memory that can be looked at, in a store some of whose verbs fail."""

    def __init__(self, clock: Callable[[], float], fails: frozenset[str] = frozenset()) -> None:
        super().__init__(clock=clock)
        self.fails = fails
        self.claims: list[Claim] = []

    def acquire(self, claim: Claim) -> Acquired | Existing:
        """As the store's own, or fails."""
        self._check("acquire")
        self.claims.append(claim)
        return super().acquire(claim)

    def extend(self, claim: Claim) -> bool:
        """As the store's own, or fails."""
        self._check("extend")
        return super().extend(claim)

    def complete(self, claim: Claim, result: bytes | None) -> Settled | Lost:
        """As the store's own, or fails."""
        self._check("complete")
        return super().complete(claim, result)

    def release(self, claim: Claim) -> bool:
        """As the store's own, or fails."""
        self._check("release")
        return super().release(claim)

    def frame(self) -> Frame | None:
        """Return what stands for the one key, expired or not."""
        held = list(self._records.values())
        return held[0].frame if held else None

    def lapse(self) -> None:
        """Have somebody else take over: the record bears another token from here on."""
        for claim in self.claims[:1]:
            taken = Claim(claim.operation, "f" * 32, claim.lease_ms, claim.retention_ms)
            self._records.pop(claim.storage_key, None)
            super().acquire(taken)

    def _check(self, verb: str) -> None:
        if verb in self.fails:
            raise IdempotencyPersistenceConnectionError("the store fails, on purpose")


@dataclass
class Whole:
    """What an app has sent, as a reader of the protocol takes it: an oracle that shares no code with a capture."""

    is_head: bool
    status: int | None = 0
    length: int | None = None
    body: bytes = b""
    is_ended: bool = False
    at_length: bytes | None = None
    """The body at the moment at which the declared length was reached."""
    is_unsure: bool = False
    """Some of it may not have been taken."""

    @property
    def is_started(self) -> bool:
        """Whether there was a start; one with status 0 is none."""
        return self.status != 0

    def start(self, status: int, length: int | None) -> None:
        """Take the start; in WSGI a second one may replace the first."""
        self.status, self.length, self.at_length = status, length, None
        self._note()

    def add(self, chunk: bytes) -> None:
        """Take some of the body."""
        if not self.is_ended:
            self.body += chunk
            self._note()

    def _note(self) -> None:
        if self.length is not None and len(self.body) == self.length and self.at_length is None:
            self.at_length = self.body

    def bodies(self) -> set[bytes]:
        """Return the bodies that a whole answer may have: none where it is not whole."""
        if not self.is_started:
            return set()
        if self.is_head or self.status in BODILESS:
            return {b""} if self.is_ended else set()
        if self.length is not None:
            return set() if self.at_length is None else {self.at_length}
        return {self.body} if self.is_ended else set()


def declared(values: list[bytes]) -> int | None:
    """Return the length that an answer declares, if one can be told."""
    return int(values[0]) if len(values) == 1 and values[0].isascii() and values[0].isdigit() else None


def lengths(chance: random.Random, chunks: int) -> list[bytes]:
    """Return values of Content-Length: none, right perhaps, wrong, or no numbers at all."""
    return chance.choice([[], [], [], [b"%d" % chunks], [b"4"], [b"0"], [b"99"], [b"4", b"4"], [b"x"], [b"-1"]])


def check_record(store: Watched, whole: Whole, *, stores_errors: bool) -> Response | None:
    """Raise `Surprise` unless what is stored is a whole answer; return it, if there is one."""
    frame = store.frame()
    if frame is None or frame.status is not Status.COMPLETED:
        return None
    response = Response(*codec.decode(frame.result))
    if stores_errors and response.status == 500 and FAILED in response.body:
        return response
    if whole.is_unsure:
        return response
    if response.status != whole.status or response.body not in whole.bodies():
        raise Surprise(f"stored {response.status} {response.body!r}, which is not whole: {whole}")
    if len(response.body) > MAX_BODY:
        raise Surprise("stored more than max_response_body")
    return response
