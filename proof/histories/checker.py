"""Decides by search whether a history of one key is linearizable (the algorithm of Wing and Gong, 1993).

A history is linearizable if its operations can be ordered so that each takes effect at one moment between its
begin and its end, and each answer is the one that the verbs give in that order. The verbs are the library's own,
in `persistence/verbs.py`. An open-ended operation has no end and no answer; it may be left out.

The moment of an operation is known only as an interval, and so is the end of a lease. Within these intervals a
lease is treated as lapsed or as valid, whichever explains the answers. So a good history is never refused because
of timing, but a bad one may be accepted if a few milliseconds would decide.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from idempotency_mw.core.record import Acquired, Existing, Lost, Record, Settled, Status
from idempotency_mw.persistence import verbs
from idempotency_mw.persistence.frame import Frame
from idempotency_mw.persistence.verbs import StoredFrame
from proof.histories.operations import Operation, Seen

__all__ = ["TooLong", "is_bad", "is_linearizable", "outcome_of", "seen", "shortest_bad", "with_few_open"]

SLACK_MS = 5.0
"""The store counts whole milliseconds, and its clock may run a little faster or slower than ours."""
MOST_PLACES = 200_000
"""A search with more steps is given up, which counts as bad: it would take many seconds."""
NOW_MS = 1_000_000
LIVE_MS = 1000
"""What the model's lease has left, if it is treated as valid. The model's clock stands still."""


class TooLong(Exception):  # noqa: N818 - it says nothing about the history
    """The search was given up after MOST_PLACES steps."""


class Model(NamedTuple):
    """The record, and the earliest and the latest time at which its lease lapses."""

    frame: Frame | None = None
    lapses_from: float = 0.0
    lapses_by: float = 0.0


class Place(NamedTuple):
    """A point of the search: which operations have taken effect, and the record after them."""

    done: int
    """One bit for each operation."""
    since: float
    """No later operation takes effect before this time."""
    model: Model


def is_linearizable(operations: Sequence[Operation]) -> bool:
    """Tell whether such an order exists for these operations, which must be all operations on one key."""
    operations = sorted(operations, key=lambda each: each.begun)
    bound = sum(1 << number for number, each in enumerate(operations) if each.ended is not None)
    reached: dict[tuple[int, Frame | None], list[Place]] = {}
    ahead = [Place(0, 0.0, Model())]
    for _ in range(MOST_PLACES):
        if not ahead:
            return False
        place = ahead.pop()
        if place.done & bound == bound:
            return True
        seen_before = reached.setdefault((place.done & bound, place.model.frame), [])
        if not any(_is_as_good(other, place) for other in seen_before):
            seen_before.append(place)
            ahead.extend(_following(operations, place))
    raise TooLong


def is_bad(operations: Sequence[Operation]) -> bool:
    """Tell whether no order was found: there is none, or the search would take too long."""
    try:
        return not is_linearizable(operations)
    except TooLong:
        return True


def _is_as_good(one: Place, other: Place) -> bool:
    """Tell whether everything that can follow `other` can also follow `one`. Both have the same record."""
    return (
        one.done & ~other.done == 0  # an open-ended operation that was not needed is still available
        and one.since <= other.since
        and one.model.lapses_from <= other.model.lapses_from
        and one.model.lapses_by >= other.model.lapses_by
    )


def shortest_bad(operations: Sequence[Operation]) -> list[Operation]:
    """Return the shortest beginning of a bad history that is bad. Operations that had not ended are open-ended."""
    ends = sorted(each.ended for each in operations if each.ended is not None)
    first = bisect_left(ends, True, key=lambda end: is_bad(_until(operations, end)))  # noqa: FBT003
    return _until(operations, ends[first])


def with_few_open(operations: Sequence[Operation], most: int) -> list[Operation]:
    """Return the longest beginning of a history with at most `most` open-ended operations."""
    ends = sorted((each.ended for each in operations if each.ended is not None), reverse=True)
    parts = (_until(operations, end) for end in ends)
    return next((part for part in parts if sum(each.ended is None for each in part) <= most), [])


def _until(operations: Sequence[Operation], end: float) -> list[Operation]:
    """Return what was known at that time."""
    begun = [each for each in operations if each.begun <= end]
    return sorted(
        (
            each if each.ended is not None and each.ended <= end else replace(each, ended=None, outcome=None)
            for each in begun
        ),
        key=lambda each: each.begun,
    )


def _following(operations: Sequence[Operation], place: Place) -> Iterator[Place]:
    """Yield each place that one more operation leads to. The likeliest is last, because it is taken first."""
    waiting = _waiting(operations, place.done)
    latest = min(each.ended for _, each in waiting if each.ended is not None)
    for number, operation in waiting:
        # An operation that changes nothing and may happen now does happen now: it hinders no other.
        if operation.ended is not None and operation.begun <= place.since and _is_idle(place, operation, latest):
            yield place._replace(done=place.done | 1 << number)
            return
    for number, operation in sorted(waiting, key=_turn, reverse=True):
        if operation.begun > latest:
            continue
        since = max(place.since, operation.begun)
        for outcome, model in _effects(place.model, operation, since, latest):
            is_idle = operation.ended is None and model == place.model
            if not is_idle and (operation.ended is None or _fits(outcome, operation.outcome)):
                yield Place(place.done | 1 << number, since, model)


def _is_idle(place: Place, operation: Operation, latest: float) -> bool:
    """Tell whether the operation can have its answer here without changing the record."""
    return any(
        model == place.model and _fits(outcome, operation.outcome)
        for outcome, model in _effects(place.model, operation, place.since, latest)
    )


def _turn(numbered: tuple[int, Operation]) -> float:
    """Sort key: the operation that ended first is tried first; an open-ended one only if nothing else fits."""
    ended = numbered[1].ended
    return float("inf") if ended is None else ended


def _waiting(operations: Sequence[Operation], done: int) -> list[tuple[int, Operation]]:
    """Return the operations that may be next: those that began before every pending operation's end."""
    waiting, latest = [], float("inf")
    first = ((done + 1) & ~done).bit_length() - 1
    for number in range(first, len(operations)):
        operation = operations[number]
        if operation.begun > latest:
            break
        if not done >> number & 1:
            waiting.append((number, operation))
            latest = min(latest, operation.ended if operation.ended is not None else latest)
    return waiting


def _effects(model: Model, operation: Operation, since: float, until: float) -> Iterator[tuple[Any, Model]]:
    """Yield the answer and the effect of an operation at some moment between two times."""
    frame = model.frame
    if frame is None or frame.status is not Status.IN_PROGRESS:
        yield _effect(model, frame, operation, since, until)
        return
    if since - SLACK_MS <= model.lapses_by:
        yield _effect(model, replace(frame, lease_until_ms=NOW_MS + LIVE_MS), operation, since, until)
    if until + SLACK_MS >= model.lapses_from:
        yield _effect(model, replace(frame, lease_until_ms=NOW_MS), operation, since, until)


def _effect(
    model: Model, frame: Frame | None, operation: Operation, since: float, until: float
) -> tuple[Any, Model]:
    answer, done = _do(operation, frame)
    told = outcome_of(answer, frame.token if frame else None)
    if done is True:
        return told, Model()
    if not isinstance(done, StoredFrame):
        return told, model
    lease_ms = operation.claim.lease_ms
    if done.frame.status is not Status.IN_PROGRESS:
        return told, Model(replace(done.frame, lease_until_ms=0))
    return told, Model(replace(done.frame, lease_until_ms=0), since + lease_ms, until + lease_ms)


def _do(operation: Operation, frame: Frame | None) -> tuple[Any, StoredFrame | bool | None]:
    claim, held = operation.claim, frame and StoredFrame(frame, NOW_MS + LIVE_MS)
    match operation.verb:
        case "acquire":
            return verbs.acquire(held, claim, NOW_MS)
        case "complete":
            return verbs.complete(held, claim, operation.result, NOW_MS)
        case "extend":
            write = verbs.extend(held, claim, NOW_MS)
            return write is not None, write
        case _:
            released = verbs.release(held, claim)
            return released, released


def outcome_of(answer: Any, token: str | None = None) -> Any:
    """Return a verb's answer as it stands in an `Operation`; `token` is that of the record, if known."""
    match answer:
        case Acquired(attempt):
            return ("acquired", attempt)
        case Settled():
            return ("settled",)
        case Existing(record):
            return ("existing", seen(record, token))
        case Lost(record):
            return ("lost", record and seen(record, token))
        case _:
            return answer


def seen(record: Record, token: str | None = None) -> Seen:
    """Return the parts of a record that are compared."""
    has_lapsed = record.status is Status.IN_PROGRESS and record.remaining_ms == 0
    return Seen(record.status.value, record.attempt, record.fingerprint, has_lapsed, record.result, token)


def _fits(modelled: Any, told: Any) -> bool:
    """Tell whether an answer equals the modelled one. A token that was not told is not compared."""
    if isinstance(told, tuple) and isinstance(told[-1], Seen) and told[-1].token is None:
        if not isinstance(modelled[-1], Seen):
            return False
        modelled = (*modelled[:-1], modelled[-1]._replace(token=None))
    return bool(modelled == told)
