"""The middleware for WSGI apps: Flask, Django, Werkzeug, and whatever else follows PEP 3333.

The constructor computes in advance what it can, and the middleware is immutable after that. The state of one
request lives in a `_Conversation`, and in a `Run` once its app runs.
"""

import io
from collections.abc import Callable, Iterable
from inspect import iscoroutinefunction
from typing import Any, assert_never

from idempotency_mw.aws import lifetime
from idempotency_mw.core.config import IdempotencyConfig
from idempotency_mw.core.machine import Execute, Reject, Replay, Unprotected
from idempotency_mw.errors import IdempotencyConfigurationError
from idempotency_mw.execution import Execution
from idempotency_mw.http.config import HTTPConfig
from idempotency_mw.http.exchange import Exchange, Keyed, Pass, Refuse, Wanted
from idempotency_mw.http.message import Response, meta_variable
from idempotency_mw.http.problem import Refusal
from idempotency_mw.http.rules import Hook, Rules
from idempotency_mw.http.startup import announce_surface
from idempotency_mw.lifecycle.claims import ClaimLifecycle
from idempotency_mw.persistence.adapted import for_blocking
from idempotency_mw.persistence.base import PersistenceLayer
from idempotency_mw.wsgi.pep3333 import Environ, StartResponse, WSGIApp, request_of, respond, with_body
from idempotency_mw.wsgi.run import ENVIRON_KEY, Run

__all__ = ["IdempotencyMiddleware"]

Resolver = Callable[[Any], HTTPConfig | None]
Ask = Callable[[Hook, Environ], object]

# Where the adapters for Lambda put the invocation's context: serverless-wsgi, apig-wsgi, awsgi.
_LAMBDA_CONTEXTS = ("serverless.context", "apig_wsgi.context", "awsgi.context")


class IdempotencyMiddleware:
    """Runs the app once per idempotency key, and replays its answer to every duplicate.

        app.wsgi_app = IdempotencyMiddleware(app.wsgi_app, persistence_store=...)

    Put authentication outside of it, or replays go out unauthenticated. One thread in each process extends the
    leases; uWSGI needs `enable-threads` for it.

    `persistence_store` is a blocking layer. `http` is one configuration, or a callable that takes Werkzeug's
    `Request`, without a body, and returns the configuration for that request, or None to let it pass. Raises
    `IdempotencyConfigurationError` if an option is invalid.
    """

    def __init__(
        self,
        app: WSGIApp,
        *,
        persistence_store: PersistenceLayer,
        config: IdempotencyConfig | None = None,
        http: HTTPConfig | Resolver | None = None,
    ) -> None:
        self.app = app
        self._rules = Rules(config, http)
        layer = for_blocking(persistence_store, self._rules.config)
        self._lifecycle = ClaimLifecycle(layer, self._rules.config)
        self._ask = _asking_with_werkzeug() if self._rules.ask_the_framework else None
        sought = self._rules.sought_header
        self._sought = None if sought is None else meta_variable(sought)
        announce_surface("WSGI middleware", self._rules, persistence_store)

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request. One that is not protected passes to the app, untouched."""
        is_unkeyed = self._sought is not None and self._sought not in environ
        if is_unkeyed or (exchange := self._exchange_for(environ)) is None:
            return self.app(environ, start_response)
        lifecycle = self._lifecycle_for(environ)
        return _Conversation(self.app, lifecycle, exchange, self._ask).serve(environ, start_response)

    def _exchange_for(self, environ: Environ) -> Exchange | None:
        """Return the exchange for a request that may be protected, else None."""
        if ENVIRON_KEY in environ and isinstance(environ[ENVIRON_KEY], Execution):
            return None  # mounted twice
        exchange = self._rules.exchange
        if self._rules.resolver is not None and self._ask is not None:
            exchange = self._rules.resolved(self._ask(self._rules.resolver, environ))
        return exchange if exchange is not None and exchange.protects(environ["REQUEST_METHOD"]) else None

    def _lifecycle_for(self, environ: Environ) -> ClaimLifecycle:
        """Return the lifecycle; in a Lambda invocation, one whose leases end with the invocation."""
        for name in _LAMBDA_CONTEXTS:
            if name in environ and (remaining := lifetime(environ[name])) is not None:
                return self._lifecycle.within(remaining)
        return self._lifecycle


class _Conversation:
    """One request that may have a key, from its head to the decision about it."""

    def __init__(self, app: WSGIApp, lifecycle: ClaimLifecycle, exchange: Exchange, ask: Ask | None) -> None:
        self._app = app
        self._lifecycle = lifecycle
        self._exchange = exchange
        self._ask = ask

    def serve(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer the request, or let it pass."""
        self._environ = environ
        self._start_response = start_response
        self._request = request_of(environ, self._exchange.read_variables)
        wanted = self._exchange.head(self._request)
        match wanted:
            case Wanted():
                return self._serve_wanted(wanted)
            case Pass():
                return self._app(environ, start_response)
            case Refuse(refusal):
                return self._refuse(refusal)
            case _:
                assert_never(wanted)

    def _serve_wanted(self, wanted: Wanted) -> Iterable[bytes]:
        body = self._body(wanted.content_length)
        if isinstance(body, Refuse):
            return self._refuse(body.refusal)
        keyed = self._exchange.keyed(wanted, body)
        match keyed:
            case Keyed():
                return self._serve_keyed(keyed, body)
            case Pass():
                return self._app(with_body(self._environ, body), self._start_response)
            case Refuse(refusal):
                return self._refuse(refusal)
            case _:
                assert_never(keyed)

    def _serve_keyed(self, keyed: Keyed, body: bytes) -> Iterable[bytes]:
        operation = self._exchange.operation(self._request, keyed, self._caller())
        if isinstance(operation, Refuse):
            return self._refuse(operation.refusal)
        waited = self._exchange.wait(self._request)
        decision = self._lifecycle.begin(operation, wait_seconds=waited)
        match decision:
            case Execute():
                return self._run(decision, keyed, body)
            case Replay():
                replay = self._exchange.replies.replay(self._request, operation, decision.record, waited=waited)
                return self._answer(replay)
            case Reject():
                return self._answer(self._exchange.replies.rejection(self._request, decision, waited=waited))
            case Unprotected():
                return self._app(with_body(self._environ, body), self._start_response)
            case _:
                assert_never(decision)

    def _run(self, decision: Execute, keyed: Keyed, body: bytes) -> Run:
        run = Run(self._lifecycle, self._exchange.replies, self._request, decision, keyed.key)
        return run.begin(self._app, with_body(self._environ, body), self._start_response)

    def _body(self, length: int | None) -> bytes | Refuse:
        """Return the whole body.

        Without a length the body is empty, unless the server says that its input ends by itself
        (`wsgi.input_terminated`): a read would wait for bytes that never come.
        """
        stream = self._environ["wsgi.input"]
        if self._environ.get("CONTENT_LENGTH"):
            body = _read(stream, length or 0)
            return body if len(body) == length else self._exchange.body_cut_short()
        if not self._environ.get("wsgi.input_terminated"):
            return b""
        limit = self._exchange.http.max_request_body
        body = _read(stream, limit + 1)
        return body if len(body) <= limit else self._exchange.body_too_large()

    def _caller(self) -> object:
        caller = self._exchange.http.caller
        return None if caller is None or self._ask is None else self._ask(caller, self._environ)

    def _refuse(self, refusal: Refusal) -> Iterable[bytes]:
        return self._answer(self._exchange.replies.refusal(self._request, refusal))

    def _answer(self, response: Response) -> Iterable[bytes]:
        return respond(response, self._start_response)


def _read(stream: Any, length: int) -> bytes:
    """Return `length` bytes, or fewer if the stream ends first."""
    chunks: list[bytes] = []
    while length > 0:
        chunk: bytes = stream.read(length)
        if not chunk:
            break
        chunks.append(chunk)
        length -= len(chunk)
    return b"".join(chunks)


def _asking_with_werkzeug() -> Ask:
    """Return a function that calls a hook with Werkzeug's request."""
    try:
        from werkzeug.wrappers import Request as WerkzeugRequest
    except ImportError as error:
        raise IdempotencyConfigurationError(
            "caller and http as a callable get Werkzeug's request: pip install 'idempotency_mw[wsgi]'"
        ) from error

    def ask(hook: Hook, environ: Environ) -> object:
        if iscoroutinefunction(hook):
            raise IdempotencyConfigurationError(f"{hook!r} is async, and WSGI calls plain hooks only")
        # A copy, because Werkzeug puts its request into the environ that it gets; and without a body to read.
        return hook(WerkzeugRequest(environ | {"wsgi.input": io.BytesIO(), "wsgi.input_terminated": True}))

    return ask
