"""Whose reply is whose on a shared connection, step by step: no loop, no socket, and waiters that are letters."""

import math

import pytest

from idempotency_mw.persistence.redis.direct.exchanges import MOST_COMMANDS, Exchanges


def asked(*waiters):
    """Return exchanges in which each of these has asked for its own name."""
    exchanges = Exchanges()
    for waiter in waiters:
        exchanges.ask(waiter, waiter.encode())
    return exchanges


# Each step: what happens, and what has to follow from it.
ASK, BEGIN, RECEIVE = "ask", "begin", "receive"

SEQUENCES = {
    "one caller gets its reply": [
        (ASK, "a", True),
        (BEGIN, None, [b"a"]),
        (RECEIVE, [1], (["a"], [1])),
    ],
    "a caller that asks meanwhile waits for the next exchange": [
        (ASK, "a", True),
        (BEGIN, None, [b"a"]),
        (ASK, "b", False),
        (ASK, "c", False),
        (RECEIVE, [1], (["a"], [1])),
        (BEGIN, None, [b"b", b"c"]),
        (RECEIVE, [2], None),
        (RECEIVE, [3], (["b", "c"], [2, 3])),
    ],
    "a caller that asks before the exchange begins is part of it": [
        (ASK, "a", True),
        (ASK, "b", False),
        (BEGIN, None, [b"a", b"b"]),
        (RECEIVE, [1], None),
        (RECEIVE, [2], (["a", "b"], [1, 2])),
        (ASK, "c", True),
        (BEGIN, None, [b"c"]),
        (RECEIVE, [None], (["c"], [None])),
    ],
    "a reply to nobody has no waiter": [
        (RECEIVE, [1], ([], [1])),
    ],
    "a reply beyond those that are due has no waiter": [
        (ASK, "a", True),
        (BEGIN, None, [b"a"]),
        (RECEIVE, [1, 2], (["a"], [1, 2])),
        (RECEIVE, [3], ([], [3])),
    ],
    "replies that come together are taken together": [
        (ASK, "a", True),
        (ASK, "b", False),
        (ASK, "c", False),
        (BEGIN, None, [b"a", b"b", b"c"]),
        (RECEIVE, [1, 2], None),
        (RECEIVE, [3], (["a", "b", "c"], [1, 2, 3])),
    ],
}


@pytest.mark.parametrize("steps", SEQUENCES.values(), ids=SEQUENCES)
def test_each_waiter_gets_the_reply_to_its_own_command(steps):
    exchanges = Exchanges()
    do = {
        ASK: lambda name: exchanges.ask(name, name.encode()),
        BEGIN: lambda _: exchanges.begin(),
        RECEIVE: exchanges.receive,
    }
    for step, value, expected in steps:
        assert do[step](value) == expected


def test_an_exchange_has_so_many_commands_at_most_and_the_others_follow_in_order():
    names = [str(number) for number in range(2 * MOST_COMMANDS + 1)]
    exchanges = asked(*names)
    sent, told = [], []
    while exchanges.is_busy:
        sent.append(exchanges.begin())
        for command in sent[-1]:
            whole = exchanges.receive([command])
        told += zip(*whole, strict=True)
    assert [len(commands) for commands in sent] == [MOST_COMMANDS, MOST_COMMANDS, 1]
    assert told == [(name, name.encode()) for name in names]


@pytest.mark.parametrize(("waiters", "were_many"), [("a", False), ("ab", True)])
def test_whether_the_last_exchange_had_several_commands_is_known(waiters, were_many):
    exchanges = asked(*waiters)
    exchanges.begin()
    assert exchanges.were_many is False
    for _ in waiters:
        exchanges.receive([0])
    assert exchanges.were_many is were_many


def test_it_is_busy_from_the_first_question_until_nobody_waits():
    exchanges = Exchanges()
    assert (exchanges.is_busy, exchanges.missing) == (False, 0)
    exchanges.ask("a", b"")
    assert (exchanges.is_busy, exchanges.missing) == (True, 0)
    exchanges.begin()
    exchanges.ask("b", b"")
    assert (exchanges.is_busy, exchanges.missing) == (True, 1)
    exchanges.receive([1])
    assert (exchanges.is_busy, exchanges.missing) == (True, 0)
    exchanges.begin()
    exchanges.receive([2])
    assert (exchanges.is_busy, exchanges.missing) == (False, 0)


def test_whose_reply_comes_next_is_known():
    exchanges = asked("a", "b")
    assert exchanges.next_in_line is None
    exchanges.begin()
    assert exchanges.next_in_line == "a"
    exchanges.receive([1])
    assert exchanges.next_in_line == "b"
    exchanges.receive([2])
    assert exchanges.next_in_line is None


@pytest.mark.parametrize(
    ("left", "is_deserted"),
    [("", False), ("a", False), ("ab", True), ("abc", True), ("c", False)],
)
def test_an_exchange_is_deserted_once_all_who_take_part_have_left(left, is_deserted):
    exchanges = asked("a", "b")
    assert exchanges.is_deserted(lambda waiter: True) is False  # nothing is due yet
    exchanges.begin()
    exchanges.ask("c", b"")
    assert exchanges.is_deserted(lambda waiter: waiter in left) is is_deserted


def test_a_waiter_is_told_once_when_its_deadline_is_over():
    exchanges = Exchanges()
    assert exchanges.next_deadline == math.inf
    for waiter, deadline in (("a", 3.0), ("b", 1.0), ("c", math.inf), ("d", 2.0)):
        exchanges.ask(waiter, b"", deadline)
    exchanges.begin()
    assert exchanges.next_deadline == 1.0
    assert exchanges.overdue(0.9) == []
    assert exchanges.overdue(2.0) == ["b", "d"]
    assert exchanges.overdue(2.0) == []
    assert exchanges.next_deadline == 3.0


def test_the_reply_to_a_waiter_that_was_overdue_is_still_due():
    exchanges = Exchanges()
    exchanges.ask("late", b"", 1.0)
    exchanges.ask("b", b"", 9.0)
    exchanges.begin()
    assert exchanges.overdue(1.0) == ["late"]
    assert exchanges.receive([1]) is None
    assert exchanges.receive([2]) == (["late", "b"], [1, 2])


def test_a_deadline_is_forgotten_with_the_reply():
    exchanges = Exchanges()
    exchanges.ask("a", b"", 1.0)
    exchanges.begin()
    exchanges.receive([1])
    assert exchanges.next_deadline == math.inf
    assert exchanges.overdue(5.0) == []


def test_everybody_who_waits_is_told_when_the_connection_has_ended_and_held_replies_are_dropped():
    exchanges = asked("a", "b")
    exchanges.begin()
    exchanges.ask("c", b"", 5.0)
    exchanges.receive([b"held"])
    assert exchanges.abandon() == ["a", "b", "c"]
    assert (exchanges.missing, exchanges.next_deadline) == (0, math.inf)


def test_commands_that_are_sent_elsewhere_get_their_replies_in_order():
    exchanges = Exchanges()
    exchanges.begin_alone(["a", "b"])
    assert exchanges.is_busy
    assert exchanges.receive([1]) is None
    assert exchanges.receive([2]) == (["a", "b"], [1, 2])
    assert not exchanges.is_busy
