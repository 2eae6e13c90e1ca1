"""What a worker can do in each phase. It follows the machine's decisions, and its client gets what they say."""

from collections.abc import Callable, Iterator

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
    Reject,
    Release,
    Stopped,
    Unprotected,
)
from idempotency_mw.core.record import Claim, Lost, Settled
from proof.explorer.rules import wrong_completion, wrong_decision, wrong_ending, wrong_start
from proof.explorer.states import Phase, State, Step, Worker, put
from proof.explorer.store import Asked, claim_of, put_to
from proof.explorer.world import World, next_request, unanswered, with_late

__all__ = ["PHASES"]

ENDINGS: tuple[tuple[str, Ending, str], ...] = (
    ("ends with an answer", Answered(storable=True, captured=True), "whole"),
    ("ends, its answer is too large", Answered(storable=True, captured=False), "nothing"),
    ("ends with an error answer", Answered(storable=False, captured=True), "failure"),
    ("fails", Failed(), "failure"),
    ("is stopped", Stopped(), "piece"),
    ("discards its answer", Discarded(), ""),
)


# Up to a claim


def _acquires(world: World, state: State, number: int) -> Iterator[Step]:
    asked, after = put_to(world.ask, state, number, "acquire")
    step = _acquired(world, state, after, number, asked)
    yield step._replace(wrong=asked.wrong or step.wrong)
    yield from unanswered(state, number, "acquire", asked, Phase.DOUBT)
    if state.workers[number].phase == Phase.DOUBT:
        yield _gives_up_acquiring(world, state, number)


def _acquired(world: World, before: State, after: State, number: int, asked: Asked) -> Step:
    worker = after.workers[number]
    decision = world.system.on_acquired(_claim(world, worker), asked.answer)
    wrong = wrong_decision(decision, before.record, worker)
    if isinstance(decision, Execute):
        return _starts(world, after, number, f"acquires: runs, attempt {decision.attempt}", wrong)
    waits = world.system.may_wait(decision)
    text = f"acquires: {_told(decision)}{', waits' if waits else ''}"
    return Step(number, text, next_request(world, after, number, has_waited=waits), wrong)


def _starts(world: World, state: State, number: int, text: str, wrong: str = "") -> Step:
    after = put(state, number, state.workers[number]._replace(phase=Phase.RUNS, has_waited=False))
    return Step(number, text, after, wrong or wrong_start(after, honoured=world.setting.honoured))


def _gives_up_acquiring(world: World, state: State, number: int) -> Step:
    worker, policy = state.workers[number], world.setting.on_store_failure
    decision = world.system.on_store_failure(unreadable=False, policy=policy, waited=worker.has_waited)
    if isinstance(decision, Execute):
        return _starts(world, state, number, "no reply: runs")
    # Its best-effort release is under way from now on: it may arrive at any time, or never.
    state = put(state, number, with_late(worker, "release"))
    if isinstance(decision, Unprotected):
        wrong = "I7: runs without a claim" if worker.has_waited or policy == "refuse" else ""
        return Step(number, "no reply: runs unprotected", next_request(world, state, number, Phase.PASSES), wrong)
    return Step(number, "no reply: refuses, releases", next_request(world, state, number))


# With a claim


def _runs(world: World, state: State, number: int) -> Iterator[Step]:
    asked, after = put_to(world.ask, state, number, "extend")
    if asked.has_changed:
        yield Step(number, "extends", after, asked.wrong)
    if state.losses:  # a lost request would change nothing
        late = with_late(state.workers[number], "extend")
        yield Step(number, "extends: request delayed", put(state._replace(losses=state.losses - 1), number, late))
    has_large = world.setting.has_large
    for how in ENDINGS:
        if has_large or how[2] != "nothing":
            yield _ends(world, state, number, how)


def _ends(world: World, state: State, number: int, how: tuple[str, Ending, str]) -> Step:
    text, ending, kept = how
    ended = world.system.on_ended(ending, world.setting.on_error)
    wrong = wrong_ending(ended, kept, world.setting)
    worker = state.workers[number]
    match ended:
        case Complete(what):
            kept = "nothing" if what is Kept.NOTHING else kept
            worker = worker._replace(phase=Phase.COMPLETES, kept=kept)
        case Release() if isinstance(ending, Stopped):
            # The release, which should not exist, is already under way while the cancelled work goes on.
            worker = with_late(worker, "release")._replace(phase=Phase.LINGERS)
        case Release():
            worker = worker._replace(phase=Phase.RELEASES)
        case Abandon():
            worker = worker._replace(phase=Phase.LINGERS)
    return Step(number, text, put(state, number, worker), wrong)


def _completes(world: World, state: State, number: int) -> Iterator[Step]:
    asked, after = put_to(world.ask, state, number, "complete")
    outcome, worker = asked.answer, state.workers[number]
    claim = _claim(world, worker)
    for is_sent in (False, True) if isinstance(outcome, Lost) else (False,):
        decision = world.system.on_completed(claim, outcome, sent=is_sent)
        wrong = wrong_completion(outcome, decision, state.record, worker, world.setting, is_sent=is_sent)
        went = "settled" if isinstance(outcome, Settled) else "refused"
        text = f"completes{', part of it sent' if is_sent else ''}: {went}, {_told(decision)}"
        yield Step(number, text, next_request(world, after, number), asked.wrong or wrong)
    yield from unanswered(state, number, "complete", asked, Phase.COMPLETES)
    yield Step(number, "can't complete: delivers its own", next_request(world, state, number))


def _releases(world: World, state: State, number: int) -> Iterator[Step]:
    asked, after = put_to(world.ask, state, number, "release")
    text = f"releases: {'freed' if asked.answer else 'refused'}"
    yield Step(number, text, next_request(world, after, number), asked.wrong)
    yield from unanswered(state, number, "release", asked, Phase.RELEASES)
    yield Step(number, "can't release", next_request(world, state, number))


def _lingers(world: World, state: State, number: int) -> Iterator[Step]:
    yield Step(number, "what it started is over", next_request(world, state, number))


def _passes(world: World, state: State, number: int) -> Iterator[Step]:
    yield Step(number, "its unprotected run ends", next_request(world, state, number))


def _claim(world: World, worker: Worker) -> Claim:
    return claim_of(worker.payload, may_take_over=world.setting.after_crash == "retry")


def _told(decision: object) -> str:
    if isinstance(decision, Reject):
        return f"refused, {decision.reason.name.lower().replace('_', ' ')}"
    return "delivers its own" if isinstance(decision, Deliver) else "replays"


PHASES: dict[str, Callable[[World, State, int], Iterator[Step]]] = {
    Phase.READY: _acquires,
    Phase.DOUBT: _acquires,
    Phase.RUNS: _runs,
    Phase.COMPLETES: _completes,
    Phase.RELEASES: _releases,
    Phase.LINGERS: _lingers,
    Phase.PASSES: _passes,
}
