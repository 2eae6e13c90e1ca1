"""Refusals as RFC 9457 problems. A detail says what to do, and never repeats what the client sent."""

import json
from dataclasses import dataclass
from enum import Enum

from idempotency_mw.core.machine import Reason, Reject
from idempotency_mw.http.message import Headers, Response

__all__ = ["Problem", "Refusal", "problem_response", "refusal_of"]

TYPE_PREFIX = "urn:idempotency-mw:problem:"


class Problem(Enum):
    """Each kind of refusal: its slug, its HTTP status and its title."""

    KEY_MISSING = ("key-missing", 400, "Idempotency key missing")
    KEY_INVALID = ("key-invalid", 400, "Idempotency key invalid")
    KEY_CONFLICT = ("key-conflict", 400, "Idempotency keys conflict")
    CALLER_MISSING = ("caller-missing", 400, "Caller unknown")
    BODY_INVALID = ("body-invalid", 400, "Request body invalid")
    BODY_TOO_LARGE = ("body-too-large", 413, "Request body too large")
    IN_PROGRESS = ("in-progress", 409, "Request in progress")
    OUTCOME_UNKNOWN = ("outcome-unknown", 409, "Outcome unknown")
    RESPONSE_NOT_KEPT = ("response-not-kept", 409, "Response not kept")
    KEY_REUSED = ("key-reused", 422, "Idempotency key reused")
    STORE_UNAVAILABLE = ("store-unavailable", 503, "Idempotency store unavailable")
    RECORD_UNREADABLE = ("record-unreadable", 503, "Idempotency record unreadable")
    EXECUTION_FAILED = ("execution-failed", 500, "Execution failed")

    def __init__(self, slug: str, status: int, title: str) -> None:
        self.slug = slug
        self.status = status
        self.title = title


@dataclass(frozen=True, slots=True)
class Refusal:
    """A problem, with the detail for this request's sender."""

    problem: Problem
    detail: str
    retry_after_seconds: int | None = None


_REFUSED = {
    Reason.IN_PROGRESS: (Problem.IN_PROGRESS, "The first request with this key is still running."),
    Reason.REUSED: (
        Problem.KEY_REUSED,
        "This key was used before for another request, or with other credentials. "
        "Use a new key for a new request.",
    ),
    Reason.OUTCOME_UNKNOWN: (
        Problem.OUTCOME_UNKNOWN,
        "The first request with this key was cut off, and its outcome is not known. "
        "Find it out before using a new key.",
    ),
    Reason.NOT_KEPT: (
        Problem.RESPONSE_NOT_KEPT,
        "The first request with this key was carried out, but its response was not kept.",
    ),
    Reason.STORE_UNAVAILABLE: (
        Problem.STORE_UNAVAILABLE,
        "The request was not carried out, because it could not be protected from running twice. Try again.",
    ),
    Reason.RECORD_UNREADABLE: (
        Problem.RECORD_UNREADABLE,
        "The request was not carried out, because the record of its key can't be read.",
    ),
}


def refusal_of(reject: Reject, *, bound_headers: bool) -> Refusal:
    """Return the machine's refusal in HTTP. `bound_headers` says that credentials are part of the fingerprint."""
    problem, detail = _REFUSED[reject.reason]
    if reject.reason is Reason.REUSED and bound_headers:
        detail += " (Where credentials rotate, the service should configure `caller`.)"
    return Refusal(problem, detail, reject.retry_after_seconds)


def problem_response(refusal: Refusal, *, bodiless: bool = False, extra: Headers = ()) -> Response:
    """Return the refusal as a response. `bodiless` says that it answers a HEAD."""
    problem = refusal.problem
    document = {
        "type": TYPE_PREFIX + problem.slug,
        "title": problem.title,
        "status": problem.status,
        "detail": refusal.detail,
    }
    body = json.dumps(document).encode("ascii")
    headers = [
        (b"content-type", b"application/problem+json"),
        (b"content-length", b"%d" % len(body)),
        (b"content-language", b"en"),
        (b"cache-control", b"no-store"),
    ]
    if refusal.retry_after_seconds is not None:
        headers.append((b"retry-after", b"%d" % refusal.retry_after_seconds))
    return Response(problem.status, (*headers, *extra), b"" if bodiless else body)
