"""The checker on histories that are written by hand, simulated, recorded, and altered."""

import heapq
import random
from collections import Counter
from dataclasses import replace
from secrets import token_hex

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from idempotency_mw.core.record import Acquired, Claim, Operation
from idempotency_mw.persistence.verbs import StoredFrame
from proof.explorer import MUTANTS, PRODUCTION
from proof.histories import Altered, altered, checked, on_redis, on_sqlite
from proof.histories.alterations import ALTERATIONS
from proof.histories.checker import is_linearizable, outcome_of, shortest_bad
from proof.histories.clients import turn
from proof.histories.operations import Operation as Message
from proof.histories.operations import Seen, told
from tests.servers import binaries

LEASE_MS = 100
SECONDS = 1.5


def claim(token="a", lease_ms=LEASE_MS, fingerprint="f"):
    return Claim(Operation("key", fingerprint * 64), token * 32, lease_ms, 600_000)


A, B = claim("a"), claim("b")
ACQUIRED = ("acquired", 1)
SETTLED = ("settled",)


def running(attempt=1, *, has_lapsed=False, fingerprint="f", token=None):
    return ("existing", Seen("in progress", attempt, fingerprint * 64, has_lapsed, None, token and token * 32))


def done(result=b"A", attempt=1):
    return ("existing", Seen("completed", attempt, "f" * 64, False, result))


def acquire(who, begun, ended, outcome=None):
    return Message("acquire", who, None, begun, ended, outcome)


def complete(who, begun, ended, outcome=SETTLED, result=b"A"):
    return Message("complete", who, result, begun, ended, outcome)


def release(who, begun, ended, outcome=True):
    return Message("release", who, None, begun, ended, outcome)


def extend(who, begun, ended, outcome=True):
    return Message("extend", who, None, begun, ended, outcome)


EXPLAINED = {
    "nothing at all": [],
    "one after another": [acquire(A, 0, 1, ACQUIRED), complete(A, 2, 3), acquire(B, 4, 5, done())],
    "a refusal while it runs": [acquire(A, 0, 1, ACQUIRED), acquire(B, 2, 3, running())],
    "a refusal that names the owner": [acquire(A, 0, 1, ACQUIRED), acquire(B, 2, 3, running(token="a"))],
    "two at once, in the other order": [acquire(A, 0, 9, running(token="b")), acquire(B, 1, 8, ACQUIRED)],
    "an open acquire that took effect": [acquire(A, 0, None), acquire(B, 5, 6, running())],
    "an open acquire that did not": [acquire(A, 0, None), acquire(B, 5, 6, ACQUIRED)],
    "an open acquire that took effect late": [
        acquire(A, 0, None),
        acquire(B, 5, 6, ACQUIRED),
        release(B, 7, 8),
        acquire(claim("c"), 9, 10, running(token="a")),
    ],
    "an open complete that took effect": [
        acquire(A, 0, 1, ACQUIRED),
        complete(A, 2, None, None),
        acquire(B, 5, 6, running()),
        acquire(claim("c"), 7, 8, done()),
    ],
    "a takeover when the lease is over": [
        acquire(A, 0, 1, ACQUIRED),
        acquire(B, 120, 121, ("acquired", 2)),
        complete(A, 130, 131, ("lost", running(2)[1])),
    ],
    "a lease that was renewed": [
        acquire(A, 0, 1, ACQUIRED),
        extend(A, 90, 91),
        acquire(B, 120, 121, running()),
        acquire(B, 210, 211, ("acquired", 2)),
    ],
    "a claim that takes over from its successor": [
        acquire(A, 0, None),
        acquire(B, 120, 121, ("acquired", 2)),
        acquire(A, 240, 241, ("acquired", 3)),
    ],
    "another payload on a lapsed claim": [
        acquire(A, 0, 1, ACQUIRED),
        acquire(claim("b", fingerprint="e"), 150, 151, running(has_lapsed=True)),
    ],
    "a release that was sent twice": [acquire(A, 0, 1, ACQUIRED), release(A, 2, 3), release(A, 4, 5, False)],
}

UNEXPLAINED = {
    "two own it": [acquire(A, 0, 1, ACQUIRED), acquire(B, 2, 3, ACQUIRED)],
    "a takeover too early": [acquire(A, 0, 1, ACQUIRED), acquire(B, 80, 81, ("acquired", 2))],
    "a takeover of a renewed lease": [
        acquire(A, 0, 1, ACQUIRED),
        extend(A, 90, 91),
        acquire(B, 120, 121, ("acquired", 2)),
    ],
    "a lease that stands too long": [acquire(A, 0, 1, ACQUIRED), acquire(B, 120, 121, running())],
    "refused though the key is free": [acquire(A, 0, 1, running())],
    "refused by a later owner": [acquire(A, 0, 1, running()), acquire(B, 2, 3, ACQUIRED)],
    "another owner": [acquire(A, 0, 1, ACQUIRED), acquire(B, 2, 3, running(token="c"))],
    "an answer that changes": [
        acquire(A, 0, 1, ACQUIRED),
        complete(A, 2, 3),
        acquire(B, 4, 5, done(b"A")),
        acquire(B, 6, 7, done(b"B")),
    ],
    "a completion that is gone": [acquire(A, 0, 1, ACQUIRED), complete(A, 2, 3), acquire(B, 4, 5, ACQUIRED)],
    "a stale refusal": [acquire(A, 0, 1, ACQUIRED), complete(A, 2, 3), acquire(B, 4, 5, running())],
    "an attempt that jumps": [acquire(A, 0, 1, ACQUIRED), acquire(B, 120, 121, ("acquired", 3))],
    "a stranger's release": [acquire(A, 0, 1, ACQUIRED), release(B, 2, 3)],
    "a stranger's completion": [acquire(A, 0, 1, ACQUIRED), complete(B, 2, 3)],
    "a completion without a claim": [complete(A, 0, 1)],
    "a takeover for another payload": [
        acquire(A, 0, 1, ACQUIRED),
        acquire(claim("b", fingerprint="e"), 150, 151, ("acquired", 2)),
    ],
    "an open complete that took effect and then not": [
        acquire(A, 0, 1, ACQUIRED),
        complete(A, 2, None, None),
        acquire(B, 5, 6, done()),
        acquire(B, 7, 8, running()),
    ],
}


@pytest.mark.parametrize("name", EXPLAINED)
def test_a_history_that_some_order_explains_is_linearizable(name):
    assert is_linearizable(EXPLAINED[name])


@pytest.mark.parametrize("name", UNEXPLAINED)
def test_a_history_that_no_order_explains_is_not_linearizable(name):
    assert not is_linearizable(UNEXPLAINED[name])


def test_a_bad_history_is_cut_after_the_operation_that_makes_it_bad():
    bad = UNEXPLAINED["an answer that changes"]
    late = [acquire(B, 20, 21, done()), acquire(B, 3.5, 30, done())]
    assert [each.begun for each in shortest_bad([*late, *bad])] == [0, 2, 3.5, 4, 6]
    assert told(bad[0]) == "0.00 to 1.00  acquire aaaa ff lease 100  ->  ('acquired', 1)"


# Simulated: a store on a clock of its own, and messages that take time in both directions


def simulated(system, seed, clients=5, milliseconds=400):
    """Return the history of one key."""
    random.seed(seed)
    events, history, standing = [], [], None
    for _ in range(clients):
        _next_turn(events, 0.0)
    while events:
        now, _, message, verbs = heapq.heappop(events)
        verb, who, result, begun, loss = message
        if loss != "request":
            answer, standing = _carried_out(system, verb, who, result, standing, int(now))
        ended = now + random.uniform(0, 4)
        outcome = None if loss else answer
        history.append(Message(verb, who, result, begun, None if loss else ended, outcome))
        if loss and random.random() < 0.5:
            _send(events, verb, who, result, ended + 5, verbs)  # as a client library's retry
        elif (loss or not _go_on(events, verbs, ended, outcome)) and ended < milliseconds:
            _next_turn(events, ended)
    return history


def _next_turn(events, now):
    operation = Operation("key", "f" * 64)
    _go_on(events, turn(Claim(operation, token_hex(16), random.choice((10, 30)), 600_000)), now, None)


def _go_on(events, verbs, now, outcome):
    """Send a client's next message; tell whether there was one."""
    answer = Acquired(outcome[1]) if isinstance(outcome, tuple) and outcome[0] == "acquired" else outcome
    try:
        pause, verb, arguments = verbs.send(answer)
    except StopIteration:
        return False
    _send(events, verb, arguments[0], arguments[1] if verb == "complete" else None, now + pause * 1000, verbs)
    return True


def _send(events, verb, who, result, begun, verbs):
    loss = random.choice(("request", "reply", "late")) if random.random() < 0.1 else ""
    takes = random.uniform(20, 200) if loss == "late" else random.uniform(0, 4)
    heapq.heappush(events, (begun + takes, random.random(), (verb, who, result, begun, loss), verbs))


def _carried_out(system, verb, who, result, standing, now_ms):
    if verb == "acquire":
        found, write = system.acquire(standing, who, now_ms)
    elif verb == "complete":
        found, write = system.complete(standing, who, result, now_ms)
    elif verb == "extend":
        write = system.extend(standing, who, now_ms)
        found = write is not None
    else:
        found = system.release(standing, who)
        return found, None if found else standing
    after = write if isinstance(write, StoredFrame) else standing
    return outcome_of(found, standing and standing.frame.token), after


@given(st.integers(0, 2**32))
@settings(max_examples=30)
def test_answers_of_the_librarys_verbs_are_linearizable(seed):
    history = simulated(PRODUCTION, seed)
    assert is_linearizable(history)
    assert is_linearizable([without_token(each) for each in history])


def without_token(message):
    if isinstance(message.outcome, tuple) and isinstance(message.outcome[-1], Seen):
        what, record = message.outcome
        return replace(message, outcome=(what, record._replace(token=None)))
    return message


OF_THE_VERBS = (
    "no compare on complete",
    "no compare on release",
    "own token ignored",
    "extend without compare",
    "takeover without attempt + 1",
)


@pytest.mark.parametrize("name", OF_THE_VERBS)
def test_answers_of_a_faulty_store_are_not_linearizable(name):
    histories = (simulated(MUTANTS[name], seed) for seed in range(100))
    assert any(not is_linearizable(history) for history in histories)


def test_an_altered_history_is_refused():
    keys = {str(seed): simulated(PRODUCTION, seed) for seed in range(12)}
    result = altered(keys)
    assert result.made == result.refused
    assert set(result.made) == set(ALTERATIONS)


def test_an_attempt_explained_by_a_repeated_message_is_no_jump():
    history = EXPLAINED["a claim that takes over from its successor"]
    assert altered({"key": history}).refused == {"an attempt that jumps": 2}


def test_only_the_part_of_a_history_with_few_open_messages_is_altered():
    others = [acquire(claim(token, lease_ms=10), number, None) for number, token in enumerate("cdefghijklmn", 2)]
    history = [acquire(A, 0, 1, ACQUIRED), *others, complete(A, 500, 501), acquire(B, 502, 503, done())]
    assert is_linearizable(history)
    assert altered({"key": history}) == Altered(
        Counter({"an attempt that jumps": 1}), Counter({"an attempt that jumps": 1})
    )
    seen_early = [acquire(B, 8.5, 8.6, running()), *history]
    assert altered({"key": seen_early}).refused == {"an attempt that jumps": 1, "a second acquired": 2}


# Recorded


@pytest.mark.parametrize("name", sorted(binaries()))
def test_histories_on_a_server_through_faults_are_linearizable(name):
    keys = on_redis(binaries()[name], SECONDS)
    result = checked(keys)
    assert result.bad == ()
    assert result.open_ended > 0
    assert altered(keys).made == altered(keys).refused


def test_histories_on_a_sqlite_file_are_linearizable():
    keys = on_sqlite(SECONDS)
    result = checked(keys)
    assert result.bad == ()
    assert result.operations > 0
    assert altered(keys).made == altered(keys).refused
