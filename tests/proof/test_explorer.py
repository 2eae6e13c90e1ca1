"""The explorer on the library's own machine and verbs, and on systems with a fault."""

from dataclasses import replace

import pytest

from idempotency_mw.core.machine import Deliver, Reason, Reject, Unprotected
from idempotency_mw.core.record import Acquired, Existing, Status
from idempotency_mw.persistence import verbs
from proof.explorer import (
    LEAST_STATES,
    MUTANTS,
    PRODUCTION,
    Setting,
    explore,
    killed,
    takeover,
    timeline,
    variants,
)
from proof.explorer.search import is_wrong
from proof.explorer.states import LIVE, Phase, State, Worker, in_order
from proof.figures import Size

HONOURED = Setting(workers=3, losses=3, crashes=1)
BROKEN = Setting(workers=3, losses=2, crashes=1, honoured=False)
SMALL = Setting(workers=2, losses=1, crashes=1)
STEPS_OF_EVERY_RUN = {
    "acquires: runs, attempt 1",
    "acquires: runs, attempt 2",
    "acquires: replays",
    "acquires: refused, in progress, waits",
    "acquires: request lost",
    "acquires: request delayed",
    "acquires: reply lost",
    "no reply: refuses, releases",
    "ends with an answer",
    "fails",
    "is stopped",
    "what it started is over",
    "completes: settled, delivers its own",
    "completes: request lost",
    "completes: request delayed",
    "completes: reply lost",
    "can't complete: delivers its own",
    "releases: freed",
    "releases: refused",
    "releases: request delayed",
    "(a late acquire arrives)",
    "(a late release arrives)",
    "(a late release arrives, changes nothing)",
    "(a late complete arrives)",
    "dies",
    "the lease lapses",
    "the record expires",
}
STEPS_OF_LATE_OWNERS = {
    "extends",
    "completes: refused, replays",
    "completes: refused, delivers its own",
    "completes: refused, refused, in progress",
    "completes, part of it sent: refused, delivers its own",
}


def shown(explored):
    return timeline(explored.path) if explored.path else ""


def texts(setting):
    """Return the texts of all steps; fail if one violates a rule."""
    seen = set()

    def until(step):
        seen.add(step.text)
        return is_wrong(step)

    explored = explore(PRODUCTION, setting, until)
    assert not explored.path, shown(explored)
    return seen


@pytest.mark.timeout(180)  # it computes all the time, and the machine may be busy
def test_no_rule_is_violated_while_leases_are_honoured():
    explored = explore(PRODUCTION, HONOURED)
    assert not explored.path, shown(explored)
    assert explored.states >= LEAST_STATES[Size.CI]


@pytest.mark.timeout(180)  # it computes all the time, and the machine may be busy
def test_under_broken_leases_two_may_run_and_no_other_rule_is_violated():
    explored = explore(PRODUCTION, BROKEN)
    assert not explored.path, shown(explored)
    assert explored.states >= LEAST_STATES[Size.CI]
    assert explore(PRODUCTION, BROKEN, until=two_run).path


def two_run(step):
    return sum(worker.phase in LIVE for worker in step.state.workers) > 1


def test_two_never_run_at_a_time_while_leases_are_honoured():
    assert not explore(PRODUCTION, SMALL, until=two_run).path


@pytest.mark.parametrize("honoured", [True, False])
@pytest.mark.parametrize("number", range(5))
def test_no_rule_is_violated_under_any_option(number, honoured):
    setting = variants(replace(SMALL, honoured=honoured))[number]
    explored = explore(PRODUCTION, setting)
    assert not explored.path, shown(explored)


def test_every_kind_of_step_is_taken():
    assert texts(SMALL) >= STEPS_OF_EVERY_RUN
    assert texts(replace(SMALL, honoured=False)) >= STEPS_OF_EVERY_RUN | STEPS_OF_LATE_OWNERS


def test_options_have_their_own_steps():
    assert "acquires: refused, outcome unknown" in texts(replace(SMALL, after_crash="refuse"))
    assert "acquires: refused, reused" in texts(replace(SMALL, strangers=1))
    assert "acquires: refused, not kept" in texts(replace(SMALL, has_large=True))
    assert "no reply: runs unprotected" in texts(replace(SMALL, on_store_failure="pass"))


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_exposed(name):
    found = killed(MUTANTS[name])
    assert found is not None
    assert shown(found).splitlines()[-1].startswith("==> ")


def _with(standing, **changes):
    return replace(standing, frame=replace(standing.frame, **changes))


def _no_takeover(standing, claim, now_ms):
    if standing is not None and standing.frame.token != claim.token:
        return Existing(standing.record(now_ms)), None
    return verbs.acquire(standing, claim, now_ms)


def _acquire_without_writing(standing, claim, now_ms):
    return Acquired(1), None


def _create_on_complete(standing, claim, result, now_ms):
    if standing is None:
        _, write = verbs.acquire(None, claim, now_ms)
        standing = write
    return verbs.complete(standing, claim, result, now_ms)


def _extend_a_completed_record(standing, claim, now_ms):
    return verbs.extend(standing and _with(standing, status=Status.IN_PROGRESS), claim, now_ms)


def _any_payload(standing, claim, now_ms):
    return verbs.acquire(standing and _with(standing, fingerprint=claim.fingerprint), claim, now_ms)


@pytest.mark.parametrize(
    ("fault", "setting", "wrong"),
    [
        ({"acquire": _no_takeover}, SMALL, "I4: the key is stuck"),
        ({"acquire": _acquire_without_writing}, SMALL, "I1: acquired, and no claim stands"),
        ({"complete": _create_on_complete}, SMALL, "I3: complete makes a record where none was"),
        ({"extend": _extend_a_completed_record}, SMALL, "I2: extend changes a completed record"),
        ({"acquire": _any_payload}, replace(SMALL, strangers=1), "I13: another payload is not told from the same"),
        ({"on_acquired": lambda claim, found: Reject(Reason.NOT_KEPT)}, SMALL, "a free key is refused"),
        (
            {"on_completed": lambda claim, outcome, sent: Deliver()},
            replace(SMALL, honoured=False),
            "I2: a late owner answers with what is not the key's answer",
        ),
        ({"on_store_failure": lambda **_: Unprotected()}, SMALL, "I7: runs without a claim"),
        ({"extend": lambda standing, claim, now_ms: None}, SMALL, ""),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_faults_are_exposed_under_their_own_names(fault, setting, wrong):
    explored = explore(replace(PRODUCTION, **fault), setting)
    assert (explored.path[-1][1].wrong if explored.path else "") == wrong, shown(explored)


def test_a_takeover_is_shown_as_a_timeline():
    lines = [[cell.strip() for cell in line.split("|")] for line in takeover().splitlines()]
    assert lines[0] == ["worker A", "worker B", "store"]
    assert [cells for cells in lines[2:] if "ends with an answer" not in cells] == [
        ["acquires: runs, attempt 1", "", "in progress: A, attempt 1"],
        ["", "", "the lease lapses: in progress: A, attempt 1"],
        ["", "acquires: runs, attempt 2", "in progress: B, attempt 2"],
        ["", "completes: settled, delivers its own", "completed: B's answer"],
        ["completes: refused, replays", "", ""],
    ]
    assert len(lines) == 9


def test_a_counter_example_is_a_shortest_path_to_a_violation():
    assert shown(killed(MUTANTS["token used again after release"])).splitlines()[2:] == [
        "acquires: request lost       |                             |",
        "no reply: refuses, releases  |                             |",
        "acquires: runs, attempt 1    |                             |  in progress: A, attempt 1",
        "(a late release arrives)     |                             |  free",
        "                             |  acquires: runs, attempt 1  |  in progress: B, attempt 1",
        "==> I1: 2 runs at a time",
    ]


def test_states_that_differ_only_in_worker_names_are_equal():
    one, other = Worker(Phase.RUNS, 0), Worker(Phase.READY, 0)
    assert in_order(State(None, (one, other), 0, 0))[0] == in_order(State(None, (other, one), 0, 0))[0]


def test_the_mutants_are_the_twelve_that_must_be_exposed():
    assert list(MUTANTS) == [
        "no compare on complete",
        "no compare on release",
        "own token ignored",
        "lost reply read as acquired",
        "extend without compare",
        "token used again after release",
        "takeover without attempt + 1",
        "release after cancellation",
        "stored on abort",
        "busy read as replay",
        "on_error inverted",
        "expiry dropped on complete",
    ]
