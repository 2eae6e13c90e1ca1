"""The replies to one request, as decisions without I/O.

`capture`, `verdict` and `encode` take the app's answer into the store. `replay`, `instead`, `rejection` and
`refusal` make responses from what the store or the machine says.
"""

from collections.abc import Callable
from typing import Any, assert_never

from idempotency_mw import report
from idempotency_mw.core.config import IdempotencyConfig
from idempotency_mw.core.machine import Answered, Deliver, Discarded, Ending, Failed, Kept, Reason, Reject, Replay
from idempotency_mw.core.record import Operation, Record
from idempotency_mw.errors import IdempotencyConfigurationError, IdempotencyRecordError
from idempotency_mw.http import codec
from idempotency_mw.http.capture import BODILESS_STATUSES, Capture
from idempotency_mw.http.config import HTTPConfig
from idempotency_mw.http.kept_headers import KeptHeaders
from idempotency_mw.http.message import Headers, Request, Response
from idempotency_mw.http.problem import Problem, Refusal, problem_response, refusal_of

__all__ = ["Replies"]


class Replies:
    """The replies of one pair of configurations. Computes in advance what does not depend on a request."""

    def __init__(self, config: IdempotencyConfig, http: HTTPConfig) -> None:
        self._hook = config.response_hook
        self._http = http
        self.replay_header = http.replay_header.lower()
        self._marker = self.replay_header.encode("ascii"), b"true"
        self._kept = KeptHeaders(http.dropped_headers, self._marker[0])
        self._binds_headers = http.caller is None and bool(http.bound_headers)

    # The app's answer, into the store.

    def capture(self, request: Request) -> Capture:
        """Return a capture for the app's response to this request."""
        return Capture(self._http.max_response_body, is_head=request.method == "HEAD")

    def verdict(self, capture: Capture, *, discarded: bool) -> Ending:
        """Return how a run ended that was not stopped."""
        if discarded:
            return Discarded()
        if not capture.is_whole:
            return Failed()
        return Answered(storable=self._http.storable(capture.status), captured=not capture.is_too_large)

    def encode(self, kept: Kept, capture: Capture) -> bytes | None:
        """Return the result to store, or None where it can't be kept."""
        match kept:
            case Kept.ANSWER:
                headers = self._kept.kept(capture.headers, keeps_length=_length_is_no_body(capture))
                return codec.encode(capture.status, headers, capture.body())
            case Kept.FAILURE:
                failure = Refusal(Problem.EXECUTION_FAILED, "The first request with this key failed.")
                response = problem_response(failure)
                return codec.encode(response.status, self._kept.kept(response.headers), response.body)
            case Kept.NOTHING:
                return None
            case _:
                assert_never(kept)

    # The store's answer, out to the client.

    def replay(
        self, request: Request, operation: Operation, record: Record, *, waited: int | None = None
    ) -> Response:
        """Return the stored response, marked as a replay. An unreadable record is reported, and refused."""
        try:
            stored = codec.decode(record.result or b"")
        except IdempotencyRecordError as error:
            report.store_refused(operation.storage_key, error)
            return self.rejection(request, Reject(Reason.RECORD_UNREADABLE), waited=waited)
        return self._replayed(request, stored, record, waited)

    def instead(self, request: Request, operation: Operation, reply: Deliver | Replay | Reject) -> Response | None:
        """Return what a late owner's client gets instead of the run's own answer; None if it gets its own.

        It gets its own if the winner's record can't be read: a refusal would say that the request was not carried
        out, but it was.
        """
        if isinstance(reply, Deliver):
            return None
        if isinstance(reply, Reject):
            return self.rejection(request, reply)
        try:
            stored = codec.decode(reply.record.result or b"")
        except IdempotencyRecordError as error:
            report.winner_unreadable(operation.storage_key, error)
            return None
        return self._replayed(request, stored, reply.record, None)

    def rejection(self, request: Request, reject: Reject, *, waited: int | None = None) -> Response:
        """Return the machine's refusal as a response."""
        return self.refusal(request, refusal_of(reject, bound_headers=self._binds_headers), waited=waited)

    def refusal(self, request: Request, refusal: Refusal, *, waited: int | None = None) -> Response:
        """Return a refusal as a response."""
        return problem_response(refusal, bodiless=request.method == "HEAD", extra=_applied(waited))

    def without_marker(self, headers: Headers) -> Headers:
        """Return an app's headers without the marker header, which only a replay may have."""
        return tuple([line for line in headers if line[0].lower() != self._marker[0]])

    def _replayed(self, request: Request, stored: codec.Parts, record: Record, waited: int | None) -> Response:
        status, headers, body = stored if self._hook is None else _hooked(self._hook, stored, record)
        if request.method == "HEAD" or status in BODILESS_STATUSES:
            return Response(status, (*headers, self._marker, *_applied(waited)), b"")
        lines = [line for line in headers if line[0].lower() != b"content-length"]
        lines.append((b"content-length", b"%d" % len(body)))
        lines.append(self._marker)
        lines.extend(_applied(waited))
        return Response(status, tuple(lines), body)


def _applied(waited: int | None) -> Headers:
    return () if waited is None else ((b"preference-applied", b"wait=%d" % waited),)


def _hooked(hook: Callable[[Any, Record], Any], stored: codec.Parts, record: Record) -> codec.Parts:
    changed = hook(Response(*stored), record)
    if not isinstance(changed, Response):
        raise IdempotencyConfigurationError(f"response_hook must return Response, not {type(changed).__name__}")
    return changed.status, changed.headers, changed.body


def _length_is_no_body(capture: Capture) -> bool:
    """Tell whether `Content-Length` is that of the answer to a GET (RFC 9110, section 8.6)."""
    return capture.is_bodiless and capture.status not in (204, 205)
