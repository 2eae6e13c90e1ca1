"""All steps that can follow a state.

A step is one event: a message is answered, or lost, or its reply is lost, or it is delayed and arrives at any
later time; an execution ends; a worker dies and a new one takes its place; the store refuses; a lease lapses; a
record expires. Only losses and crashes are counted and limited. Everything else may repeat, because a state that
was seen before is not explored again.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from proof.explorer.states import LIVE, NOBODY, Phase, Setting, State, Step, Worker, in_order, put
from proof.explorer.store import Ask, Asked, asker, put_to
from proof.explorer.system import System

__all__ = ["World", "first", "make_world", "next_request", "steps", "unanswered", "with_late"]

MORTAL = (Phase.DOUBT, Phase.RUNS, Phase.COMPLETES, Phase.RELEASES)


@dataclass(frozen=True, slots=True)
class World:
    """A system in a setting, and the steps of each phase of a worker."""

    system: System
    setting: Setting
    ask: Ask
    phases: dict[str, Callable[["World", State, int], Iterator[Step]]]


def make_world(
    system: System, setting: Setting, phases: dict[str, Callable[[World, State, int], Iterator[Step]]]
) -> World:
    """Return the world of this system; each question to its verbs is asked once."""
    return World(system, setting, asker(system, setting), phases)


def first(setting: Setting) -> State:
    """Return the state before anything has happened."""
    workers = tuple(Worker(Phase.READY, int(number < setting.strangers)) for number in range(setting.workers))
    return in_order(State(None, workers, setting.losses, setting.crashes))[0]


def steps(world: World, state: State) -> Iterator[Step]:
    """Yield every step that can follow."""
    owner = NOBODY if state.record is None else state.record.owner
    twin: tuple[Worker, bool] | None = None
    for number, worker in enumerate(state.workers):
        before, twin = twin, (worker, number == owner)
        if twin == before:
            continue  # a worker in the same state has the same steps
        if worker.phase != Phase.GONE:
            yield from world.phases[worker.phase](world, state, number)
        if worker.late:
            yield from _arrivals(world, state, number)
        if state.crashes and worker.phase in MORTAL:
            dead = next_request(world, state, number, is_other_process=True)
            yield Step(number, "dies", dead._replace(crashes=state.crashes - 1))
    yield from _strays(world, state)
    yield from _recovery(world, state)
    yield from _time(world, state)


def unanswered(state: State, number: int, verb: str, asked: Asked, phase: str) -> Iterator[Step]:
    """Yield the ways in which a message gets no reply; `phase` is the worker's phase after that."""
    if not state.losses:
        return
    worker = state.workers[number]._replace(phase=phase)
    lost = put(state._replace(losses=state.losses - 1), number, worker)
    yield Step(number, f"{verb}s: request lost", lost)
    yield Step(number, f"{verb}s: request delayed", put(lost, number, with_late(worker, verb)))
    if asked.has_changed:
        yield Step(number, f"{verb}s: reply lost", lost._replace(record=asked.after), asked.wrong)


def with_late(worker: Worker, verb: str) -> Worker:
    """Return the worker with one more delayed message."""
    return worker._replace(late=tuple(sorted((*worker.late, verb))))


def next_request(
    world: World,
    state: State,
    number: int,
    phase: str = Phase.READY,
    *,
    has_waited: bool = False,
    is_other_process: bool = False,
) -> State:
    """Let the worker send its next request with a fresh token. Delayed messages keep the old token."""
    old = state.workers[number]
    has_waited = has_waited and world.setting.on_store_failure == "pass"
    fresh = Worker(phase, old.payload, has_waited=has_waited)
    if not (world.system.has_fresh_tokens or is_other_process):
        return put(state, number, fresh._replace(late=old.late))
    record, workers = state.record, state.workers
    if old.late:
        kept = old.kept if "complete" in old.late else ""
        workers = (*workers, Worker(Phase.GONE, old.payload, kept, late=old.late))
    if record is not None and record.owner == number:
        record = record._replace(owner=len(workers) - 1 if old.late else NOBODY)
    return put(State(record, workers, state.losses, state.crashes, state.strays), number, fresh)


def _arrivals(world: World, state: State, number: int) -> Iterator[Step]:
    """Yield the arrival of each delayed message. Nobody waits for its reply."""
    worker = state.workers[number]
    for verb in dict.fromkeys(worker.late):
        asked, after = put_to(world.ask, state, number, verb)
        at = worker.late.index(verb)
        left = worker._replace(late=worker.late[:at] + worker.late[at + 1 :])
        if (
            left.phase == Phase.GONE
            and not left.late
            and after.record is not None
            and after.record.owner == number
        ):
            after = after._replace(record=after.record._replace(owner=NOBODY))
        text = f"(a late {verb} arrives{'' if asked.has_changed else ', changes nothing'})"
        yield Step(number, text, put(after, number, left), asked.wrong)


def _strays(world: World, state: State) -> Iterator[Step]:
    """Yield a stray message's arrival if it changes something, which is a violation."""
    for verb in state.strays:
        asked, after = put_to(world.ask, state, NOBODY, verb)
        if asked.wrong:
            yield Step(NOBODY, f"(a stranger's late {verb} arrives)", after, asked.wrong)


def _recovery(world: World, state: State) -> Iterator[Step]:
    """Yield a violation if a request after the lease's end would not run."""
    record = state.record
    if record is None or record.status != "P" or world.setting.after_crash == "refuse":
        return
    lapsed = record._replace(owner=NOBODY, has_lapsed=True)
    asked = world.ask("acquire", NOBODY, record.payload, "", lapsed)
    if not asked.has_changed:
        yield Step(NOBODY, "nobody can take over", state, "I4: the key is stuck")


def _time(world: World, state: State) -> Iterator[Step]:
    """Yield what time alone does. With leases honoured, a claim whose owner needs it does not lapse."""
    record = state.record
    if record is None or (world.setting.honoured and _is_held(state, record.owner)):
        return
    if record.has_lapsed or record.status != "P":
        yield Step(NOBODY, "the record expires", state._replace(record=None))
    else:
        yield Step(NOBODY, "the lease lapses", state._replace(record=record._replace(has_lapsed=True)))


def _is_held(state: State, owner: int) -> bool:
    return owner != NOBODY and state.workers[owner].phase in (*LIVE, Phase.COMPLETES)
