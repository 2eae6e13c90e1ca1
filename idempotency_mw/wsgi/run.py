"""One run of a WSGI app under a claim, as the iterable that the server gets.

Nothing that would let a client see a whole response goes out before its record is completed:

    the chunk that reaches the Content-Length
        settle, then yield it
    a chunk of an answer without a declared length
        hold it until the next one shows that it is not the last; at the end settle, then yield the last one

So chunk i is out before chunk i + 2 is asked for. The server learns status and headers with the first chunk
that is not empty: servers send the headers on an empty one too, and an answer that may yet be replaced would
have begun. This departs from the block rule of PEP 3333 ("Middleware Handling of Block Boundaries"), by which
every chunk is out before the next one is asked for.

A server that stops early and calls `close` has lost its client. The rest of the answer is drained then, so that
the retry finds a whole one: up to `max_response_body`, and for up to DRAIN_SECONDS, checked between two chunks.
"""

from collections.abc import Callable, Generator, Iterable
from time import monotonic
from typing import Any, Self

from idempotency_mw import report
from idempotency_mw.core.machine import Discarded, Ending, Execute, Failed, Kept, Stopped
from idempotency_mw.execution import Discard, Executing, Execution
from idempotency_mw.http.message import Request, Response
from idempotency_mw.http.replies import Replies
from idempotency_mw.lifecycle.claims import ClaimLifecycle
from idempotency_mw.wsgi.pep3333 import (
    Environ,
    ExcInfo,
    HeaderList,
    StartResponse,
    Write,
    WSGIApp,
    head_of,
    lines_of,
)

__all__ = ["ENVIRON_KEY", "Run"]

ENVIRON_KEY = "idempotency_mw.execution"

DRAIN_SECONDS = 5.0
"""How long a worker is kept busy for a client that has gone.

Far below the time-out of a worker (gunicorn's is 30 s).
"""

_END = object()


class Run:
    """One run. `begin` it once, then it is the iterable for the server."""

    def __init__(
        self,
        lifecycle: ClaimLifecycle,
        replies: Replies,
        request: Request,
        decision: Execute,
        key: str,
    ) -> None:
        self._lifecycle = lifecycle
        self._replies = replies
        self._request = request
        self._claim = decision.claim
        self._discard = Discard()
        self._execution = Execution(
            key=key, storage_key=self._claim.storage_key, attempt=decision.attempt, discard=self._discard
        )
        self._server_write: Write | None = None  # set once the server was given status and headers
        self._heartbeat = lifecycle.heartbeat(decision.claim)
        self._capture = replies.capture(request)
        self._status_line = ""
        self._headers: HeaderList = []
        self._iterable: Iterable[bytes] = ()
        self._held: list[bytes] = []  # chunks that go out before any later one
        self._is_settled = False
        self._is_replaced = False  # the client gets another answer than the app's
        self._is_closed = False
        self._is_client_gone = False

    def begin(self, app: WSGIApp, environ: Environ, start_response: StartResponse) -> Self:
        """Call the app. An exception from it is raised again once the claim is settled."""
        environ[ENVIRON_KEY] = self._execution
        self._server_start = start_response
        self._outgoing = self._run(app, environ)
        with Executing(self._execution):
            next(self._outgoing)
        return self

    # What the server calls.

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        with Executing(self._execution):
            while not (chunk := next(self._outgoing)):
                pass
        self._started()
        return chunk

    def close(self) -> None:
        """End the run, early if the server has stopped early. The app's own `close` is called once."""
        if self._is_closed:
            return
        self._is_closed = True
        with Executing(self._execution):
            try:
                self._drain()
            finally:
                self._outgoing.close()
                close: Callable[[], object] | None = getattr(self._iterable, "close", None)
                if close is not None:
                    close()

    # What the app calls.

    def _start_response(self, status: str, headers: HeaderList, exc_info: ExcInfo | None = None) -> Write:
        error = exc_info[1] if exc_info else None  # sys.exc_info() is a triple of None when nothing is handled
        try:
            if error is not None and not self._capture.is_empty:
                raise error
            if error is None and self._capture.is_started:
                raise AssertionError("start_response was called again without exc_info")
        finally:
            exc_info = error = None  # or the traceback and this frame would hold each other
        self._capture.start(int(status[:3]), lines_of(headers))
        self._status_line = status
        self._headers = [line for line in headers if line[0].lower() != self._replies.replay_header]
        return self._write

    def _write(self, chunk: bytes) -> None:
        """Take a chunk by PEP 3333's `write`: what may go out has gone out when this returns."""
        ready = self._take(chunk)
        if not ready or self._is_client_gone:
            return
        try:
            self._started()(ready)
        except OSError:
            self._is_client_gone = True  # not the app's business

    # How it runs.

    def _run(self, app: WSGIApp, environ: Environ) -> Generator[bytes]:
        """Yield what goes out after each step of the app (its call, then each chunk); often that is nothing."""
        try:
            self._heartbeat.start()
            self._iterable = app(environ, self._start_response)
            yield b""
            yield from self._answer()
        except Exception:
            self._fail()
            if self._is_replaced:
                # The answer for a late owner's client. If the app's call has raised, that was a step of its own.
                yield b""
                yield self._last()
            raise
        finally:
            self._heartbeat.stop()
            if not self._is_settled:
                self._stop()

    def _answer(self) -> Generator[bytes]:
        for chunk in self._iterable:
            yield self._take(chunk)
        self._capture.finish()
        if not self._is_settled:
            self._settle_as_answered()
        yield self._last()

    def _take(self, chunk: Any) -> bytes:
        """Take a chunk of the app's answer, and return what may go out now."""
        if not isinstance(chunk, bytes):
            raise TypeError(f"a chunk must be bytes, not {type(chunk).__name__}")
        if not self._capture.is_started:
            raise AssertionError("a chunk came before start_response was called")
        self._capture.add(chunk)
        if not chunk or self._is_replaced or self._capture.is_bodiless:
            return b""
        self._held.append(chunk)
        if self._capture.is_whole and not self._is_settled:
            self._settle_as_answered()
        may_be_the_last = not self._is_settled and not self._capture.has_length
        return self._let_go(but=1 if may_be_the_last else 0)

    def _last(self) -> bytes:
        """Return what is held; the server gets status and headers even if nothing is."""
        if self._status_line and not self._is_client_gone:
            self._started()
        return self._let_go()

    def _let_go(self, but: int = 0) -> bytes:
        """Return what is held, except for the last `but` chunks."""
        count = len(self._held) - but
        ready, self._held = self._held[:count], self._held[count:]
        return b"".join(ready)

    def _drain(self) -> None:
        """Collect the rest of an answer that nobody reads. If that takes too long, the lease has to lapse."""
        self._is_client_gone = True
        ends = monotonic() + DRAIN_SECONDS
        while not self._is_settled:
            if self._capture.is_too_large or monotonic() >= ends:
                report.answer_cut_off(self._claim.storage_key)
                return
            if next(self._outgoing, _END) is _END:
                return

    # How it ends.

    def _settle_as_answered(self) -> None:
        self._settle(self._replies.verdict(self._capture, discarded=self._discard.close()))

    def _fail(self) -> None:
        if not self._is_settled:
            self._settle(Discarded() if self._discard.close() else Failed())

    def _stop(self) -> None:
        """Tell that the run was stopped before it ended: interrupted, or not drained in time. No I/O."""
        self._lifecycle.settle(self._claim, Stopped(), self._encoded)

    def _settle(self, ending: Ending) -> None:
        """Settle once. If the claim was lost and nothing is out yet, the answer is what the record says now."""
        self._is_settled = True
        # A beat that came after the settling would find no claim, and report it as lost.
        self._heartbeat.stop()
        sent = self._server_write is not None
        reply = self._lifecycle.settle(self._claim, ending, self._encoded, sent=sent)
        response = self._replies.instead(self._request, self._claim.operation, reply)
        if response is not None:
            self._replace(response)

    def _encoded(self, kept: Kept) -> bytes | None:
        return self._replies.encode(kept, self._capture)

    def _replace(self, response: Response) -> None:
        self._is_replaced = True
        self._status_line, self._headers = head_of(response)
        self._held = [response.body] if response.body else []

    def _started(self) -> Write:
        """Return the server's `write`. The server gets status and headers first, once."""
        if self._server_write is None:
            self._server_write = self._server_start(self._status_line, self._headers)
        return self._server_write
