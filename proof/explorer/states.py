"""The explored states, and the normal form that makes equivalent states equal.

Each worker sends one request after another, all for one key. Workers in the same state are interchangeable, so the
normal form orders workers by state and forgets their names. A token that no process and no message holds any more
becomes NOBODY's.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

__all__ = ["LIVE", "NOBODY", "Phase", "Setting", "Standing", "State", "Step", "Worker", "in_order", "put"]

NOBODY = -1


class Phase:
    """What a worker is doing."""

    READY = "ready"
    """About to acquire, with a fresh token."""
    DOUBT = "doubt"
    """It sent an acquire and got no reply."""
    RUNS = "runs"
    COMPLETES = "completes"
    """Its execution is over; it completes the claim."""
    RELEASES = "releases"
    """Its execution is over; it releases the claim."""
    LINGERS = "lingers"
    """It was cancelled, but something that it started still runs."""
    PASSES = "passes"
    """Its app runs without a claim."""
    GONE = "-"
    """No process any more; only messages that are still under way."""


LIVE = (Phase.RUNS, Phase.LINGERS)


@dataclass(frozen=True, slots=True)
class Setting:
    """What is explored: how many of everything, and under which options."""

    workers: int
    losses: int
    """How many messages at most are lost or delayed."""
    crashes: int
    honoured: bool = True
    """Whether a lease can lapse only when its owner is dead or has stopped."""
    on_error: Literal["release", "store"] = "release"
    after_crash: Literal["retry", "refuse"] = "retry"
    on_store_failure: Literal["refuse", "pass"] = "refuse"
    strangers: int = 0
    """How many of the workers send another payload."""
    has_large: bool = False
    """Whether an answer may be too large to keep."""


class Standing(NamedTuple):
    """The record in the store."""

    status: str
    """The frame's letter: P in progress, C completed, N not kept."""
    owner: int
    """Whose token it bears: a worker's number, or NOBODY."""
    attempt: int
    payload: int
    has_lapsed: bool
    kept: str
    """What a completed record holds."""


class Worker(NamedTuple):
    """A worker, and the messages with its token that are still under way."""

    phase: str
    payload: int
    kept: str = ""
    """What its execution left when it ended."""
    has_waited: bool = False
    late: tuple[str, ...] = ()
    """The verbs of its delayed messages."""


class State(NamedTuple):
    """Everything at one moment."""

    record: Standing | None
    workers: tuple[Worker, ...]
    losses: int
    """How many more messages can be lost or delayed."""
    crashes: int
    strays: tuple[str, ...] = ()
    """Delayed messages whose token nobody will bear again. Their arrival must change nothing, so each kind is kept
    once, and for ever."""


class Step(NamedTuple):
    """What happened, the state after it, and the violation, if any."""

    worker: int
    """The worker that it happened to; NOBODY for what happens in the store alone."""
    text: str
    state: State
    wrong: str = ""


Look = Callable[[Step], bool]


def put(state: State, number: int, worker: Worker) -> State:
    """Return the state with this worker at that number."""
    record, workers, losses, crashes, strays = state
    return State(record, (*workers[:number], worker, *workers[number + 1 :]), losses, crashes, strays)


def in_order(state: State) -> tuple[State, list[int]]:
    """Return the normal form of a state, and the worker's number at each place in it."""
    record, workers, losses, crashes, strays = state
    owner = NOBODY if record is None else record.owner
    keys = sorted([(worker, number == owner, number) for number, worker in enumerate(workers)])
    if keys[0][0].phase == Phase.GONE:
        strays = tuple(sorted({*strays, *(verb for key in keys if _is_over(key) for verb in key[0].late)}))
        keys = [key for key in keys if not _is_over(key)]
    order = [number for _, _, number in keys]
    if record is not None and owner != NOBODY:
        record = record._replace(owner=order.index(owner))
    return State(record, tuple([worker for worker, _, _ in keys]), losses, crashes, strays), order


def _is_over(key: tuple[Worker, bool, int]) -> bool:
    """Tell whether this token can never be in a record again. Its messages are strays from now on."""
    worker, is_owner, _ = key
    return worker.phase == Phase.GONE and not is_owner and "acquire" not in worker.late
