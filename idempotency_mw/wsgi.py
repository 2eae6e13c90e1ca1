"""The middleware for WSGI apps: Flask, Django, Werkzeug, and whatever else follows PEP 3333.

The constructor computes what can be computed; the middleware is immutable after that, and everything of one request
that runs lives in its `Run`.
"""

import io
from collections.abc import Callable, Iterable
from typing import Any, assert_never

from idempotency_mw.core.config import IdempotencyConfig
from idempotency_mw.core.machine import Execute, Reject, Replay, Unprotected
from idempotency_mw.errors import IdempotencyConfigurationError
from idempotency_mw.execution import Execution
from idempotency_mw.handler import IdempotencyHandler
from idempotency_mw.http.config import HTTPConfig
from idempotency_mw.http.exchange import Exchange, Keyed, Pass, Refuse, Wanted
from idempotency_mw.http.message import Headers, Request, Response
from idempotency_mw.persistence.base import PersistenceLayer, is_async
from idempotency_mw.persistence.local_cache import LocalCache
from idempotency_mw.surface import Hook, Rules, check_layer
from idempotency_mw.wsgi_run import ENVIRON_KEY, Environ, Run, StartResponse, WSGIApp, respond

__all__ = ["IdempotencyMiddleware"]

Resolver = Callable[[Any], HTTPConfig | None]
Ask = Callable[[Hook, Environ], object]


class IdempotencyMiddleware:
    """Runs the app once per idempotency key, and replays its answer to every duplicate.

        app.wsgi_app = IdempotencyMiddleware(app.wsgi_app, persistence_store=...)

    `persistence_store` is a blocking layer. `http` is one configuration, or a callable that gets Werkzeug's
    `Request`, without a body, and returns the configuration of that request, or None to let it pass. Raises
    `IdempotencyConfigurationError` when an option can't be meant.
    """

    def __init__(
        self,
        app: WSGIApp,
        *,
        persistence_store: PersistenceLayer,
        config: IdempotencyConfig | None = None,
        http: HTTPConfig | Resolver | None = None,
    ) -> None:
        check_layer(persistence_store)
        if is_async(persistence_store):
            raise IdempotencyConfigurationError("persistence_store is async, and WSGI takes a blocking layer")
        self.app = app
        self._rules = Rules(config, http)
        self._handler = IdempotencyHandler(_layer(persistence_store, self._rules.config), self._rules.config)
        self._ask = _asking_with_werkzeug() if self._rules.ask_the_framework else None

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request; what is not protected passes, untouched."""
        if ENVIRON_KEY in environ:
            return self.app(environ, start_response)
        exchange = self._rules.exchange
        if self._rules.resolver is not None and self._ask is not None:
            exchange = self._rules.resolved(self._ask(self._rules.resolver, environ))
        if exchange is None or not exchange.concerns(environ["REQUEST_METHOD"], _names(environ)):
            return self.app(environ, start_response)
        return _Conversation(self.app, self._handler, exchange, self._ask).serve(environ, start_response)


class _Conversation:
    """One request that may have a key, from its head to the decision about it."""

    def __init__(self, app: WSGIApp, handler: IdempotencyHandler, exchange: Exchange, ask: Ask | None) -> None:
        self._app = app
        self._handler = handler
        self._exchange = exchange
        self._ask = ask

    def serve(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer the request, or let it pass."""
        self._environ = environ
        self._start_response = start_response
        self._request = _request(environ)
        wanted = self._exchange.head(self._request)
        match wanted:
            case Pass():
                return self._app(environ, start_response)
            case Refuse(refusal):
                return self._answer(self._exchange.refusal(self._request, refusal))
            case Wanted():
                return self._serve_wanted(wanted)
            case _:
                assert_never(wanted)

    def _serve_wanted(self, wanted: Wanted) -> Iterable[bytes]:
        body = _read(self._environ, self._exchange.http.max_request_body)
        if isinstance(body, _Incomplete):
            keyed: Pass | Refuse | Keyed = self._exchange.body_cut_short()
            body = b""
        elif body is None:
            keyed, body = self._exchange.body_too_large(), b""
        else:
            keyed = self._exchange.keyed(self._request, wanted, body)
        match keyed:
            case Pass():
                return self._app(_giving(self._environ, body), self._start_response)
            case Refuse(refusal):
                return self._answer(self._exchange.refusal(self._request, refusal))
            case Keyed():
                return self._serve_keyed(keyed, body)
            case _:
                assert_never(keyed)

    def _serve_keyed(self, keyed: Keyed, body: bytes) -> Iterable[bytes]:
        caller = self._exchange.http.caller
        who = self._ask(caller, self._environ) if caller is not None and self._ask is not None else None
        operation = self._exchange.operation(self._request, keyed, who)
        if isinstance(operation, Refuse):
            return self._answer(self._exchange.refusal(self._request, operation.refusal))
        waited = self._exchange.wait(self._request)
        decision = self._handler.begin(operation, wait_seconds=waited)
        match decision:
            case Execute(_, attempt):
                execution = Execution(key=keyed.key, storage_key=operation.storage_key, attempt=attempt)
                run = Run(self._handler, self._exchange, self._request, decision, execution, self._start_response)
                return run.begin(self._app, _giving(self._environ, body) | {ENVIRON_KEY: execution})
            case Unprotected():
                return self._app(_giving(self._environ, body), self._start_response)
            case Replay(record):
                return self._answer(self._exchange.replay(self._request, record, waited=waited))
            case Reject():
                return self._answer(self._exchange.rejection(self._request, decision, waited=waited))
            case _:
                assert_never(decision)

    def _answer(self, response: Response) -> Iterable[bytes]:
        return respond(response, self._start_response)


class _Incomplete:
    """The body ended before its declared length."""


def _read(environ: Environ, limit: int) -> bytes | _Incomplete | None:
    """Return the whole body, or None where it exceeds the limit.

    Without a length there is no body, unless the server says that its input ends by itself: a read would wait
    for bytes that never come.
    """
    stream = environ["wsgi.input"]
    declared = environ.get("CONTENT_LENGTH") or ""
    if declared.isdigit():
        length = int(declared)
        if length > limit:
            return None
        body = _read_up_to(stream, length)
        return body if len(body) == length else _Incomplete()
    if not environ.get("wsgi.input_terminated"):
        return b""
    body = _read_up_to(stream, limit + 1)
    return None if len(body) > limit else body


def _read_up_to(stream: Any, length: int) -> bytes:
    chunks: list[bytes] = []
    while length > 0:
        chunk: bytes = stream.read(min(length, 65536))
        if not chunk:
            break
        chunks.append(chunk)
        length -= len(chunk)
    return b"".join(chunks)


def _giving(environ: Environ, body: bytes) -> Environ:
    """Return an environ of its own for the app, with a body that was read already."""
    return environ | {
        "wsgi.input": io.BytesIO(body),
        "wsgi.input_terminated": True,
        "CONTENT_LENGTH": str(len(body)),
    }


def _names(environ: Environ) -> Iterable[tuple[bytes, bytes]]:
    """Yield the names of the request's own headers."""
    return (
        (key[5:].replace("_", "-").lower().encode("latin-1"), b"") for key in environ if key.startswith("HTTP_")
    )


def _request(environ: Environ) -> Request:
    path: str = environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")
    query: str = environ.get("QUERY_STRING", "")
    return Request(
        method=environ["REQUEST_METHOD"].upper(),
        # PEP 3333 gives bytes as Latin-1; ASGI servers decode the same path as UTF-8.
        path=path.encode("latin-1").decode("utf-8", "replace"),
        query=query.encode("latin-1"),
        headers=_headers(environ),
    )


def _headers(environ: Environ) -> Headers:
    headers = [
        (key[5:].replace("_", "-").lower().encode("latin-1"), value.encode("latin-1"))
        for key, value in environ.items()
        if key.startswith("HTTP_") and key not in ("HTTP_CONTENT_TYPE", "HTTP_CONTENT_LENGTH")
    ]
    headers += [
        (name, environ[key].encode("latin-1"))
        for key, name in (("CONTENT_TYPE", b"content-type"), ("CONTENT_LENGTH", b"content-length"))
        if environ.get(key)
    ]
    return tuple(headers)


def _layer(persistence_store: PersistenceLayer, config: IdempotencyConfig) -> PersistenceLayer:
    return (
        LocalCache(persistence_store, config.local_cache_max_items)
        if config.use_local_cache
        else persistence_store
    )


def _asking_with_werkzeug() -> Ask:
    """Return what calls a hook with the framework's own request."""
    try:
        from werkzeug.wrappers import Request as WerkzeugRequest
    except ImportError as error:
        raise IdempotencyConfigurationError(
            "caller and http as a callable get Werkzeug's request: pip install 'idempotency_mw[wsgi]'"
        ) from error

    def ask(hook: Hook, environ: Environ) -> object:
        # A copy, because Werkzeug leaves its request in the environ that it is given; and no body to read.
        return hook(WerkzeugRequest(environ | {"wsgi.input": io.BytesIO()}))

    return ask
