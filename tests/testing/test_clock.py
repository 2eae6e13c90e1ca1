"""The clock for tests stands still until it is advanced."""

from idempotency_mw.testing import ManualClock


def test_the_manual_clock_stands_still_until_it_is_advanced():
    clock = ManualClock(5)
    assert clock() == clock() == 5
    clock.advance(2.5)
    assert clock() == 7.5
    assert repr(clock) == "<ManualClock at 7.5 s>"
