"""One run of a WSGI app under a claim, as the iterable that the server gets.

Nothing that would let a client see a whole response goes out before its record is completed:

    the chunk that reaches the Content-Length, or the only one of a list
        settle, then hand it out
    any other chunk of an answer without a declared length
        hold it until the next one is there, so that it is known not to be the last; at the end settle, then hand
        out the last

So chunk i is out before chunk i + 2 is asked for. Empty chunks are not handed out: servers send the headers on the
first of them, and a client would see an answer begin that may yet be replaced. This departs from the block rule of
PEP 3333, which has every chunk out before the next one is asked for.

A server that stops early and closes has lost its client. The rest is drained then, within bounds, so that the retry
finds a whole answer.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from time import monotonic
from types import TracebackType
from typing import Any, Self

from idempotency_mw.core.machine import Deliver, Ending, Execute, Failed, Replay
from idempotency_mw.execution import Execution, executing
from idempotency_mw.handler import IdempotencyHandler
from idempotency_mw.http.exchange import Exchange
from idempotency_mw.http.message import Headers, Request, Response

__all__ = ["ENVIRON_KEY", "Environ", "Run", "StartResponse", "WSGIApp", "respond"]

Environ = dict[str, Any]
Write = Callable[[bytes], object]
StartResponse = Callable[..., Write]
WSGIApp = Callable[[Environ, StartResponse], Iterable[bytes]]
ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]

ENVIRON_KEY = "idempotency_mw.execution"
DRAIN_SECONDS = 5.0


class Run:
    """One run. `begin` it once, then it is the iterable for the server."""

    def __init__(
        self,
        handler: IdempotencyHandler,
        exchange: Exchange,
        request: Request,
        decision: Execute,
        execution: Execution,
        start_response: StartResponse,
    ) -> None:
        self._handler = handler
        self._exchange = exchange
        self._request = request
        self._claim = decision.claim
        self._execution = execution
        self._server_start = start_response
        self._heartbeat = handler.heartbeat(decision.claim)
        self._capture = exchange.capture(request)
        self._status_line = ""
        self._headers: list[tuple[str, str]] = []
        self._iterable: Iterable[bytes] = ()
        self._chunks: Iterator[bytes] = iter(())
        self._is_only = False  # the app gave a list of one
        self._held: bytes | None = None
        self._ready: deque[bytes] = deque()
        self._server_write: Write | None = None  # set once the server was given status and headers
        self._is_settled = False
        self._is_replaced = False  # the client gets another answer than the app's
        self._is_over = False  # the app ended, well or badly
        self._is_closed = False
        self._is_client_gone = False

    def begin(self, app: WSGIApp, environ: Environ) -> Self:
        """Call the app. What it raises is raised, settled."""
        self._heartbeat.start()
        with self._step():
            self._iterable = app(environ, self._start_response)
            self._is_only = isinstance(self._iterable, list | tuple) and len(self._iterable) == 1
            self._chunks = iter(self._iterable)
        return self

    # What the app calls.

    def _start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: ExcInfo | None = None
    ) -> Write:
        if exc_info is not None:
            try:
                if not self._capture.is_empty:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None  # else the traceback and this frame hold each other
        elif self._capture.is_started:
            raise AssertionError("start_response was called again without exc_info")
        lines = tuple((name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers)
        self._capture.start(int(status[:3]), lines)
        self._status_line = status
        self._headers = [line for line in headers if line[0].lower() != self._exchange.http.replay_header.lower()]
        return self._write

    def _write(self, chunk: bytes) -> None:
        """Take a chunk in the older way: what is ready goes out before this returns."""
        self._take(chunk)
        while self._ready:
            self._put(self._ready.popleft())

    def _put(self, chunk: bytes) -> None:
        if self._is_client_gone:
            return
        try:
            self._started()(chunk)
        except OSError:
            self._is_client_gone = True

    # What the server calls.

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        while not self._ready:
            if self._is_over:
                self._started()
                raise StopIteration
            self._advance()
        self._started()
        return self._ready.popleft()

    def close(self) -> None:
        """End, early if the server says so; the app's own `close` is called once."""
        if self._is_closed:
            return
        self._is_closed = True
        try:
            self._drain()
        finally:
            self._heartbeat.stop()
            self._is_over = True
            close: Callable[[], object] | None = getattr(self._iterable, "close", None)
            if close is not None:
                with executing(self._execution):
                    close()

    # How it goes on.

    @contextmanager
    def _step(self) -> Generator[None]:
        """Run some of the app; settle what it fails with, and leave alone what interrupts it."""
        try:
            with executing(self._execution):
                yield
        except Exception:
            self._is_over = True
            if not self._is_settled:
                self._settle(Failed())
            raise
        except BaseException:
            # Interrupted: what the app started may still go on.
            self._is_over = True
            self._heartbeat.stop()
            raise

    def _advance(self) -> None:
        with self._step():
            chunk = next(self._chunks, None)
            if chunk is None:
                self._end()
            else:
                self._take(chunk)

    def _take(self, chunk: bytes) -> None:
        if not self._capture.is_started:
            raise AssertionError("a chunk came before start_response was called")
        self._capture.add(chunk)
        if not chunk or self._is_replaced:
            return
        if self._is_only:
            self._capture.finish()
        if not self._is_settled and self._capture.is_whole:
            self._settle_whole()
        if self._is_replaced:
            return
        self._let_go()
        if self._is_settled or self._capture.has_length:
            self._ready.append(chunk)
        else:
            self._held = chunk

    def _let_go(self) -> None:
        if self._held is not None:
            self._ready.append(self._held)
            self._held = None

    def _end(self) -> None:
        self._is_over = True
        self._capture.finish()
        if not self._is_settled:
            self._settle_whole()
        if not self._is_replaced:
            self._let_go()

    def _drain(self) -> None:
        """Take the rest of an answer that nobody reads any more; if that takes too long, the lease has to lapse."""
        ends = monotonic() + DRAIN_SECONDS
        while not self._is_over and not self._capture.is_too_large and monotonic() < ends:
            self._advance()
            self._ready.clear()

    # How it ends.

    def _settle_whole(self) -> None:
        self._settle(self._exchange.verdict(self._capture, discarded=self._execution.discarded))

    def _settle(self, ending: Ending) -> None:
        """Settle once; where the claim was lost and nothing is out yet, answer as the record says now."""
        self._is_settled = True
        self._execution.close()
        reply = self._handler.settle(
            self._claim,
            ending,
            lambda kept: self._exchange.encode(kept, self._capture),
            sent=self._server_write is not None,
        )
        self._heartbeat.stop()
        if isinstance(reply, Deliver):
            return
        self._is_replaced = True
        self._ready.clear()
        self._held = None
        if isinstance(reply, Replay):
            self._replace(self._exchange.replay(self._request, reply.record))
        else:
            self._replace(self._exchange.rejection(self._request, reply))

    def _replace(self, response: Response) -> None:
        self._status_line = _status_line(response.status)
        self._headers = _header_list(response.headers)
        if response.body:
            self._ready.append(response.body)

    def _started(self) -> Write:
        """Return the server's `write`, having given it status and headers."""
        if self._server_write is None:
            self._server_write = self._server_start(self._status_line, self._headers)
        return self._server_write


def respond(response: Response, start_response: StartResponse) -> list[bytes]:
    """Return a whole response, as the iterable for the server."""
    start_response(_status_line(response.status), _header_list(response.headers))
    return [response.body]


def _status_line(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return f"{status} Unknown"


def _header_list(headers: Headers) -> list[tuple[str, str]]:
    return [(name.decode("latin-1").title(), value.decode("latin-1")) for name, value in headers]
