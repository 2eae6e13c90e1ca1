"""One run of a WSGI app under a claim, as the iterable that the server gets.

Nothing that would let a client see a whole response goes out before its record is completed:

    the chunk that reaches the Content-Length
        settle, then hand it out
    a chunk of an answer without a declared length
        hold it until the next one is there, so that it is known not to be the last; at the end settle, then hand
        out the last

So chunk i is out before chunk i + 2 is asked for. The server learns of status and headers with the first chunk
that is not empty: on an empty one it would send them, and an answer that may yet be replaced would have begun.
This departs from the block rule of PEP 3333, which has every chunk out before the next one is asked for.

A server that stops early and closes has lost its client. The rest is drained then, so that the retry finds a whole
answer: up to `max_response_body`, and for so long as is checked between two chunks.
"""

from collections.abc import Callable, Generator, Iterable
from time import monotonic
from typing import Any, Self

from idempotency_mw import report
from idempotency_mw.core.machine import Discarded, Ending, Execute, Failed
from idempotency_mw.execution import Executing, Execution
from idempotency_mw.handler import IdempotencyHandler
from idempotency_mw.http.message import Request, Response
from idempotency_mw.http.replies import Replies
from idempotency_mw.wsgi.values import (
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

_END = object()


class Run:
    """One run. `begin` it once, then it is the iterable for the server."""

    def __init__(
        self,
        handler: IdempotencyHandler,
        replies: Replies,
        request: Request,
        decision: Execute,
        execution: Execution,
    ) -> None:
        self._handler = handler
        self._replies = replies
        self._request = request
        self._claim = decision.claim
        self._execution = execution
        self._server_write: Write | None = None  # set once the server was given status and headers
        self._heartbeat = handler.heartbeat(decision.claim)
        self._capture = replies.capture(request)
        self._status_line = ""
        self._headers: HeaderList = []
        self._iterable: Iterable[bytes] = ()
        self._held: list[bytes] = []  # goes out before anything else does
        self._is_settled = False
        self._is_replaced = False  # the client gets another answer than the app's
        self._is_closed = False
        self._is_client_gone = False

    def begin(self, app: WSGIApp, environ: Environ, start_response: StartResponse) -> Self:
        """Call the app. What it raises is raised, settled."""
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
        """End, early if the server says so; the app's own `close` is called once."""
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
        error = exc_info[1] if exc_info else None  # of a triple of None, where none is being handled
        try:
            if error is not None and not self._capture.is_empty:
                raise error
            if error is None and self._capture.is_started:
                raise AssertionError("start_response was called again without exc_info")
        finally:
            exc_info = error = None  # else the traceback and this frame hold each other
        self._capture.start(int(status[:3]), lines_of(headers))
        self._status_line = status
        self._headers = [line for line in headers if line[0].lower() != self._replies.replay_header]
        return self._write

    def _write(self, chunk: bytes) -> None:
        """Take a chunk in the older way: what may go out is out when this returns."""
        ready = self._take(chunk)
        if not ready or self._is_client_gone:
            return
        try:
            self._started()(ready)
        except OSError:
            self._is_client_gone = True  # not the app's business

    # How it runs.

    def _run(self, app: WSGIApp, environ: Environ) -> Generator[bytes]:
        """Yield what goes out after each step of the app, its call and then each chunk; that may be nothing."""
        try:
            self._heartbeat.start()
            self._iterable = app(environ, self._start_response)
            yield b""
            yield from self._answer()
        except Exception:
            self._fail()
            if self._is_replaced:
                # What a late owner's client gets instead. The call of the app was a step too.
                yield b""
                yield self._last()
            raise
        finally:
            # Interrupted, the claim is left as it is: what the app started may still go on.
            self._heartbeat.stop()

    def _answer(self) -> Generator[bytes]:
        for chunk in self._iterable:
            yield self._take(chunk)
        self._capture.finish()
        if not self._is_settled:
            self._settle_as_answered()
        yield self._last()

    def _take(self, chunk: Any) -> bytes:
        """Take some of the app's answer, and return what may go out now."""
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
        """Return what is left; the server learns of status and headers even if that is nothing."""
        if self._status_line and not self._is_client_gone:
            self._started()
        return self._let_go()

    def _let_go(self, but: int = 0) -> bytes:
        """Return what is held, but so many of the last chunks."""
        count = len(self._held) - but
        ready, self._held = self._held[:count], self._held[count:]
        return b"".join(ready)

    def _drain(self) -> None:
        """Have the rest of an answer that nobody reads; if that takes too long, the lease has to lapse."""
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
        self._settle(self._replies.verdict(self._capture, discarded=self._execution.discarded))

    def _fail(self) -> None:
        if not self._is_settled:
            self._settle(Discarded() if self._execution.discarded else Failed())

    def _settle(self, ending: Ending) -> None:
        """Settle once; where the claim was lost and nothing is out yet, answer as the record says now."""
        self._is_settled = True
        self._execution.close()
        # A beat that came after the settling would find no claim, and report it as lost.
        self._heartbeat.stop()
        reply = self._handler.settle(
            self._claim,
            ending,
            lambda kept: self._replies.encode(kept, self._capture),
            sent=self._server_write is not None,
        )
        response = self._replies.instead(self._request, self._claim.operation, reply)
        if response is not None:
            self._replace(response)

    def _replace(self, response: Response) -> None:
        self._is_replaced = True
        self._status_line, self._headers = head_of(response)
        self._held = [response.body] if response.body else []

    def _started(self) -> Write:
        """Return the server's `write`, having given it status and headers."""
        if self._server_write is None:
            self._server_write = self._server_start(self._status_line, self._headers)
        return self._server_write
