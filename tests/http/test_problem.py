"""The form of every refusal: row 119, and the last paragraph of the conformance table."""

import json
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idempotency_mw.core.machine import Reason, Reject
from idempotency_mw.http.problem import Problem, Refusal, problem_response, refusal_of

STATUSES = {
    "key-missing": 400,
    "key-invalid": 400,
    "key-conflict": 400,
    "caller-missing": 400,
    "body-invalid": 400,
    "body-too-large": 413,
    "in-progress": 409,
    "outcome-unknown": 409,
    "response-not-kept": 409,
    "key-reused": 422,
    "store-unavailable": 503,
    "record-unreadable": 503,
    "execution-failed": 500,
}

#    reason                       problem                    told to retry
REASONS = [
    (Reason.IN_PROGRESS,          Problem.IN_PROGRESS,       True),
    (Reason.REUSED,               Problem.KEY_REUSED,        False),
    (Reason.OUTCOME_UNKNOWN,      Problem.OUTCOME_UNKNOWN,   False),
    (Reason.NOT_KEPT,             Problem.RESPONSE_NOT_KEPT, False),
    (Reason.STORE_UNAVAILABLE,    Problem.STORE_UNAVAILABLE, True),
    (Reason.RECORD_UNREADABLE,    Problem.RECORD_UNREADABLE, False),
]  # fmt: skip


def types() -> list[str]:
    return [json.loads(problem_response(Refusal(problem, "")).body)["type"] for problem in Problem]


@pytest.mark.row(119)
def test_slugs_and_statuses_are_the_documented_ones() -> None:
    assert {problem.slug: problem.status for problem in Problem} == STATUSES
    assert len(Problem) == len(STATUSES)


@pytest.mark.row(119)
def test_each_problem_has_its_own_type_uri_that_ends_in_its_slug() -> None:
    assert len(set(types())) == len(Problem)
    for problem, uri in zip(Problem, types(), strict=True):
        assert (urlsplit(uri).scheme, uri.rsplit(":", 1)[1]) == ("urn", problem.slug)


@pytest.mark.row(119)
def test_titles_are_distinct() -> None:
    assert len({problem.title for problem in Problem}) == len(Problem)


@pytest.mark.row(119)
@pytest.mark.parametrize("problem", Problem)
def test_a_refusal_is_a_problem_document(problem: Problem) -> None:
    response = problem_response(Refusal(problem, "What to do."))
    document = json.loads(response.body)
    assert response.status == problem.status == document["status"]
    assert set(document) == {"type", "title", "status", "detail"}
    assert (document["title"], document["detail"]) == (problem.title, "What to do.")
    assert dict(response.headers) == {
        b"content-type": b"application/problem+json",
        b"content-length": b"%d" % len(response.body),
        b"content-language": b"en",
        b"cache-control": b"no-store",
    }
    assert len(dict(response.headers)) == len(response.headers)


@pytest.mark.row(2, 119)
@pytest.mark.parametrize("problem", Problem)
def test_a_refusal_of_head_has_the_headers_and_no_body(problem: Problem) -> None:
    refusal = Refusal(problem, "What to do.", retry_after_seconds=3)
    response, bodiless = problem_response(refusal), problem_response(refusal, bodiless=True)
    assert (bodiless.status, bodiless.headers, bodiless.body) == (response.status, response.headers, b"")


@pytest.mark.row(119)
def test_further_headers_come_last() -> None:
    response = problem_response(Refusal(Problem.IN_PROGRESS, "", 7), extra=((b"preference-applied", b"wait=2"),))
    assert response.headers[-2:] == ((b"retry-after", b"7"), (b"preference-applied", b"wait=2"))


@given(st.text())
def test_any_text_can_be_the_detail(detail: str) -> None:
    assert json.loads(problem_response(Refusal(Problem.BODY_INVALID, detail)).body)["detail"] == detail


@pytest.mark.row(36, 37, 49, 52, 53, 102)
@pytest.mark.parametrize(("reason", "problem", "retry"), REASONS)
def test_each_reason_of_the_machine_has_its_problem(reason: Reason, problem: Problem, retry: bool) -> None:
    refusal = refusal_of(Reject(reason, retry_after_ms=2_001 if retry else None), bound_headers=False)
    assert (refusal.problem, refusal.retry_after_seconds) == (problem, 3 if retry else None)
    assert refusal.detail


def test_the_table_has_every_reason() -> None:
    assert [reason for reason, _, _ in REASONS] == list(Reason)


@pytest.mark.row(37)
@pytest.mark.parametrize(
    ("milliseconds", "seconds"), [(0, 1), (1, 1), (999, 1), (1000, 1), (1001, 2), (30_000, 30)]
)
def test_the_retry_time_is_in_whole_seconds_and_at_least_one(milliseconds: int, seconds: int) -> None:
    refusal = refusal_of(Reject(Reason.IN_PROGRESS, milliseconds), bound_headers=False)
    assert refusal.retry_after_seconds == seconds
    assert (b"retry-after", b"%d" % seconds) in problem_response(refusal).headers


@pytest.mark.row(57)
def test_the_detail_of_a_mismatch_recommends_callers_if_headers_are_bound() -> None:
    def detail(reason: Reason, *, bound_headers: bool) -> str:
        return refusal_of(Reject(reason), bound_headers=bound_headers).detail

    assert "caller" in detail(Reason.REUSED, bound_headers=True)
    assert "caller" not in detail(Reason.REUSED, bound_headers=False)
    assert "caller" not in detail(Reason.OUTCOME_UNKNOWN, bound_headers=True)
