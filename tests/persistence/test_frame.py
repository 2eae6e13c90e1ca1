"""A record's bytes: a written record is read back; any other bytes are an error and never a free key."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idempotency_mw.core.record import Record, Status
from idempotency_mw.errors import IdempotencyRecordError
from idempotency_mw.persistence.frame import MAX_ATTEMPT, Frame, read_record
from tests.persistence.golden import FINGERPRINT, GOLDEN, PREFIX, TOKEN, contradictions, flips


@pytest.mark.parametrize("status", Status)
def test_the_bytes_of_a_record_are_pinned(status):
    result = b"result\x00\xff" if status is Status.COMPLETED else b""
    frame = Frame(status, TOKEN, 7, 1_700_000_000_000, FINGERPRINT, result)
    assert frame.encode() == GOLDEN[status]
    assert Frame.decode(GOLDEN[status]) == frame


@given(
    status=st.sampled_from(Status),
    attempt=st.integers(1, MAX_ATTEMPT),
    lease_until_ms=st.integers(0, 10**15 - 1),
    result=st.binary(),
)
def test_a_written_record_is_read_back(status, attempt, lease_until_ms, result):
    kept = result if status is Status.COMPLETED else b""
    frame = Frame(status, TOKEN, attempt, lease_until_ms, FINGERPRINT, kept)
    assert Frame.decode(frame.encode()) == frame


@pytest.mark.row(52)
@pytest.mark.parametrize("status", Status)
def test_a_record_with_a_flipped_bit_is_an_error_or_another_valid_record(status):
    readable = 0
    for flipped in flips(GOLDEN[status]):
        try:
            frame = Frame.decode(flipped)
        except IdempotencyRecordError:
            continue
        readable += 1
        assert frame.encode() == flipped
    assert 0 < readable < PREFIX * 8 / 2


@pytest.mark.row(52)
@pytest.mark.parametrize("status", Status)
def test_a_record_cut_short_in_its_prefix_is_an_error(status):
    for length in range(PREFIX):
        with pytest.raises(IdempotencyRecordError):
            Frame.decode(GOLDEN[status][:length])


@pytest.mark.row(52)
@pytest.mark.parametrize("data", contradictions().values(), ids=contradictions().keys())
def test_a_record_that_contradicts_itself_is_an_error(data):
    with pytest.raises(IdempotencyRecordError):
        Frame.decode(data)


def test_random_bytes_are_an_error():
    noise = random.Random(1)
    for _ in range(100_000):
        with pytest.raises(IdempotencyRecordError):
            Frame.decode(noise.randbytes(noise.randrange(200)))


def test_a_frames_record_has_everything_except_the_token_and_the_time():
    frame = Frame.decode(GOLDEN[Status.COMPLETED])
    assert frame.record(5) == Record(Status.COMPLETED, 7, FINGERPRINT, 5, b"result\x00\xff")
    assert frame.record(-5).remaining_ms == 0
    assert Frame.decode(GOLDEN[Status.NOT_KEPT]).record(0).result is None
    assert TOKEN not in repr(frame)
    assert "result" not in repr(frame)


@pytest.mark.parametrize("remaining_ms", [5, 0, -5])
def test_read_record_agrees_with_the_frames_record(remaining_ms):
    for data in GOLDEN.values():
        assert read_record(data, remaining_ms) == Frame.decode(data).record(remaining_ms)
    for data in (*contradictions().values(), *(GOLDEN[Status.COMPLETED][:length] for length in range(PREFIX))):
        with pytest.raises(IdempotencyRecordError):
            read_record(data, remaining_ms)
