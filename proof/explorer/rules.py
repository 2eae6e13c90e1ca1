"""What may never happen. These rules are independent of the verbs and the machine, which are checked against them.

Each function returns the violation as text, or "" if there is none. The invariants' numbers (I1 …) are those of
`docs/guarantees.md`.
"""

from idempotency_mw.core.machine import Complete, Deliver, Execute, Reason, Reject, Release, Replay
from idempotency_mw.core.record import Acquired, Claim, Existing, Lost, Settled, Status
from idempotency_mw.persistence.frame import Frame
from idempotency_mw.persistence.verbs import StoredFrame
from proof.explorer.states import LIVE, Setting, Standing, State, Worker

__all__ = [
    "wrong_answer",
    "wrong_change",
    "wrong_completion",
    "wrong_decision",
    "wrong_ending",
    "wrong_expiry",
    "wrong_start",
]


# Rules for a verb


def wrong_change(verb: str, claim: Claim, before: Frame | None, after: Frame | None, now_ms: int) -> str:
    """Judge how a verb changed the record."""
    if after == before:
        return ""
    if before is None:
        is_first = after is not None and after.token == claim.token and after.attempt == 1
        return "" if verb == "acquire" and is_first else f"I3: {verb} makes a record where none was"
    if before.status is not Status.IN_PROGRESS:
        return f"I2: {verb} changes a completed record"
    if before.token == claim.token:
        return _wrong_change_of_own(verb, before, after)
    if verb == "acquire":
        return _wrong_takeover(claim, before, after, now_ms)
    return f"I3: {verb} by a stranger changes the record"


def _wrong_change_of_own(verb: str, before: Frame, after: Frame | None) -> str:
    if after is None:
        return "" if verb == "release" else f"I3: {verb} frees the key"
    if (after.token, after.attempt, after.fingerprint) != (before.token, before.attempt, before.fingerprint):
        return f"I3: {verb} makes another record of its own"
    is_completed = after.status is not Status.IN_PROGRESS
    return "" if is_completed == (verb == "complete") else f"I3: {verb} makes it {after.status.value}"


def _wrong_takeover(claim: Claim, before: Frame, after: Frame | None, now_ms: int) -> str:
    if after is None or before.lease_until_ms > now_ms or not claim.may_take_over:
        return "I1: acquire takes away a claim that stands"
    if before.fingerprint != claim.fingerprint:
        return "I13: a takeover for another payload"
    if after.token != claim.token:
        return "I3: acquire writes a token that is not its own"
    if after.attempt != before.attempt + 1:
        return f"the takeover of attempt {before.attempt} is attempt {after.attempt}"
    return ""


def wrong_expiry(write: StoredFrame, latest_ms: int) -> str:
    """Judge a record's expiry: there must be one, and not before the end of its lease or its retention."""
    is_due = write.frame.lease_until_ms <= write.expires_ms <= latest_ms
    return "" if is_due else "I4: a record without an expiry"


def wrong_answer(answer: object, token: str, after: Frame | None) -> str:
    """Compare a verb's answer with the record after it."""
    is_own = after is not None and after.token == token
    is_running = after is not None and after.status is Status.IN_PROGRESS
    match answer:
        case Acquired() if not (is_own and is_running):
            return "I1: acquired, and no claim stands"
        case Existing() if is_own and is_running:
            return "the owner is locked out of its own record"
        case Settled() if not is_own or is_running:
            return "I5: settled, and the record is not completed"
        case _:
            return ""


# Rules for a decision


def wrong_start(state: State, *, honoured: bool) -> str:
    """Judge the start of an execution by the others that run."""
    live = sum(worker.phase in LIVE for worker in state.workers)
    return f"I1: {live} runs at a time" if honoured and live > 1 else ""


def wrong_decision(decision: object, record: Standing | None, worker: Worker) -> str:
    """Compare a decision with the record that the acquire, or the late complete, found.

    An acquired claim is judged by the record after it: see `wrong_answer`.
    """
    if isinstance(decision, Execute):
        return ""
    if record is None:
        return "a free key is refused"
    if (decision == Reject(Reason.REUSED)) != (record.payload != worker.payload):
        return "I13: another payload is not told from the same"
    if isinstance(decision, Replay):
        return _wrong_replay(decision, record)
    if isinstance(decision, Reject):
        return _wrong_refusal(decision.reason, record)
    return "I2: a late owner answers with what is not the key's answer"


def _wrong_replay(decision: Replay, record: Standing) -> str:
    if record.status != "C":
        return "I2: a replay of what is not completed"
    if decision.record.result != record.kept.encode():
        return "I2: a replay is not the answer that was kept"
    return "I8: a replay of a piece" if record.kept == "piece" else ""


def _wrong_refusal(reason: Reason, record: Standing) -> str:
    fits = {
        Reason.REUSED: True,  # judged in wrong_decision
        Reason.IN_PROGRESS: record.status == "P",
        Reason.OUTCOME_UNKNOWN: record.status == "P" and record.has_lapsed,
        Reason.NOT_KEPT: record.status == "N",
    }
    return "" if fits.get(reason, False) else f"refused as {reason.name}, and the record is {record.status}"


def wrong_ending(ended: object, kept: str, setting: Setting) -> str:
    """Compare the decision about a claim with the way its execution ended."""
    if kept == "piece" and isinstance(ended, Complete):
        return "I8: a run that was stopped is stored"
    if kept == "failure" and isinstance(ended, Release) == (setting.on_error == "store"):
        return f"a failure is not dealt with as on_error={setting.on_error} says"
    return ""


def wrong_completion(
    outcome: Settled | Lost,
    decision: object,
    record: Standing | None,
    worker: Worker,
    setting: Setting,
    *,
    is_sent: bool,
) -> str:
    """Compare the answer to the owner's client with the outcome of its complete."""
    if isinstance(outcome, Settled):
        return "" if decision == Deliver() else "a settled answer is not delivered"
    if setting.honoured:
        return "an owner lost its claim, though leases are honoured"
    if is_sent or record is None or record.payload != worker.payload:
        return "" if decision == Deliver() else "a late owner does not answer, though only it can"
    return wrong_decision(decision, record, worker)
