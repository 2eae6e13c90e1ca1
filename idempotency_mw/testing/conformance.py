"""The one suite that every persistence layer passes, blocking and async alike.

    class TestMyLayer(PersistenceConformance):
        def make_layer(self):
            return MyLayer(...)

Each test makes its own layer and its own keys, so that many tests may share a store. If the layer takes a
clock, override `pass_time` too; otherwise the suite waits for real time, in short pieces. To test unreadable
records, override `plant` and `peek`.
"""

from dataclasses import replace
from functools import partial
from secrets import token_hex

from idempotency_mw.core.record import Acquired, Claim, Existing, Lost, Record, Settled, Status
from idempotency_mw.errors import IdempotencyRecordError
from idempotency_mw.testing.harness import LONG_MS, PersistenceHarness, a_claim, rival

__all__ = ["PersistenceConformance"]

# ruff: noqa: S101, D102 - the assertions are the purpose, and a test's name says what it shows

EVERY_BYTE = bytes(range(256))
SLACK_MS = 150
"""Two calls in a row must take less than this, or a test that reads a lease fails because the machine is slow."""


class PersistenceConformance(PersistenceHarness):
    """Every promise of `PersistenceLayer`, for every state of a key."""

    def test_a_free_key_is_acquired_as_attempt_one(self) -> None:
        assert self.acquire(a_claim()) == Acquired(1)

    def test_an_acquired_key_is_in_progress_for_the_lease(self) -> None:
        claim = self.acquired()
        record = self.standing(claim)
        assert record is not None
        assert (record.status, record.attempt, record.fingerprint, record.result) == (
            Status.IN_PROGRESS,
            1,
            claim.fingerprint,
            None,
        )
        assert 0 < record.remaining_ms <= LONG_MS

    def test_a_live_claim_keeps_everyone_else_out(self) -> None:
        claim = self.acquired()
        rivals = [
            rival(claim),
            rival(claim, fingerprint=token_hex(32)),
            replace(rival(claim), may_take_over=False),
        ]
        for each in rivals:
            found = self.acquire(each)
            assert isinstance(found, Existing)
            assert found.record.status is Status.IN_PROGRESS
            assert found.record.fingerprint == claim.fingerprint
            self.assert_powerless(each)
        assert self.complete(claim, b"done") == Settled()

    def test_keys_are_independent(self) -> None:
        claims = [self.acquired() for _ in range(20)]
        for number, claim in enumerate(claims):
            assert self.complete(claim, b"%d" % number) == Settled()
        assert [self._result(claim) for claim in claims] == [b"%d" % number for number in range(20)]

    def test_acquiring_again_with_the_own_token_renews_the_lease(self) -> None:
        claim = self.acquired()
        self.pass_time(SLACK_MS / 1000)
        assert self.acquire(claim) == Acquired(1)
        assert self._remaining(claim) > LONG_MS - SLACK_MS

    def test_the_owner_may_acquire_again_after_its_lease_as_the_same_attempt(self) -> None:
        claim = self.lapsed()
        assert self.acquire(replace(claim, lease_ms=LONG_MS)) == Acquired(1)
        assert isinstance(self.acquire(rival(claim)), Existing)

    def test_a_lapsed_claim_is_taken_over_by_the_same_request_as_one_attempt_more(self) -> None:
        first = self.lapsed()
        second = replace(rival(first), lease_ms=self.moment_ms)
        assert self.acquire(second) == Acquired(2)
        assert self.acquire(second) == Acquired(2)
        self.pass_time(1.5 * self.moment_ms / 1000)
        assert self.acquire(rival(first)) == Acquired(3)

    def test_after_a_takeover_the_old_owner_is_powerless_and_the_new_one_is_not(self) -> None:
        first = self.lapsed()
        second = rival(first)
        assert self.acquire(second) == Acquired(2)
        self.assert_powerless(first)
        assert isinstance(self.acquire(first), Existing)
        assert self.extend(second) is True
        assert self.complete(second, b"done") == Settled()
        lost = self.complete(first, b"late")
        assert isinstance(lost, Lost)
        assert lost.record is not None
        assert (lost.record.status, lost.record.result, lost.record.attempt) == (Status.COMPLETED, b"done", 2)

    def test_a_lapsed_claim_is_not_taken_over_by_another_request(self) -> None:
        claim = self.lapsed()
        self._assert_left_as_lapsed(claim, rival(claim, fingerprint=token_hex(32)))

    def test_a_lapsed_claim_is_not_taken_over_where_that_is_forbidden(self) -> None:
        claim = self.lapsed()
        self._assert_left_as_lapsed(claim, replace(rival(claim), may_take_over=False))

    def _assert_left_as_lapsed(self, claim: Claim, other: Claim) -> None:
        found = self.acquire(other)
        assert found == Existing(Record(Status.IN_PROGRESS, 1, claim.fingerprint, 0))
        self.assert_powerless(other)
        assert self.complete(claim, b"done after all") == Settled()

    def test_a_completed_key_gives_its_result_to_whoever_asks(self) -> None:
        claim = self.completed()
        for each in (claim, rival(claim), rival(claim, fingerprint=token_hex(32))):
            found = self.acquire(each)
            assert isinstance(found, Existing)
            assert found.record.status is Status.COMPLETED
            assert found.record.fingerprint == claim.fingerprint
            assert found.record.result == b"the answer"

    def test_a_stranger_can_not_touch_a_completed_key(self) -> None:
        self.assert_powerless(rival(self.completed()))

    def test_completed_is_final_for_its_owner_too(self) -> None:
        for result in (b"first", None):
            claim = self.completed(result)
            assert self.complete(claim, b"second") == Settled()
            assert self.complete(claim, None) == Settled()
            assert self.extend(claim) is False
            assert self.release(claim) is False
            assert self._result(claim) == result

    def test_a_result_is_kept_byte_for_byte(self) -> None:
        for result in (b"", EVERY_BYTE, b"\r\n\x00", EVERY_BYTE * 4096):
            assert self._result(self.completed(result)) == result

    def test_a_tombstone_is_not_an_empty_result(self) -> None:
        record = self.standing(self.completed(None))
        assert record is not None
        assert (record.status, record.result) == (Status.NOT_KEPT, None)

    def test_a_tombstone_keeps_everyone_out(self) -> None:
        claim = self.completed(None)
        assert isinstance(self.acquire(claim), Existing)
        assert isinstance(self.acquire(rival(claim)), Existing)
        self.assert_powerless(rival(claim))

    def test_nothing_stands_for_a_claim_that_was_never_acquired(self) -> None:
        claim = a_claim()
        self.assert_powerless(claim)
        assert self.complete(claim, b"never") == Lost(None)
        assert self.complete(claim, None) == Lost(None)
        assert self.standing(claim) is None

    def test_extending_renews_the_lease(self) -> None:
        claim = self.acquired()
        self.pass_time(SLACK_MS / 1000)
        assert self.extend(claim) is True
        assert self._remaining(claim) > LONG_MS - SLACK_MS

    def test_the_owner_may_end_or_extend_a_lapsed_claim_that_nobody_took(self) -> None:
        assert self.complete(self.lapsed(), b"late") == Settled()
        assert self.release(self.lapsed()) is True
        claim = self.lapsed()
        assert self.extend(replace(claim, lease_ms=LONG_MS)) is True
        assert isinstance(self.acquire(rival(claim)), Existing)

    def test_a_released_key_is_free_and_begins_anew(self) -> None:
        first = self.lapsed()
        second = rival(first)
        assert self.acquire(second) == Acquired(2)
        assert self.release(second) is True
        assert self.release(second) is False
        assert self.complete(second, b"gone") == Lost(None)
        assert self.acquire(rival(first, fingerprint=token_hex(32))) == Acquired(1)

    def test_attempts_survive_extending_and_completing(self) -> None:
        first = self.lapsed()
        second = rival(first)
        assert self.acquire(second) == Acquired(2)
        assert self.extend(second) is True
        assert self.complete(second, b"done") == Settled()
        record = self.standing(first)
        assert record is not None
        assert record.attempt == 2

    def test_a_record_outlives_its_lease_by_the_retention(self) -> None:
        record = self.standing(self.lapsed())
        assert record is not None
        assert (record.status, record.remaining_ms) == (Status.IN_PROGRESS, 0)

    def test_a_record_in_progress_outlives_a_retention_shorter_than_its_lease(self) -> None:
        claim = self.acquired(retention_ms=self.moment_ms)
        self.pass_time(1.5 * self.moment_ms / 1000)
        assert isinstance(self.acquire(rival(claim)), Existing)
        assert self.extend(claim) is True
        self.pass_time(1.5 * self.moment_ms / 1000)
        assert isinstance(self.acquire(rival(claim)), Existing)

    def test_an_abandoned_record_expires_and_the_key_begins_anew(self) -> None:
        claim = self.lapsed(retention_ms=self.moment_ms)
        self.assert_powerless(claim)
        assert self.complete(claim, b"too late") == Lost(None)
        assert self.acquire(rival(claim)) == Acquired(1)

    def test_the_retention_counts_from_completion(self) -> None:
        claim = self.acquired(retention_ms=LONG_MS // 2)
        self.pass_time(SLACK_MS / 1000)
        assert self.complete(claim, b"done") == Settled()
        assert LONG_MS // 2 - SLACK_MS < self._remaining(claim) <= LONG_MS // 2

    def test_a_completed_record_expires_although_it_is_replayed(self) -> None:
        claim = self.completed(retention_ms=8 * self.moment_ms)
        self.pass_time(4 * self.moment_ms / 1000)
        assert self.complete(claim, b"again") == Settled()
        assert self._remaining(claim) <= 4 * self.moment_ms
        self.pass_time(5 * self.moment_ms / 1000)
        self.assert_powerless(claim)
        assert self.acquire(rival(claim)) == Acquired(1)

    def test_a_tombstone_expires(self) -> None:
        claim = self.completed(None, retention_ms=self.moment_ms)
        self.pass_time(1.5 * self.moment_ms / 1000)
        assert self.acquire(rival(claim)) == Acquired(1)

    def test_what_is_no_record_is_an_error_and_stays_as_it_is(self) -> None:
        for data in self.unreadable(self._sample()):
            claim = a_claim()
            self.plant(claim.storage_key, data)
            self._assert_unreadable(claim)
            assert self.peek(claim.storage_key) == data

    def _sample(self) -> bytes:
        sample = self.peek(self.acquired().storage_key)
        assert sample is not None
        return sample

    def _assert_unreadable(self, claim: Claim) -> None:
        complete = partial(self.complete, result=b"done")
        for verb in (self.acquire, self.extend, self.release, complete):
            try:
                answer = verb(claim)
            except IdempotencyRecordError:
                continue
            raise AssertionError(f"expected IdempotencyRecordError, not {answer!r}")

    def test_of_many_contenders_for_a_free_key_one_wins(self) -> None:
        self._assert_one_wins(a_claim(), Acquired(1))

    def test_of_many_contenders_for_a_lapsed_claim_one_takes_it_over(self) -> None:
        self._assert_one_wins(self.lapsed(), Acquired(2))

    def _assert_one_wins(self, claim: Claim, prize: Acquired) -> None:
        claims = [rival(claim) for _ in range(self.contenders)]
        answers = self.together([partial(self.layer.acquire, each) for each in claims])
        winners = [each for each, answer in zip(claims, answers, strict=True) if isinstance(answer, Acquired)]
        assert [answer for answer in answers if isinstance(answer, Acquired)] == [prize]
        assert self.complete(winners[0], b"the winner's") == Settled()
        assert self._result(claim) == b"the winner's"

    def test_completing_and_taking_over_at_once_leave_one_owner(self) -> None:
        first = self.lapsed()
        second = rival(first)
        completed, acquired = self.together(
            [partial(self.layer.complete, first, b"first"), partial(self.layer.acquire, second)]
        )
        if isinstance(completed, Settled):
            assert isinstance(acquired, Existing)
            assert self._result(first) == b"first"
        else:
            assert acquired == Acquired(2)
            assert self.complete(second, b"second") == Settled()

    def _remaining(self, claim: Claim) -> int:
        record = self.standing(claim)
        assert record is not None
        return record.remaining_ms

    def _result(self, claim: Claim) -> bytes | None:
        record = self.standing(claim)
        assert record is not None
        return record.result
