"""The state machine as tables, to be compared with section D of the conformance table.

The cells are words; `DECISION` maps them to values. Each table is complete: its test tries every combination of
inputs, and a combination without a line fails.
"""

import re
from dataclasses import FrozenInstanceError, fields, is_dataclass
from itertools import product
from typing import Any, get_args

import pytest

from idempotency_mw.core import machine
from idempotency_mw.core.machine import (
    Abandon,
    Answered,
    Complete,
    Deliver,
    Discarded,
    Ending,
    Execute,
    Failed,
    Kept,
    Reason,
    Reject,
    Release,
    Replay,
    Stopped,
    Unprotected,
    may_wait,
    on_acquired,
    on_completed,
    on_ended,
    on_store_failure,
)
from idempotency_mw.core.record import Acquired, Claim, Existing, Lost, Operation, Record, Settled, Status

OURS, THEIRS = "f" * 64, "e" * 64
LEASE_MS = 30_000

STATUSES = {"in progress": Status.IN_PROGRESS, "completed": Status.COMPLETED, "not kept": Status.NOT_KEPT}
FINGERPRINTS = {"same": OURS, "other": THEIRS}
LEASES = {"live": LEASE_MS, "lapsed": 0}
AFTER_CRASH = {"retry": True, "refuse": False}


def claim(*, may_take_over: bool = True) -> Claim:
    operation = Operation(storage_key="a" * 64, fingerprint=OURS)
    return Claim(
        operation, token="0" * 32, lease_ms=LEASE_MS, retention_ms=86_400_000, may_take_over=may_take_over
    )


def record(status: str, fingerprint: str, left: str) -> Record:
    result = b"the answer" if status == "completed" else None
    return Record(STATUSES[status], 1, FINGERPRINTS[fingerprint], LEASES[left], result)


def table(text: str) -> dict[tuple[str, ...], str]:
    """Read lines of `input | input | … | expected`; a `*` matches any input."""
    rows = [tuple(cell.strip() for cell in line.split("|")) for line in text.strip().splitlines()]
    return {row[:-1]: row[-1] for row in rows}


def expected(rows: dict[tuple[str, ...], str], given: tuple[str, ...]) -> str:
    """Return the answer of the one line that matches; no line is a gap, and two a contradiction in the table."""
    found = [
        answer
        for row, answer in rows.items()
        if len(row) == len(given) and all(cell in ("*", value) for cell, value in zip(row, given, strict=True))
    ]
    assert len(found) == 1, f"{given} has {len(found)} lines"
    return found[0]


def complete(*columns: Any) -> list[tuple[Any, ...]]:
    return list(product(*columns))


DECISION = {
    "409 in-progress, retry 10 s": Reject(Reason.IN_PROGRESS, retry_after_ms=10_000),
    "409 in-progress, retry now": Reject(Reason.IN_PROGRESS, retry_after_ms=0),
    "409 outcome-unknown": Reject(Reason.OUTCOME_UNKNOWN),
    "409 not-kept": Reject(Reason.NOT_KEPT),
    "422 reused": Reject(Reason.REUSED),
    "503 unavailable, retry now": Reject(Reason.STORE_UNAVAILABLE, retry_after_ms=0),
    "503 unreadable": Reject(Reason.RECORD_UNREADABLE),
    "run unprotected": Unprotected(),
    "own answer": Deliver(),
    "complete: answer": Complete(Kept.ANSWER),
    "complete: failure": Complete(Kept.FAILURE),
    "complete: nothing": Complete(Kept.NOTHING),
    "release": Release(),
    "abandon": Abandon(),
}


# After an acquire that found a record.
#   record       fingerprint  left     after_crash   what the request gets
EXISTING = table("""
    completed   | same       | *      | *           | replay
    not kept    | same       | *      | *           | 409 not-kept
    in progress | same       | live   | *           | 409 in-progress, retry 10 s
    in progress | same       | lapsed | retry       | 409 in-progress, retry now
    in progress | same       | lapsed | refuse      | 409 outcome-unknown
    completed   | other      | *      | *           | 422 reused
    not kept    | other      | *      | *           | 422 reused
    in progress | other      | *      | *           | 422 reused
""")


@pytest.mark.row(35, 36, 37, 38, 49, 53)
@pytest.mark.fault(23)
@pytest.mark.parametrize(
    ("status", "fingerprint", "left", "after_crash"), complete(STATUSES, FINGERPRINTS, LEASES, AFTER_CRASH)
)
def test_the_decision_for_an_existing_record(status: str, fingerprint: str, left: str, after_crash: str) -> None:
    found = record(status, fingerprint, left)
    wanted = expected(EXISTING, (status, fingerprint, left, after_crash))
    decision = on_acquired(claim(may_take_over=AFTER_CRASH[after_crash]), Existing(found))
    assert decision == (Replay(found) if wanted == "replay" else DECISION[wanted])


@pytest.mark.row(34, 48)
@pytest.mark.parametrize(("attempt", "after_crash"), complete([1, 2, 999_999], AFTER_CRASH))
def test_an_acquired_claim_executes_with_its_attempt(attempt: int, after_crash: str) -> None:
    ours = claim(may_take_over=AFTER_CRASH[after_crash])
    assert on_acquired(ours, Acquired(attempt)) == Execute(ours, attempt)


@pytest.mark.row(37)
@pytest.mark.parametrize("remaining_ms", [-5, 0, 1, 2, 3, 999, 1000, 30_000, 10**12])
def test_the_retry_time_is_within_the_lease(remaining_ms: int) -> None:
    found = Existing(Record(Status.IN_PROGRESS, 1, OURS, remaining_ms))
    decision = on_acquired(claim(), found)
    assert isinstance(decision, Reject)
    assert decision.retry_after_ms is not None
    assert 0 <= decision.retry_after_ms <= max(remaining_ms, 0)


# After an acquire that failed.
#   record      on_store_failure   what the request gets
STORE_FAILED = table("""
    readable   | refuse           | 503 unavailable, retry now
    readable   | pass             | run unprotected
    unreadable | refuse           | 503 unreadable
    unreadable | pass             | 503 unreadable
""")


@pytest.mark.row(52, 102, 103)
@pytest.mark.parametrize(("what", "policy"), complete(["readable", "unreadable"], ["refuse", "pass"]))
def test_the_decision_after_a_failed_acquire(what: str, policy: Any) -> None:
    decision = on_store_failure(unreadable=what == "unreadable", policy=policy)
    assert decision == DECISION[expected(STORE_FAILED, (what, policy))]


@pytest.mark.row(103, 114)
def test_a_request_that_waited_does_not_run_unprotected_when_the_store_fails() -> None:
    decision = on_store_failure(unreadable=False, policy="pass", waited=True)
    assert decision == Reject(Reason.STORE_UNAVAILABLE, retry_after_ms=0)


# Waiting makes sense only for a state that changes by itself.
WAITS = {
    Reason.IN_PROGRESS: True,
    Reason.REUSED: False,
    Reason.OUTCOME_UNKNOWN: False,
    Reason.NOT_KEPT: False,
    Reason.STORE_UNAVAILABLE: False,
    Reason.RECORD_UNREADABLE: False,
}


@pytest.mark.row(114)
@pytest.mark.parametrize("reason", Reason)
def test_a_request_waits_only_for_a_key_in_progress(reason: Reason) -> None:
    assert may_wait(Reject(reason)) is WAITS[reason]


def test_a_request_does_not_wait_if_it_runs_or_is_replayed() -> None:
    settled = [Execute(claim(), 1), Replay(record("completed", "same", "live")), Unprotected()]
    assert [may_wait(decision) for decision in settled] == [False, False, False]


# After a run.
#   ending                             on_error   what becomes of the claim
ENDED = table("""
    answered, storable, captured      | release | complete: answer
    answered, storable, captured      | store   | complete: answer
    answered, storable, too large     | release | complete: nothing
    answered, storable, too large     | store   | complete: nothing
    answered, not storable, captured  | release | release
    answered, not storable, captured  | store   | complete: answer
    answered, not storable, too large | release | release
    answered, not storable, too large | store   | complete: nothing
    failed                            | release | release
    failed                            | store   | complete: failure
    stopped                           | *       | abandon
    discarded                         | *       | release
""")

ENDINGS: dict[str, Ending] = {
    **{
        f"answered, {storable}, {captured}": Answered(storable == "storable", captured == "captured")
        for storable, captured in product(["storable", "not storable"], ["captured", "too large"])
    },
    "failed": Failed(),
    "stopped": Stopped(),
    "discarded": Discarded(),
}


@pytest.mark.row(40, 41, 42, 44, 53, 54, 77)
@pytest.mark.fault(9, 10, 12, 17)
@pytest.mark.parametrize(("ending", "on_error"), complete(ENDINGS, ["release", "store"]))
def test_the_decision_after_a_run(ending: str, on_error: Any) -> None:
    assert on_ended(ENDINGS[ending], on_error) == DECISION[expected(ENDED, (ending, on_error))]


def test_the_table_of_endings_has_every_kind_of_ending() -> None:
    assert {type(ending) for ending in ENDINGS.values()} == set(get_args(Ending))


# After the owner's complete found its claim lost.
#   record       fingerprint  left     after_crash   sent     what the owner's client gets
LOST = table("""
    *           | *          | *      | *           | sent   | own answer
    *           | other      | *      | *           | unsent | own answer
    completed   | same       | *      | *           | unsent | replay
    not kept    | same       | *      | *           | unsent | 409 not-kept
    in progress | same       | live   | *           | unsent | 409 in-progress, retry 10 s
    in progress | same       | lapsed | retry       | unsent | 409 in-progress, retry now
    in progress | same       | lapsed | refuse      | unsent | 409 outcome-unknown
""")


@pytest.mark.row(50)
@pytest.mark.fault(8)
@pytest.mark.parametrize(
    ("status", "fingerprint", "left", "after_crash", "sent"),
    complete(STATUSES, FINGERPRINTS, LEASES, AFTER_CRASH, ["sent", "unsent"]),
)
def test_the_decision_for_a_late_owner(
    status: str, fingerprint: str, left: str, after_crash: str, sent: str
) -> None:
    found = record(status, fingerprint, left)
    wanted = expected(LOST, (status, fingerprint, left, after_crash, sent))
    ours = claim(may_take_over=AFTER_CRASH[after_crash])
    decision = on_completed(ours, Lost(found), sent=sent == "sent")
    assert decision == (Replay(found) if wanted == "replay" else DECISION[wanted])


@pytest.mark.row(106)
@pytest.mark.fault(20)
@pytest.mark.parametrize(
    ("outcome", "after_crash", "sent"), complete([Settled(), Lost(None)], AFTER_CRASH, [True, False])
)
def test_an_owner_that_settled_or_whose_record_is_gone_delivers_its_answer(
    outcome: Settled | Lost, after_crash: str, sent: bool
) -> None:
    assert on_completed(claim(may_take_over=AFTER_CRASH[after_crash]), outcome, sent=sent) == Deliver()


def test_every_line_of_a_table_matches_an_input() -> None:
    uses = {
        "EXISTING": (EXISTING, complete(STATUSES, FINGERPRINTS, LEASES, AFTER_CRASH)),
        "STORE_FAILED": (STORE_FAILED, complete(["readable", "unreadable"], ["refuse", "pass"])),
        "ENDED": (ENDED, complete(ENDINGS, ["release", "store"])),
        "LOST": (LOST, complete(STATUSES, FINGERPRINTS, LEASES, AFTER_CRASH, ["sent", "unsent"])),
    }
    for name, (rows, given) in uses.items():
        fitting = {
            row
            for row in rows
            for each in given
            if all(cell in ("*", value) for cell, value in zip(row, each, strict=True))
        }
        assert fitting == set(rows), name


def test_the_tables_have_every_reason_and_every_kind_of_result() -> None:
    answers = {answer for rows in (EXISTING, STORE_FAILED, ENDED, LOST) for answer in rows.values()} - {"replay"}
    assert answers == set(DECISION)
    assert {each.reason for each in DECISION.values() if isinstance(each, Reject)} == set(Reason)
    assert {each.kept for each in DECISION.values() if isinstance(each, Complete)} == set(Kept)
    assert set(STATUSES.values()) == set(Status)


def test_a_claim_has_the_storage_key_and_fingerprint_of_its_operation() -> None:
    assert (claim().storage_key, claim().fingerprint) == ("a" * 64, OURS)


def test_states_are_frozen_values() -> None:
    states = [getattr(machine, name) for name in machine.__all__ if is_dataclass(getattr(machine, name))]
    assert {state.__name__ for state in states} >= {"Execute", "Replay", "Reject", "Complete", "Deliver"}
    for state in states:
        first = state(*([None] * len(fields(state))))
        assert first == state(*([None] * len(fields(state))))
        for field in fields(state):
            with pytest.raises(FrozenInstanceError):
                setattr(first, field.name, None)


@pytest.mark.row(59)
def test_the_token_and_the_result_are_not_in_a_repr() -> None:
    shown = repr((claim(), Replay(record("completed", "same", "live")), Execute(claim(), 1)))
    assert "0" * 32 not in shown
    assert "the answer" not in shown
    assert re.search("attempt=1", shown)
