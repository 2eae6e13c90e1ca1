"""The common parts of the fuzz programs for the two surfaces: a store, exceptions, and the rules.

The declared outcomes: exceptions of the app and of the server pass through; a wrong order of events raises
`RuntimeError` (ASGI) or `AssertionError` (WSGI, as in PEP 3333's example server); a malformed message raises
Python's own `TypeError`, `KeyError` or `ValueError`. Nothing else is ever raised.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

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
    "Asked",
    "GoneError",
    "ServerError",
    "Surprise",
    "Watched",
    "Whole",
    "check_duplicate",
    "check_record",
    "declared",
    "lengths",
]

LEASE_SECONDS = 3.0
SLACK_SECONDS = 0.25
"""I4: a dead owner's key is free again within 250 ms of its lease. The time here is virtual."""
MAX_BODY = 20
"""`max_response_body`: small, so that many programs exceed it."""
BODILESS = (204, 205, 304)

FAILED = b"urn:idempotency-mw:problem:execution-failed"
TAKEN_OVER = "f" * 32
"""The token of the other owner, when a program lets one take the key over."""


class Surprise(Exception):  # noqa: N818 - it is the fuzzer's finding, not an error
    """An outcome that is not declared."""


class AppError(Exception):
    """Raised by an app."""


class AppStop(BaseException):
    """Interrupts an app; not an `Exception`."""


class ServerError(Exception):
    """Raised by a server when an app breaks the protocol."""


class GoneError(OSError):
    """Raised by a server when the client has gone (ASGI 2.4)."""


class Watched(MemoryPersistenceLayer):
    """A memory layer whose record can be looked at, and whose verbs can fail."""

    def __init__(self, clock: Callable[[], float], fails: frozenset[str] = frozenset()) -> None:
        super().__init__(clock=clock)
        self.fails = fails
        self.claims: list[Claim] = []

    def acquire(self, claim: Claim) -> Acquired | Existing:
        """As the layer's own, or raise."""
        self._check("acquire")
        self.claims.append(claim)
        return super().acquire(claim)

    def extend(self, claim: Claim) -> bool:
        """As the layer's own, or raise."""
        self._check("extend")
        return super().extend(claim)

    def complete(self, claim: Claim, result: bytes | None) -> Settled | Lost:
        """As the layer's own, or raise."""
        self._check("complete")
        return super().complete(claim, result)

    def release(self, claim: Claim) -> bool:
        """As the layer's own, or raise."""
        self._check("release")
        return super().release(claim)

    def frame(self) -> Frame | None:
        """Return the record of the one key, expired or not."""
        held = list(self._records.values())
        return held[0].frame if held else None

    def check_settled(self) -> None:
        """Raise `Surprise` if the record is still in progress: now the client has seen a whole answer."""
        frame = self.frame()
        if frame is None or frame.status is not Status.IN_PROGRESS or self.fails:
            return
        if frame.token in {claim.token for claim in self.claims}:
            raise Surprise("a whole answer was sent before its record was settled")

    def lapse(self) -> None:
        """Let another owner take the key over: the record bears another token from now on."""
        for claim in self.claims[:1]:
            taken = Claim(claim.operation, TAKEN_OVER, claim.lease_ms, claim.retention_ms)
            self._records.pop(claim.storage_key, None)
            super().acquire(taken)

    def _check(self, verb: str) -> None:
        if verb in self.fails:
            raise IdempotencyPersistenceConnectionError("the store fails, on purpose")


@dataclass
class Whole:
    """What an app has sent, by the protocol's rules. Independent of the library's `Capture`, which it checks."""

    is_head: bool
    status: int | None = 0
    length: int | None = None
    body: bytes = b""
    is_ended: bool = False
    at_length: bytes | None = None
    """The body at the moment when the declared length was reached."""
    is_unsure: bool = False
    """The server may not have accepted all of it."""

    @property
    def is_started(self) -> bool:
        """Whether the answer has begun. Status 0 means that it has not."""
        return self.status != 0

    def start(self, status: int, length: int | None) -> None:
        """Begin the answer. In WSGI a second start may replace the first."""
        self.status, self.length, self.at_length = status, length, None
        self._note()

    def add(self, chunk: bytes) -> None:
        """Add a chunk of the body."""
        if not self.is_ended:
            self.body += chunk
            self._note()

    def _note(self) -> None:
        if self.length is not None and len(self.body) == self.length and self.at_length is None:
            self.at_length = self.body

    def bodies(self) -> set[bytes]:
        """Return the bodies that the whole answer may have; empty if the answer is not whole."""
        if not self.is_started:
            return set()
        if self.is_head or self.status in BODILESS:
            return {b""} if self.is_ended else set()
        if self.length is not None:
            return set() if self.at_length is None else {self.at_length}
        return {self.body} if self.is_ended else set()


def declared(values: list[bytes]) -> int | None:
    """Return the declared length, or None if the headers declare none or an invalid one."""
    return int(values[0]) if len(values) == 1 and values[0].isascii() and values[0].isdigit() else None


def lengths(chance: random.Random, chunks: int) -> list[bytes]:
    """Draw the values of Content-Length headers: none, the right one, a wrong one, two, or no number."""
    return chance.choice([[], [], [], [b"%d" % chunks], [b"4"], [b"0"], [b"99"], [b"4", b"4"], [b"x"], [b"-1"]])


def check_record(store: Watched, whole: Whole, *, stores_errors: bool) -> Response | None:
    """Raise `Surprise` unless the stored answer, if there is one, is a whole one; return it."""
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


class Asked(Protocol):
    """A server of one request, after the request."""

    status: int | None
    body: bytes
    is_ended: bool
    """The app ended its answer, legally."""
    is_gone: bool
    """The client went before the end."""


def check_duplicate(
    first: Asked, second: Asked, stored: Response | None, frame: Frame | None, *, runs: int, is_head: bool
) -> None:
    """Raise `Surprise` unless the duplicate got the stored answer, or ran because its key was free.

    `frame` is the record before the duplicate; `runs` is how often the app ran for the duplicate.
    """
    if not second.is_ended:
        raise Surprise("the duplicate got no answer")
    if stored is not None:
        body = b"" if is_head or stored.status in BODILESS else stored.body
        if runs or (second.status, second.body) != (stored.status, body):
            raise Surprise("the duplicate did not get the stored answer")
        _check_first(first, second, stored, frame)
    elif frame is not None and frame.status is Status.NOT_KEPT:
        if second.status != 409 or runs:
            raise Surprise("a tombstone did not refuse the duplicate")
    elif runs != 1:
        raise Surprise("the key was free, and the duplicate did not run once")


def _check_first(first: Asked, second: Asked, stored: Response, frame: Frame | None) -> None:
    """Raise `Surprise` if the first client saw a whole answer with another body than the replay's."""
    was_taken_over = frame is not None and frame.token == TAKEN_OVER
    is_apps_own = FAILED not in stored.body
    has_whole = first.is_ended and not first.is_gone and first.status == stored.status
    if has_whole and is_apps_own and not was_taken_over and first.body != second.body:
        raise Surprise(f"the first client got {first.body!r}, the second {second.body!r}")
