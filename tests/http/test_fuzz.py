"""Random bytes as header, record, response, result, body and request: only declared outcomes, each in time.

`make proof` tries more of them.
"""

import time

import pytest

from idempotency_mw.http.config import HTTPConfig
from idempotency_mw.http.key import header_key
from idempotency_mw.http.problem import Problem, Refusal
from proof.fuzz import LONGEST_SECONDS, try_reader
from proof.fuzz.readers import READERS

TIMES = 10_000


@pytest.mark.row(12, 15, 28, 30, 31, 52, 72)
@pytest.mark.fault(22)
@pytest.mark.parametrize("name", READERS)
def test_any_bytes_have_a_declared_outcome_in_time(name: str) -> None:
    tried = try_reader(name, TIMES)
    assert tried.surprises == []
    assert tried.count == TIMES
    assert tried.slowest_seconds < LONGEST_SECONDS


@pytest.mark.row(12, 15)
@pytest.mark.parametrize(
    "parameter", [b";t=:YWJj:", b";a", b'; a="b;c"', b";a=1", b';a=%"x%c3%bc"', b";a=b:/*", b"; "]
)
@pytest.mark.parametrize("end", [b"", b"!", b";", b'"', b":"])
def test_a_header_of_many_parameters_is_read_in_time(parameter: bytes, end: bytes) -> None:
    line = b'"key"' + parameter * 2000 + end
    before = time.thread_time()
    key = header_key([line], HTTPConfig())
    assert time.thread_time() - before < LONGEST_SECONDS
    assert isinstance(key, Refusal) or key == "key"
    assert not isinstance(key, Refusal) or key.problem is Problem.KEY_INVALID
