"""Decorators that make functions safe to call again: `idempotent` for handlers, `idempotent_function` for any.

Nothing here knows HTTP. What depends on one call, its payload and the time that a Lambda has left, is passed
along with it: a decorated function has no state but its handler, which never changes.
"""

import functools
import os
from collections.abc import Callable
from contextvars import ContextVar
from inspect import isasyncgenfunction, iscoroutinefunction, isgeneratorfunction
from typing import Any, ParamSpec, TypeVar, cast, overload

from idempotency_mw import report
from idempotency_mw.aws import lifetime
from idempotency_mw.calls import Call
from idempotency_mw.core.config import IdempotencyConfig, check_type
from idempotency_mw.core.identity import Selection
from idempotency_mw.core.plain import is_missing, plain_payload
from idempotency_mw.errors import IdempotencyConfigurationError, IdempotencyKeyError
from idempotency_mw.handler import AsyncIdempotencyHandler, IdempotencyHandler
from idempotency_mw.payloads import Arguments
from idempotency_mw.persistence.base import AsyncPersistenceLayer, PersistenceLayer, verbs_of
from idempotency_mw.persistence.base import is_async as is_async_layer
from idempotency_mw.persistence.local_cache import AsyncLocalCache, LocalCache
from idempotency_mw.persistence.threaded import as_async
from idempotency_mw.serializers import OutputSerializer, serializer_for

__all__ = ["idempotent", "idempotent_function"]

P = ParamSpec("P")
R = TypeVar("R")
Left = Callable[[], float]
Store = PersistenceLayer | AsyncPersistenceLayer

_left: ContextVar[Left | None] = ContextVar("idempotency_mw_left", default=None)
"""What tells the seconds that the Lambda invocation around this call has left."""


@overload
def idempotent(
    function: Callable[P, R],
    /,
    *,
    persistence_store: Store,
    config: IdempotencyConfig | None = None,
    key_prefix: str | None = None,
) -> Callable[P, R]: ...


@overload
def idempotent(
    *, persistence_store: Store, config: IdempotencyConfig | None = None, key_prefix: str | None = None
) -> Callable[[Callable[P, R]], Callable[P, R]]: ...


def idempotent(
    function: Callable[..., Any] | None = None,
    /,
    *,
    persistence_store: Store | None = None,
    config: IdempotencyConfig | None = None,
    key_prefix: str | None = None,
) -> Any:
    """Make a handler `(event, context)` run once for each event; plain or async.

    On Lambda the lease is the time that the context has left, for the functions called inside too.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        return _decorated(
            function,
            lambda bare: _Guard(
                bare,
                Arguments(bare),
                persistence_store=persistence_store,
                config=config,
                key_prefix=key_prefix,
            ),
        )

    return decorate if function is None else decorate(function)


@overload
def idempotent_function(
    function: Callable[P, R],
    /,
    *,
    data_keyword_argument: str | None = None,
    persistence_store: Store,
    config: IdempotencyConfig | None = None,
    output_serializer: OutputSerializer | type[OutputSerializer] | None = None,
    key_prefix: str | None = None,
) -> Callable[P, R]: ...


@overload
def idempotent_function(
    *,
    data_keyword_argument: str | None = None,
    persistence_store: Store,
    config: IdempotencyConfig | None = None,
    output_serializer: OutputSerializer | type[OutputSerializer] | None = None,
    key_prefix: str | None = None,
) -> Callable[[Callable[P, R]], Callable[P, R]]: ...


def idempotent_function(  # noqa: PLR0913 - they are pinned, and given by keyword
    function: Callable[..., Any] | None = None,
    /,
    *,
    data_keyword_argument: str | None = None,
    persistence_store: Store | None = None,
    config: IdempotencyConfig | None = None,
    output_serializer: OutputSerializer | type[OutputSerializer] | None = None,
    key_prefix: str | None = None,
) -> Any:
    """Make a function run once for each payload, and return the first result to every duplicate; plain or async.

    The payload is the named argument, given by keyword or position; a function with one argument need not name it.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        return _decorated(
            function,
            lambda bare: _Guard(
                bare,
                Arguments(bare, payload=data_keyword_argument, only=True),
                persistence_store=persistence_store,
                config=config,
                key_prefix=key_prefix,
                serializer=serializer_for(bare, output_serializer),
            ),
        )

    return decorate if function is None else decorate(function)


def _decorated(function: Any, guarding: Callable[[Callable[..., Any]], "_Guard"]) -> Any:
    if isinstance(function, classmethod | staticmethod):
        method = cast("Any", function)
        return type(method)(_decorated(method.__func__, guarding))
    if not callable(function):
        raise IdempotencyConfigurationError(f"only functions can be decorated, not {type(function).__name__}")
    bare = cast("Callable[..., Any]", function)
    return guarding(bare).wrapper()


class _Guard:
    """What stands between the callers of one function and the function."""

    def __init__(  # noqa: PLR0913 - the options of a decorator
        self,
        function: Callable[..., Any],
        arguments: Arguments,
        *,
        persistence_store: Store | None,
        config: IdempotencyConfig | None,
        key_prefix: str | None,
        serializer: OutputSerializer | None = None,
    ) -> None:
        self._function = function
        self._arguments = arguments
        self._config = IdempotencyConfig() if config is None else config
        check_type("config", self._config, IdempotencyConfig)
        check_type("key_prefix", key_prefix, str | None)
        self._name = key_prefix or _name(function)
        self._serializer = serializer
        self._event_key = _selection(self._config.event_key_jmespath, self._config)
        self._validation = _selection(self._config.payload_validation_jmespath, self._config)
        self._is_async = _runs_async(function)
        self._handler: Any = _handler(_checked(persistence_store), self._config, is_async=self._is_async)

    def wrapper(self) -> Callable[..., Any]:
        """Return the decorated function."""

        def blocking(*args: Any, **kwargs: Any) -> Any:
            return self._call(args, kwargs)

        async def asynchronous(*args: Any, **kwargs: Any) -> Any:
            return await self._call_async(args, kwargs)

        return functools.wraps(self._function)(asynchronous if self._is_async else blocking)

    def _call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        call, left = self._prepared(args, kwargs)
        function = functools.partial(self._function, *args, **kwargs)
        token = _left.set(left)
        try:
            if call is None:
                return function()
            handler: IdempotencyHandler = self._handler
            return (handler if left is None else handler.within(left)).handle(call, function)
        finally:
            _left.reset(token)

    async def _call_async(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        call, left = self._prepared(args, kwargs)
        function = functools.partial(self._function, *args, **kwargs)
        token = _left.set(left)
        try:
            if call is None:
                return await function()
            handler: AsyncIdempotencyHandler = self._handler
            if left is None:
                return await handler.handle(call, function)
            return await self._call_within(handler.within(left), call, function)
        finally:
            _left.reset(token)

    async def _call_within(self, handler: AsyncIdempotencyHandler, call: Call, function: Any) -> Any:
        try:
            return await handler.handle(call, function)
        finally:
            await handler.finish()

    def _prepared(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Call | None, Left | None]:
        """Return the call, None where it is to run unprotected, and what tells how long this process may live."""
        if _is_disabled():
            report.protection_disabled(self._name)
            return None, None
        payload, context = self._arguments.of(args, kwargs)
        call = self._keyed(plain_payload(payload))
        return call, lifetime(context) or _left.get()

    def _keyed(self, payload: Any) -> Call | None:
        key = payload if self._event_key is None else self._event_key.of(payload)
        if not is_missing(key):
            validated = None if self._validation is None else self._validation.of(payload)
            return Call(key, self._name, validated, self._serializer)
        if self._config.raise_on_no_idempotency_key:
            raise IdempotencyKeyError("the payload has no idempotency key")
        report.key_missing(self._name)
        return None


def _is_disabled() -> bool:
    return os.environ.get("IDEMPOTENCY_DISABLED", "").lower() not in ("", "0", "false", "no", "off", "n", "f")


def _name(function: Any) -> str:
    name: str | None = getattr(function, "__qualname__", None)
    if name is None:
        raise IdempotencyConfigurationError("a callable without a name needs a key_prefix")
    return f"{function.__module__}.{name}"


def _selection(expression: str | None, config: IdempotencyConfig) -> Selection | None:
    return None if expression is None else Selection(expression, config.jmespath_options)


def _runs_async(function: Callable[..., Any]) -> bool:
    forms = (function, getattr(function, "__call__", None))  # noqa: B004 - of a callable object, its method
    if any(isgeneratorfunction(form) or isasyncgenfunction(form) for form in forms):
        raise IdempotencyConfigurationError("a generator function returns before it runs: it can't be protected")
    return any(iscoroutinefunction(form) for form in forms)


def _checked(persistence_store: Any) -> Store:
    if not all(callable(verb) for verb in verbs_of(persistence_store)):
        raise IdempotencyConfigurationError(
            f"persistence_store must be a persistence layer, not {type(persistence_store).__name__}"
        )
    return cast("Store", persistence_store)


def _handler(
    store: Store, config: IdempotencyConfig, *, is_async: bool
) -> IdempotencyHandler | AsyncIdempotencyHandler:
    if is_async:
        layer = as_async(store)
        cached = AsyncLocalCache(layer, config.local_cache_max_items) if config.use_local_cache else layer
        return AsyncIdempotencyHandler(cached, config)
    blocking = _blocking(store)
    cached_blocking = LocalCache(blocking, config.local_cache_max_items) if config.use_local_cache else blocking
    return IdempotencyHandler(cached_blocking, config)


def _blocking(store: Store) -> PersistenceLayer:
    if is_async_layer(store):
        raise IdempotencyConfigurationError("persistence_store is async: a plain function needs a blocking layer")
    return cast("PersistenceLayer", store)
