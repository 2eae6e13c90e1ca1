"""The explorer's store: the system's verbs, on a record whose times are abstract.

The store's clock stands still; a lease has lapsed or it has not. A worker asks with its own token, and any other
record bears a different one. Therefore only few distinct questions exist: each is put to the verbs once, and its
answer is cached.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

from idempotency_mw.core.record import Claim, Operation, Status
from idempotency_mw.persistence.frame import Frame
from idempotency_mw.persistence.verbs import StoredFrame
from proof.explorer.rules import wrong_answer, wrong_change, wrong_expiry
from proof.explorer.states import NOBODY, Phase, Setting, Standing, State, Worker
from proof.explorer.system import System

__all__ = ["Ask", "Asked", "asker", "claim_of", "put_to"]

NOW_MS, LEASE_MS, RETENTION_MS = 1_000_000, 30_000, 86_400_000
MINE, ANOTHERS = "a" * 32, "b" * 32
PAYLOADS = ("c" * 64, "d" * 64)
HIGHEST_ATTEMPT = 2
"""Attempts from here on are treated as equal, so that the number of states is finite."""
LETTER_OF = {Status.IN_PROGRESS: "P", Status.COMPLETED: "C", Status.NOT_KEPT: "N"}
STATUS_OF = {letter: status for status, letter in LETTER_OF.items()}

STRANGER = Worker(Phase.GONE, 0, "whole")


class Asked(NamedTuple):
    """The result of one verb."""

    answer: Any
    after: Standing | None
    has_changed: bool
    wrong: str


Ask = Callable[[str, int, int, str, Standing | None], Asked]
"""Arguments: the verb, the worker, its payload, what a completion keeps, and the record."""


@cache
def claim_of(payload: int, *, may_take_over: bool) -> Claim:
    """Return the claim of a worker with this payload."""
    return Claim(Operation("e" * 64, PAYLOADS[payload]), MINE, LEASE_MS, RETENTION_MS, may_take_over)


def put_to(ask: Ask, state: State, number: int, verb: str) -> tuple[Asked, State]:
    """Deliver a worker's message to the store; return the result and the state after it."""
    worker = STRANGER if number == NOBODY else state.workers[number]
    kept = worker.kept if verb == "complete" else ""
    asked = ask(verb, number, worker.payload, kept, state.record)
    if not asked.has_changed:
        return asked, state
    return asked, State(asked.after, state.workers, state.losses, state.crashes, state.strays)


def asker(system: System, setting: Setting) -> Ask:
    """Return a function that puts a question to the system's verbs, judges the effect, and caches the result."""

    @cache
    def ask(verb: str, number: int, payload: int, kept: str, record: Standing | None) -> Asked:
        held = None if record is None else _held(record, record.owner == number != NOBODY)
        frame = held and held.frame
        claim = claim_of(payload, may_take_over=setting.after_crash == "retry")
        answer, done = _do(system, verb, held, claim, _result(kept))
        after = done.frame if isinstance(done, StoredFrame) else None if done else frame
        wrong = wrong_change(verb, claim, frame, after, NOW_MS) or wrong_answer(answer, MINE, after)
        if isinstance(done, StoredFrame):
            wrong = wrong or wrong_expiry(done, NOW_MS + RETENTION_MS)
        owner = NOBODY if record is None else record.owner
        standing = None if after is None else _standing(after, number, owner)
        return Asked(answer, standing, after != frame, wrong)

    return ask


def _do(
    system: System, verb: str, held: StoredFrame | None, claim: Claim, result: bytes | None
) -> tuple[Any, StoredFrame | bool]:
    """Return the verb's answer and its effect: a write, True for a deletion, False for no change."""
    if verb == "acquire":
        found, write = system.acquire(held, claim, NOW_MS)
        return found, write or False
    if verb == "complete":
        outcome, write = system.complete(held, claim, result, NOW_MS)
        return outcome, write or False
    if verb == "extend":
        write = system.extend(held, claim, NOW_MS)
        return write is not None, write or False
    released = system.release(held, claim)
    return released, released


def _held(record: Standing, is_mine: bool) -> StoredFrame:  # noqa: FBT001 - private
    frame = Frame(
        status=STATUS_OF[record.status],
        token=MINE if is_mine else ANOTHERS,
        attempt=record.attempt,
        lease_until_ms=NOW_MS if record.has_lapsed else NOW_MS + LEASE_MS,
        fingerprint=PAYLOADS[record.payload],
        result=record.kept.encode(),
    )
    return StoredFrame(frame, expires_ms=NOW_MS + RETENTION_MS)


def _standing(frame: Frame, asker: int, owner: int) -> Standing:
    return Standing(
        status=LETTER_OF[frame.status],
        owner=asker if frame.token == MINE else owner,
        attempt=min(frame.attempt, HIGHEST_ATTEMPT),
        payload=PAYLOADS.index(frame.fingerprint),
        has_lapsed=frame.status is Status.IN_PROGRESS and frame.lease_until_ms <= NOW_MS,
        kept=frame.result.decode(),
    )


def _result(kept: str) -> bytes | None:
    return None if kept == "nothing" else kept.encode()
