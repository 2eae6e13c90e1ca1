"""What stands between the callers of one function and the function: key, name, handler, and the way of a call.

What depends on one call, its payload and the time that a Lambda has left, is passed along with it: a guard has no
state but its handler, which never changes. Nothing here knows HTTP.
"""

import functools
import os
from collections.abc import Callable
from contextvars import ContextVar
from inspect import isasyncgenfunction, isgeneratorfunction
from typing import Any, cast

from idempotency_mw import report
from idempotency_mw.aws import lifetime
from idempotency_mw.calls import protected, protected_async, runs_async
from idempotency_mw.core.config import IdempotencyConfig, check_type
from idempotency_mw.core.identity import Selection
from idempotency_mw.core.plain import is_missing, plain_payload
from idempotency_mw.core.record import Operation
from idempotency_mw.errors import IdempotencyConfigurationError, IdempotencyKeyError
from idempotency_mw.functions.payloads import Arguments
from idempotency_mw.handler import AsyncIdempotencyHandler, IdempotencyHandler
from idempotency_mw.operations import namespace_of, operation_of
from idempotency_mw.persistence.base import AsyncPersistenceLayer, PersistenceLayer, verbs_of
from idempotency_mw.persistence.base import is_async as is_async_layer
from idempotency_mw.persistence.local_cache import AsyncLocalCache, LocalCache
from idempotency_mw.persistence.threaded import as_async
from idempotency_mw.serializers import OutputSerializer
from idempotency_mw.waiting import Left

__all__ = ["Guard"]

Store = PersistenceLayer | AsyncPersistenceLayer

_left: ContextVar[Left | None] = ContextVar("idempotency_mw_left", default=None)
"""What tells the seconds that the Lambda invocation around this call has left."""


class Guard:
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
        self._namespace = namespace_of(self._config, self._name)
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
        operation, key, left = self._prepared(args, kwargs)
        function = functools.partial(self._function, *args, **kwargs)
        token = _left.set(left)
        try:
            if operation is None:
                return function()
            handler: IdempotencyHandler = self._handler if left is None else self._handler.within(left)
            return protected(handler, operation, key, self._serializer, function)
        finally:
            _left.reset(token)

    async def _call_async(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        operation, key, left = self._prepared(args, kwargs)
        function = functools.partial(self._function, *args, **kwargs)
        token = _left.set(left)
        try:
            if operation is None:
                return await function()
            handler: AsyncIdempotencyHandler = self._handler if left is None else self._handler.within(left)
            try:
                return await protected_async(handler, operation, key, self._serializer, function)
            finally:
                if left is not None:
                    await handler.finish()
        finally:
            _left.reset(token)

    def _prepared(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Operation | None, Any, Left | None]:
        """Return the operation, None for a call that runs unprotected, its key, and how long it may take."""
        if _is_disabled():
            report.protection_disabled(self._name)
            return None, None, None
        payload, context = self._arguments.of(args, kwargs)
        plain = plain_payload(payload)
        key = self._key(plain)
        operation = None if key is None else operation_of(self._namespace, key, self._validated(plain))
        return operation, key, lifetime(context) or _left.get()

    def _key(self, payload: Any) -> Any:
        key = payload if self._event_key is None else plain_payload(self._event_key.of(payload))
        if not is_missing(key):
            return key
        if self._config.raise_on_no_idempotency_key:
            raise IdempotencyKeyError("the payload has no idempotency key")
        report.key_missing(self._name)
        return None

    def _validated(self, payload: Any) -> Any:
        return None if self._validation is None else plain_payload(self._validation.of(payload))


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
    return runs_async(function)


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
