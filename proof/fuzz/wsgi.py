"""Apps and servers that call each other in any order around the WSGI middleware: legally and illegally.

A program is drawn from a seed: the app's steps while it is called; the steps of its iterable; how the server
iterates and closes; which verbs of the store fail. The same must hold as for ASGI (see `asgi`).
"""

import io
from collections.abc import Callable
from typing import Any

from idempotency_mw import HTTPConfig, IdempotencyConfig
from idempotency_mw.core.record import Status
from idempotency_mw.http.message import Response
from idempotency_mw.testing import ManualClock
from idempotency_mw.wsgi import IdempotencyMiddleware
from proof.fuzz.programs import (
    BODILESS,
    FAILED,
    LEASE_SECONDS,
    MAX_BODY,
    SLACK_SECONDS,
    AppError,
    AppStop,
    GoneError,
    ServerError,
    Surprise,
    Watched,
    check_record,
)
from proof.fuzz.wsgi_drawn import Program
from proof.fuzz.wsgi_parties import App, Server

__all__ = ["Program", "run_program"]


def run_program(program: Program) -> None:
    """Run one program; raise `Surprise` if a rule is broken."""
    clock = ManualClock()
    store = Watched(clock, program.fails)
    app = App(program)
    server = Server(program, store)
    middleware = IdempotencyMiddleware(
        _Taken(app, store),
        persistence_store=store,
        # Without a heartbeat: its thread would use real time.
        config=IdempotencyConfig(lease_seconds=LEASE_SECONDS, on_error=program.on_error, heartbeat=False),  # type: ignore[arg-type]
        http=HTTPConfig(methods=("POST", "HEAD"), max_response_body=MAX_BODY),
    )
    _check_outcome(program, lambda: server.run(middleware, _environ(program)))
    if app.closed > 1:
        raise Surprise("the app's iterable was closed twice")
    stored = check_record(store, app.whole, stores_errors=program.on_error == "store")
    clock.advance(LEASE_SECONDS + SLACK_SECONDS)
    _check_duplicate(program, store, app, middleware, stored, server)


class _Taken:
    """Lets another owner take the key over when the app is called."""

    def __init__(self, app: App, store: Watched) -> None:
        self._app = app
        self._store = store

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        if self._app.program.is_taken_over:
            self._store.lapse()
        return self._app(environ, start_response)


def _environ(program: Program) -> dict[str, Any]:
    return {
        "REQUEST_METHOD": program.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": "/pay",
        "QUERY_STRING": "",
        "CONTENT_TYPE": "application/json",
        "CONTENT_LENGTH": "2",
        "HTTP_IDEMPOTENCY_KEY": "k",
        "wsgi.input": io.BytesIO(b"{}"),
    }


_OURS = ("start_response was called again without exc_info", "a chunk came before start_response was called")


def _check_outcome(program: Program, call: Callable[[], None]) -> None:
    try:
        call()
    except (AppError, AppStop, ServerError, GoneError, GeneratorExit):
        return
    except AssertionError as error:
        if str(error) not in _OURS:
            raise Surprise(f"AssertionError: {error}") from error
    except (TypeError, ValueError, RuntimeError) as error:
        if not program.is_malformed:
            raise Surprise(f"{type(error).__name__}: {error}") from error


def _check_duplicate(  # noqa: PLR0917
    program: Program,
    store: Watched,
    app: App,
    middleware: IdempotencyMiddleware,
    stored: Response | None,
    first: Server,
) -> None:
    """Ask again after one lease: the stored bytes, or a second run; never word that somebody still runs."""
    store.fails = frozenset()
    frame = store.frame()
    was_taken_over = frame is not None and frame.token == "f" * 32
    runs = app.runs
    quiet = Program(-1, called=[("start", "200 OK", [], "none")], iterated=[("chunk", b"again")])
    quiet.method = program.method
    app.use(quiet)
    second = Server(quiet, store)
    second.run(middleware, _environ(quiet))
    if not second.is_ended:
        raise Surprise("the duplicate got no answer")
    if stored is not None:
        is_bodiless = program.method == "HEAD" or stored.status in BODILESS
        expected = b"" if is_bodiless else stored.body
        if app.runs != runs or (second.status, second.body) != (stored.status, expected):
            raise Surprise("the duplicate did not get what is stored")
        is_own = FAILED not in stored.body
        if (
            is_own
            and first.is_ended
            and not was_taken_over
            and first.status == stored.status
            and first.body != expected
        ):
            raise Surprise(f"the first client got {first.body!r}, the second {second.body!r}")
    elif frame is not None and frame.status is Status.NOT_KEPT:
        if second.status != 409 or app.runs != runs:
            raise Surprise("a tombstone was no tombstone")
    elif app.runs != runs + 1:
        raise Surprise("the free key did not run")
