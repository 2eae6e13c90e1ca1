"""The middleware for ASGI apps on asyncio: FastAPI, Starlette, and whatever else speaks ASGI 3.

Pure ASGI. The constructor computes in advance what it can, and the middleware is immutable after that. The
state of one request lives in a `_Conversation`, and in a `Run` once its app runs.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from inspect import isawaitable
from typing import Any, assert_never

from idempotency_mw.asgi.incoming import ClientGoneError, Incoming, request_of, without_headers
from idempotency_mw.asgi.outgoing import messages
from idempotency_mw.asgi.run import SCOPE_KEY, Run
from idempotency_mw.asgi.types import ASGIApp, Receive, Scope, Send
from idempotency_mw.aws import lifetime
from idempotency_mw.core.config import IdempotencyConfig
from idempotency_mw.core.machine import Execute, Reject, Replay, Unprotected
from idempotency_mw.core.record import Operation
from idempotency_mw.errors import IdempotencyConfigurationError
from idempotency_mw.execution import Execution
from idempotency_mw.http.config import HTTPConfig
from idempotency_mw.http.exchange import Exchange, Keyed, Pass, Refuse, Wanted
from idempotency_mw.http.message import Response
from idempotency_mw.http.rules import Hook, Rules
from idempotency_mw.http.startup import announce_surface
from idempotency_mw.lifecycle.claims import AsyncClaimLifecycle
from idempotency_mw.lifecycle.waiting import RemainingSeconds
from idempotency_mw.persistence.adapted import Store, for_async

__all__ = ["IdempotencyMiddleware"]

Resolver = Callable[[Any], HTTPConfig | Awaitable[HTTPConfig | None] | None]
Ask = Callable[[Hook, Scope], Awaitable[object]]


class IdempotencyMiddleware:
    """Runs the app once per idempotency key, and replays its answer to every duplicate.

    `persistence_store` is an async layer, or a blocking one, which is run in threads. `http` is one
    configuration, or a callable (plain or async) that takes Starlette's `Request`, without a body, and returns the
    configuration for that request, or None to let it pass. Raises `IdempotencyConfigurationError` if an option is
    invalid.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        persistence_store: Store,
        config: IdempotencyConfig | None = None,
        http: HTTPConfig | Resolver | None = None,
    ) -> None:
        self.app = app
        self._rules = Rules(config, http)
        layer = for_async(persistence_store, self._rules.config)
        self._lifecycle = AsyncClaimLifecycle(layer, self._rules.config)
        self._ask = _asking_with_starlette() if self._rules.ask_the_framework else None
        self._passing = self._rules.passing_methods
        self._sought = self._rules.sought_header
        self._sought_length = len(self._sought or b"")
        announce_surface("ASGI middleware", self._rules, persistence_store)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection. Anything but a protected request passes to the app, untouched."""
        if (
            scope["type"] != "http"
            or scope["method"] in self._passing
            or self._is_unkeyed(scope["headers"])
            or (SCOPE_KEY in scope and isinstance(scope[SCOPE_KEY], Execution))  # mounted twice
            or (exchange := self._rules.exchange or await self._resolved(scope)) is None
            or not exchange.protects(scope["method"])
        ):
            await self.app(scope, receive, send)
            return
        if "aws.context" in scope:
            await self._serve_invocation(lifetime(scope["aws.context"]), exchange, scope, receive, send)
        else:
            await _Conversation(self.app, self._lifecycle, exchange, self._ask).serve(scope, receive, send)

    async def _serve_invocation(
        self,
        remaining: RemainingSeconds | None,
        exchange: Exchange,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        """Serve a Lambda invocation. Its process is frozen after the call, or killed when its time is over."""
        lifecycle = self._lifecycle if remaining is None else self._lifecycle.within(remaining)
        try:
            await _Conversation(self.app, lifecycle, exchange, self._ask).serve(scope, receive, send)
        finally:
            await lifecycle.finish()

    def _is_unkeyed(self, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        # A plain loop that compares the length first takes half the instructions of any(), on every request of the
        # app. Names come in any case: with h11_pass_raw_headers, Hypercorn passes them as they were sent.
        sought, length = self._sought, self._sought_length
        if sought is None:
            return False
        for name, _ in headers:  # noqa: SIM110
            if len(name) == length and name.lower() == sought:
                return False
        return True

    async def _resolved(self, scope: Scope) -> Exchange | None:
        """Return the exchange for the configuration that the user's resolver returns for this request."""
        assert self._rules.resolver is not None and self._ask is not None  # noqa: S101, PT018 - for the type checker
        return self._rules.resolved(await self._ask(self._rules.resolver, scope))


class _Conversation:
    """One request that may have a key, from its head to the decision about it.

    Slots and few attributes keep little of it alive while it waits for the store: Python's garbage collector
    visits every live object again and again, and with 1,000 requests in flight that shows.
    """

    __slots__ = (
        *("_app", "_ask", "_exchange", "_lifecycle"),
        *("_body", "_incoming", "_key", "_request", "_scope", "_send", "_waited"),
    )

    def __init__(self, app: ASGIApp, lifecycle: AsyncClaimLifecycle, exchange: Exchange, ask: Ask | None) -> None:
        self._app = app
        self._lifecycle = lifecycle
        self._exchange = exchange
        self._ask = ask
        self._key = ""
        self._body: bytes | None = None
        self._waited: int | None = None

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request, or let it pass."""
        _check_asyncio()
        self._scope = scope
        self._incoming = Incoming(receive)
        self._send = send
        self._request = request_of(scope, self._exchange.read_headers)
        try:
            operation = await self._operation()
            if operation is not None:
                decision = await self._lifecycle.begin(
                    operation, wait_seconds=self._waited, pause=self._incoming.pause
                )
                if isinstance(decision, Execute):
                    await self._run(decision)
                else:
                    await self._follow(decision, operation)
        except ClientGoneError:
            return
        finally:
            if self._incoming.is_listening:
                await self._incoming.close()

    async def _operation(self) -> Operation | None:
        """Return the operation, or None if the request was refused or has passed to the app."""
        keyed = await self._keyed()
        match keyed:
            case Keyed():
                hook = self._exchange.http.caller
                caller = None if hook is None else await self._caller(hook)
                operation = self._exchange.operation(self._request, keyed, caller)
                if isinstance(operation, Operation):
                    self._prepare(keyed.key)
                    return operation
                await self._answer(self._exchange.replies.refusal(self._request, operation.refusal))
            case Pass():
                await self._pass()
            case Refuse():
                await self._answer(self._exchange.replies.refusal(self._request, keyed.refusal))
            case _:
                assert_never(keyed)
        return None

    async def _keyed(self) -> Pass | Refuse | Keyed:
        wanted = self._exchange.head(self._request)
        if not isinstance(wanted, Wanted):
            return wanted
        body = await self._incoming.body(self._exchange.http.max_request_body)
        if body is None:
            return self._exchange.body_too_large()
        self._body = body
        return self._exchange.keyed(wanted, body)

    def _prepare(self, key: str) -> None:
        self._key = key
        waited = self._exchange.wait(self._request)
        self._waited = None if waited is None else int(self._lifecycle.waitable(waited))
        self._request = without_headers(self._request.method)

    def _run(self, decision: Execute) -> Awaitable[None]:
        run = Run(self._lifecycle, self._exchange.replies, self._request, decision, self._key)
        return run.serve(self._app, self._scope, self._body or b"", self._incoming, self._send)

    async def _follow(self, decision: Replay | Reject | Unprotected, operation: Operation) -> None:
        replies = self._exchange.replies
        match decision:
            case Replay():
                stored = replies.replay(self._request, operation, decision.record, waited=self._waited)
                await self._answer(stored)
            case Reject():
                await self._answer(replies.rejection(self._request, decision, waited=self._waited))
            case Unprotected():
                await self._pass()
            case _:
                assert_never(decision)

    async def _answer(self, response: Response) -> None:
        for message in messages(response):
            await self._send(message)

    async def _pass(self) -> None:
        if self._body is not None:
            self._incoming.again(self._body)
        await self._app(self._scope, self._incoming, self._send)

    async def _caller(self, hook: Hook) -> object:
        assert self._ask is not None  # noqa: S101 - for the type checker
        return await self._ask(hook, self._scope)


def _check_asyncio() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        raise IdempotencyConfigurationError(
            "the middleware runs on asyncio only, and this is another loop"
        ) from None


def _asking_with_starlette() -> Ask:
    """Return a function that calls a hook, plain or async, with Starlette's request."""
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
