"""Makes good histories bad, so that the checker must refuse them.

Each function looks in a good history of one key for an operation whose answer can be changed so that no order
explains the history any more, and yields the altered histories. Each docstring says what is wrong in words; that
does not depend on the checker.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from proof.histories.checker import SLACK_MS
from proof.histories.operations import Operation, Seen

__all__ = ["ALTERATIONS"]

Altered = list[Operation]


def _second_acquired(history: Sequence[Operation]) -> Iterator[Altered]:
    """While one claim is certainly valid, another one is told that it acquired: attempt 1, or a takeover."""
    for owner in _told("acquired", history):
        lasts = owner.begun + owner.claim.lease_ms - 2 * SLACK_MS
        ends = [each.begun for each in _of_token(owner, history) if each.verb in ("complete", "release")]
        until = min([lasts, *ends])
        for other in _told("existing", history):
            if other.begun > _end(owner) and _end(other) < until and other.claim != owner.claim:
                yield _with(history, other, ("acquired", 1))
                yield _with(history, other, ("acquired", owner.outcome[1] + 1))


def _other_answer(history: Sequence[Operation]) -> Iterator[Altered]:
    """A duplicate gets an answer that nobody completed."""
    for other in _answered(history):
        what, seen = other.outcome
        yield _with(history, other, (what, seen._replace(result=b"another answer")))


def _lost_completion(history: Sequence[Operation]) -> Iterator[Altered]:
    """The key is acquired after a completion was acknowledged."""
    for settled in _told("settled", history):
        for other in _told("existing", history):
            if other.begun > _end(settled):
                yield _with(history, other, ("acquired", 1))


def _attempt_that_jumps(history: Sequence[Operation]) -> Iterator[Altered]:
    """An attempt is higher than all earlier acquire messages can explain, each of which raises it by at most one.

    Messages are counted, not claims: a claim that is sent again may take the key over from a claim that had taken
    it over from it.
    """
    for owner in _told("acquired", history):
        raising = [
            each
            for each in history
            if each.verb == "acquire"
            and each.begun <= _end(owner)
            and (_is_told("acquired", each) or _is_open(each))
        ]
        yield _with(history, owner, ("acquired", len(raising) + 1))


def _answer_before_its_time(history: Sequence[Operation]) -> Iterator[Altered]:
    """An answer is replayed before anybody began to complete with it."""
    for other in _answered(history):
        result = other.outcome[1].result
        first = min(each.begun for each in history if each.verb == "complete" and each.result == result)
        yield [*_without(history, other), replace(other, begun=first - 2, ended=first - 1)]


def _freed_twice(history: Sequence[Operation]) -> Iterator[Altered]:
    """A released claim, which was not acquired again, is released once more."""
    for release in history:
        if release.verb != "release" or release.outcome is not False:
            continue
        own = _of_token(release, history)
        ended = [each for each in own if each.verb == "release" and each.outcome and _end(each) < release.begun]
        if ended and not any(_is_open(each) for each in own):
            yield _with(history, release, outcome=True)


def _completed_by_nobody(history: Sequence[Operation]) -> Iterator[Altered]:
    """An answer is replayed although its only completion was refused because the record was gone."""
    results = {each.outcome[1].result for each in _answered(history)}
    for settled in _told("settled", history):
        completions = [each for each in _of_token(settled, history) if each.verb == "complete"]
        if len(completions) == 1 and settled.result is not None and settled.result in results:
            yield _with(history, settled, ("lost", None))


ALTERATIONS: dict[str, Callable[[Sequence[Operation]], Iterator[Altered]]] = {
    "a second acquired": _second_acquired,
    "another answer": _other_answer,
    "a lost completion": _lost_completion,
    "an attempt that jumps": _attempt_that_jumps,
    "an answer before its time": _answer_before_its_time,
    "freed twice": _freed_twice,
    "completed by nobody": _completed_by_nobody,
}


def _is_told(what: str, operation: Operation) -> bool:
    return isinstance(operation.outcome, tuple) and operation.outcome[0] == what


def _told(what: str, history: Sequence[Operation]) -> list[Operation]:
    return [each for each in history if _is_told(what, each)]


def _answered(history: Sequence[Operation]) -> list[Operation]:
    """Return the operations that were answered with a completed record and its result."""
    told = [each for each in history if isinstance(each.outcome, tuple) and isinstance(each.outcome[-1], Seen)]
    return [each for each in told if each.outcome[-1].result is not None]


def _of_token(operation: Operation, history: Sequence[Operation]) -> list[Operation]:
    return [each for each in history if each.claim.token == operation.claim.token]


def _is_open(operation: Operation) -> bool:
    return operation.ended is None


def _end(operation: Operation) -> float:
    assert operation.ended is not None
    return operation.ended


def _with(history: Sequence[Operation], operation: Operation, outcome: Any) -> Altered:
    return [*_without(history, operation), replace(operation, outcome=outcome)]


def _without(history: Sequence[Operation], operation: Operation) -> Altered:
    return [each for each in history if each is not operation]
