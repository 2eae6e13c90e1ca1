"""Apps and servers that call each other in any order around the WSGI middleware: legally and illegally.

A program is drawn from a seed: the app's steps while it is called; the steps of its iterable; how the server
iterates and closes; which verbs of the store fail. The same must hold as for ASGI (see `asgi`).
"""

import io
from collections.abc import Callable
from typing import Any

from idempotency_mw import HTTPConfig, IdempotencyConfig
from idempotency_mw.http.message import Response
from idempotency_mw.testing import ManualClock
from idempotency_mw.wsgi import IdempotencyMiddleware
from proof.fuzz.programs import (
    LEASE_SECONDS,
    MAX_BODY,
    SLACK_SECONDS,
    AppError,
    AppStop,
    GoneError,
    ServerError,
    Surprise,
    Watched,
    check_duplicate,
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
    _check_duplicate(middleware, app, server, stored)


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


def _check_duplicate(middleware: IdempotencyMiddleware, app: App, first: Server, stored: Response | None) -> None:
    """Ask again, one lease later."""
    store, method = first.store, first.program.method
    store.fails = frozenset()
    frame, runs = store.frame(), app.runs
    plain = Program(-1, called=[("start", "200 OK", [], "none")], iterated=[("chunk", b"again")], method=method)
    app.use(plain)
    second = Server(plain, store)
    second.run(middleware, _environ(plain))
    check_duplicate(first, second, stored, frame, runs=app.runs - runs, is_head=method == "HEAD")
