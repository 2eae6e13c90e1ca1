"""The states that are explored, and the order that makes two of them one.

Each worker takes one request after another, all for one key. Workers in the same state can be exchanged, so a
state is kept in an order that forgets their names; a token that no process and no message knows any more is
nobody's.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

__all__ = ["LIVE", "NOBODY", "Phase", "Setting", "Standing", "State", "Step", "Worker", "in_order", "put"]

NOBODY = -1


class Phase:
    """What a worker is about."""

    READY = "ready"
    """It is about to acquire, with a fresh token."""
    DOUBT = "doubt"
    """It asked, and has no reply."""
    RUNS = "runs"
    COMPLETES = "completes"
    """Its run is over, and is to be kept."""
    RELEASES = "releases"
    """Its run is over, and the key is to be freed."""
    LINGERS = "lingers"
    """It was cancelled, and what it started still goes on somewhere."""
    PASSES = "passes"
    """Its app runs without a claim."""
    GONE = "-"
    """No process any more, only messages that are under way."""


LIVE = (Phase.RUNS, Phase.LINGERS)


@dataclass(frozen=True, slots=True)
class Setting:
    """What is explored: how much of it, and under which options."""

    workers: int
    losses: int
    """How many messages are lost or held up at most."""
    crashes: int
    honoured: bool = True
    """Whether a lease lapses only when its owner is dead or has stopped."""
    on_error: Literal["release", "store"] = "release"
    after_crash: Literal["retry", "refuse"] = "retry"
    on_store_failure: Literal["refuse", "pass"] = "refuse"
    strangers: int = 0
    """How many of the workers have another payload."""
    has_large: bool = False
    """Whether an answer may be too large to be kept."""


class Standing(NamedTuple):
    """The record that stands there."""

    status: str
    """The frame's letter: P in progress, C completed, N not kept."""
    owner: int
    """Whose token it bears: a worker's number, or NOBODY."""
    attempt: int
    payload: int
    has_lapsed: bool
    kept: str
    """What a completed one keeps."""


class Worker(NamedTuple):
    """A worker, and what is under way of the messages that bear its token."""

    phase: str
    payload: int
    kept: str = ""
    """What its run left, once it is over."""
    has_waited: bool = False
    late: tuple[str, ...] = ()
    """The verbs of messages that are held up."""


class State(NamedTuple):
    """All of it at one moment."""

    record: Standing | None
    workers: tuple[Worker, ...]
    losses: int
    """How many messages can still be lost or held up."""
    crashes: int
    strays: tuple[str, ...] = ()
    """Messages under way whose token nobody will ever bear again. One that arrives has to change nothing, so it
    is not missed: each stays for good, and is there once."""


class Step(NamedTuple):
    """What happened, what is so then, and what is wrong with it, if anything."""

    worker: int
    """Whom it happened to; NOBODY for what happens in the store alone."""
    text: str
    state: State
    wrong: str = ""


Look = Callable[[Step], bool]


def put(state: State, number: int, worker: Worker) -> State:
    """Return the state with this worker in the place of that number."""
    record, workers, losses, crashes, strays = state
    return State(record, (*workers[:number], worker, *workers[number + 1 :]), losses, crashes, strays)


def in_order(state: State) -> tuple[State, list[int]]:
    """Return the one state that stands for all that differ in names only, and who has each place in it."""
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
    """Tell whether this token can never stand again: whatever of it is under way is a stranger's from now on."""
    worker, is_owner, _ = key
    return worker.phase == Phase.GONE and not is_owner and "acquire" not in worker.late
