"""The preference to wait: row 116, and the syntax of RFC 7240."""

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idempotency_mw.http.prefer import preferred_wait


def wait(*lines: str) -> int | None:
    return preferred_wait([line.encode() for line in lines])


@pytest.mark.row(114)
@pytest.mark.parametrize(
    ("lines", "seconds"),
    [
        (["wait=5"], 5),
        (["wait=0"], 0),
        (["wait=007"], 7),
        (["WAIT=5"], 5),
        (['wait="5"'], 5),
        (["wait = 5"], 5),
        (["wait=5; x=y"], 5),
        (["respond-async, wait=5"], 5),
        (["respond-async", "wait=5"], 5),
        (["respond-async;wait=6, wait=5"], 5),
        ([" , ,wait=5,"], 5),
        (["wait=999999999"], 999_999_999),
        (["wait=5, wait=6"], 5),
        (["wait=5", "wait=6"], 5),
        (['foo="a, wait=6, b", wait=5'], 5),
        (['foo="a\\", wait=6", wait=5'], 5),
        (['foo="", wait=5'], 5),
    ],
)
def test_the_first_wait_preference_counts(lines: list[str], seconds: int) -> None:
    assert wait(*lines) == seconds


@pytest.mark.row(116)
@pytest.mark.parametrize(
    "lines",
    [
        [],
        [""],
        ["wait"],
        ["wait="],
        ["wait=-1"],
        ["wait=+1"],
        ["wait=x"],
        ["wait=5x"],
        ["wait=5 5"],
        ["wait=1.5"],
        ["wait=1e3"],
        ["wait=1000000000"],
        ['wait="5'],
        ["wait='5'"],
        ["wait=\u0665"],
        ["wait;5"],
        ["wait;x=1=5"],
        ["waiting=5"],
        ["wait-long=5"],
        ["await=5"],
        ["x;wait=5"],
        ["return=minimal"],
        ["wait=x, wait=5"],
        ["wait", "wait=5"],
        ['foo="wait=5"'],
        ['foo="a, wait=5'],
        ['foo="a, wait=5\\'],
        ['foo=", wait=5, "'],
    ],
)
def test_an_invalid_preference_is_ignored(lines: list[str]) -> None:
    assert wait(*lines) is None


@given(st.lists(st.text(st.sampled_from('wait=5",;\\ \tx'), max_size=12), max_size=3))
def test_a_preferred_wait_is_a_number_that_was_sent(lines: list[str]) -> None:
    found = wait(*lines)
    assert found is None or str(found) in re.findall(r"[0-9]+", " ".join(lines))


@pytest.mark.parametrize(
    "line", ["," * 65_536, "a" * 65_536, '"' * 65_536, '"' + "\\" * 65_536, "wait" + " " * 65_536]
)
def test_a_long_preference_is_read_in_time_that_grows_with_its_length(line: str) -> None:
    def seconds() -> float:
        start = time.thread_time()
        wait(line)
        return time.thread_time() - start

    assert min(seconds() for _ in range(3)) < 0.25
