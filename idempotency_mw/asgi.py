"""The middleware for ASGI apps on asyncio: FastAPI, Starlette, and whatever else speaks ASGI 3.

Pure ASGI. The constructor computes what can be computed; the middleware is immutable after that, and everything
of one request lives in a `_Conversation`, and in a `Run` once its app runs.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from inspect import isawaitable
from typing import Any, assert_never

from idempotency_mw.asgi_incoming import ClientGoneError, Incoming
from idempotency_mw.asgi_run import SCOPE_KEY, ASGIApp, Receive, Run, Scope, Send, send_response
from idempotency_mw.aws import lifetime, viewer_headers
from idempotency_mw.core.config import IdempotencyConfig
from idempotency_mw.core.machine import Execute, Reject, Replay, Unprotected
from idempotency_mw.errors import IdempotencyConfigurationError
from idempotency_mw.execution import Execution
from idempotency_mw.handler import AsyncIdempotencyHandler
from idempotency_mw.http.config import HTTPConfig
from idempotency_mw.http.exchange import Exchange, Keyed, Pass, Refuse, Wanted
from idempotency_mw.http.message import Request, grouped
from idempotency_mw.persistence.base import AsyncPersistenceLayer, PersistenceLayer
from idempotency_mw.persistence.local_cache import AsyncLocalCache
from idempotency_mw.persistence.threaded import as_async
from idempotency_mw.surface import Hook, Rules, check_layer
from idempotency_mw.waiting import Left

__all__ = ["IdempotencyMiddleware"]

Resolver = Callable[[Any], HTTPConfig | Awaitable[HTTPConfig | None] | None]
Ask = Callable[[Hook, Scope], Awaitable[object]]


class IdempotencyMiddleware:
    """Runs the app once per idempotency key, and replays its answer to every duplicate.

    `persistence_store` is an async layer, or a blocking one, which is run in threads. `http` is one
    configuration, or a callable that gets Starlette's `Request`, without a body, and returns the configuration of
    that request, or None to let it pass; it may be `async def`. Raises `IdempotencyConfigurationError` when an
    option can't be meant.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        persistence_store: AsyncPersistenceLayer | PersistenceLayer,
        config: IdempotencyConfig | None = None,
        http: HTTPConfig | Resolver | None = None,
    ) -> None:
        check_layer(persistence_store)
        self.app = app
        self._rules = Rules(config, http)
        self._handler = AsyncIdempotencyHandler(_layer(persistence_store, self._rules.config), self._rules.config)
        self._ask = _asking_with_starlette() if self._rules.ask_the_framework else None
        self._passing = self._rules.passing_methods
        self._sought = self._rules.sought_header
        self._sought_length = len(self._sought or b"")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection; what is not a protected request passes, untouched."""
        if (
            scope["type"] != "http"
            or scope["method"] in self._passing
            or self._is_unkeyed(scope["headers"])
            or isinstance(scope.get(SCOPE_KEY), Execution)  # mounted twice
            or (exchange := self._rules.exchange or await self._resolved(scope)) is None
            or not exchange.protects(scope["method"])
        ):
            await self.app(scope, receive, send)
            return
        if "aws.context" in scope:
            await self._serve_invocation(lifetime(scope["aws.context"]), exchange, scope, receive, send)
        else:
            await _Conversation(self.app, self._handler, exchange, self._ask).serve(scope, receive, send)

    async def _serve_invocation(
        self, left: Left | None, exchange: Exchange, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Serve a Lambda invocation: it is frozen when it is over, or killed when its time is."""
        handler = self._handler if left is None else self._handler.within(left)
        try:
            await _Conversation(self.app, handler, exchange, self._ask).serve(scope, receive, send)
        finally:
            await handler.finish()

    def _is_unkeyed(self, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        # A plain loop, the length first: half the instructions of any(), on each request of the app. Names come in
        # any case: Hypercorn hands them on as they were sent, with h11_pass_raw_headers.
        if self._sought is None:
            return False
        for name, _ in headers:  # noqa: SIM110
            if len(name) == self._sought_length and name.lower() == self._sought:
                return False
        return True

    async def _resolved(self, scope: Scope) -> Exchange | None:
        """Return the rules that the user names for this request."""
        assert self._rules.resolver is not None and self._ask is not None  # noqa: S101, PT018 - for the type checker
        return self._rules.resolved(await self._ask(self._rules.resolver, scope))


class _Conversation:
    """One request that may have a key, from its head to the decision about it."""

    def __init__(
        self, app: ASGIApp, handler: AsyncIdempotencyHandler, exchange: Exchange, ask: Ask | None
    ) -> None:
        self._app = app
        self._handler = handler
        self._exchange = exchange
        self._ask = ask

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request, or let it pass."""
        _check_asyncio()
        self._scope = scope
        self._incoming = Incoming(receive)
        self._send = send
        self._request = _request(scope, self._exchange.read_headers)
        wanted = self._exchange.head(self._request)
        match wanted:
            case Pass():
                await self._app(scope, receive, send)
            case Refuse(refusal):
                await send_response(self._send, self._exchange.replies.refusal(self._request, refusal))
            case Wanted():
                try:
                    await self._serve_wanted(wanted)
                except ClientGoneError:
                    return
                finally:
                    await self._incoming.close()
            case _:
                assert_never(wanted)

    async def _serve_wanted(self, wanted: Wanted) -> None:
        body = await self._incoming.body(self._exchange.http.max_request_body)
        if body is None:
            keyed: Pass | Refuse | Keyed = self._exchange.body_too_large()
            body = b""
        else:
            keyed = self._exchange.keyed(wanted, body)
        match keyed:
            case Pass():
                await self._pass(body)
            case Refuse(refusal):
                await send_response(self._send, self._exchange.replies.refusal(self._request, refusal))
            case Keyed():
                await self._serve_keyed(keyed, body)
            case _:
                assert_never(keyed)

    async def _serve_keyed(self, keyed: Keyed, body: bytes) -> None:
        caller = None if self._exchange.http.caller is None else await self._caller(self._exchange.http.caller)
        operation = self._exchange.operation(self._request, keyed, caller)
        if isinstance(operation, Refuse):
            await send_response(self._send, self._exchange.replies.refusal(self._request, operation.refusal))
            return
        waited = self._exchange.wait(self._request)
        if waited is not None:
            waited = int(self._handler.waitable(waited))
        decision = await self._handler.begin(operation, wait_seconds=waited, pause=self._incoming.pause)
        match decision:
            case Execute(_, attempt):
                execution = Execution(key=keyed.key, storage_key=operation.storage_key, attempt=attempt)
                run = Run(self._handler, self._exchange.replies, self._request, decision, execution)
                await run.serve(self._app, self._scope, body, self._incoming, self._send)
            case Unprotected():
                await self._pass(body)
            case Replay(record):
                stored = self._exchange.replies.replay(self._request, operation, record, waited=waited)
                await send_response(self._send, stored)
            case Reject():
                rejection = self._exchange.replies.rejection(self._request, decision, waited=waited)
                await send_response(self._send, rejection)
            case _:
                assert_never(decision)

    async def _pass(self, body: bytes) -> None:
        self._incoming.again(body)
        await self._app(self._scope, self._incoming, self._send)

    async def _caller(self, hook: Hook) -> object:
        assert self._ask is not None  # noqa: S101 - for the type checker
        return await self._ask(hook, self._scope)


def _request(scope: Scope, names: frozenset[bytes]) -> Request:
    """Return the request with its headers of these names."""
    path, root = scope["path"], scope.get("root_path", "")
    headers = ("aws.event" in scope and viewer_headers(scope["aws.event"])) or scope["headers"]
    # Servers differ: with some the path has the prefix of the mount, with others it does not.
    if root and path != root and not path.startswith(root.rstrip("/") + "/"):
        path = root.rstrip("/") + path
    return Request(
        method=scope["method"].upper(),
        path=path,
        query=scope.get("query_string", b""),
        lines=grouped(headers, names),
    )


def _layer(
    persistence_store: AsyncPersistenceLayer | PersistenceLayer, config: IdempotencyConfig
) -> AsyncPersistenceLayer:
    layer = as_async(persistence_store)
    return AsyncLocalCache(layer, config.local_cache_max_items) if config.use_local_cache else layer


def _check_asyncio() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        raise IdempotencyConfigurationError(
            "the middleware runs on asyncio only, and this is another loop"
        ) from None


def _asking_with_starlette() -> Ask:
    """Return what calls a hook, blocking or async, with the framework's own request."""
    try:
        from starlette.requests import Request as StarletteRequest
    except ImportError as error:
        raise IdempotencyConfigurationError(
            "caller and http as a callable get Starlette's request: pip install 'idempotency_mw[asgi]'"
        ) from error

    async def ask(hook: Hook, scope: Scope) -> object:
        answer = hook(StarletteRequest(scope))
        return await answer if isawaitable(answer) else answer

    return ask
