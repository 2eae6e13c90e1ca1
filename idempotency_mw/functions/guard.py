"""What a decorated function does with a call: find the key, claim it, and run or replay.

A guard is immutable. What depends on one call, its payload and the time that a Lambda invocation has left, is
passed along with the call.
"""

import functools
import logging
import os
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from inspect import isasyncgenfunction, isgeneratorfunction
from typing import Any

from idempotency_mw import report
from idempotency_mw.aws import lifetime
from idempotency_mw.core.config import IdempotencyConfig, check_type
from idempotency_mw.core.selection import Selection
from idempotency_mw.errors import IdempotencyConfigurationError, IdempotencyKeyError
from idempotency_mw.functions.arguments import Arguments
from idempotency_mw.functions.calls import KeyedCall, namespace_of, operation_of
from idempotency_mw.functions.plain import is_missing, plain_payload
from idempotency_mw.functions.run import run, run_async, runs_async
from idempotency_mw.functions.serializers import OutputSerializer
from idempotency_mw.lifecycle.claims import AsyncClaimLifecycle, ClaimLifecycle
from idempotency_mw.lifecycle.startup import announce
from idempotency_mw.lifecycle.waiting import RemainingSeconds
from idempotency_mw.persistence.adapted import Store, for_async, for_blocking

__all__ = ["AsyncGuard", "Guard", "Options", "guard_for"]

_remaining: ContextVar[RemainingSeconds | None] = ContextVar("idempotency_mw_remaining", default=None)
"""Returns the seconds that the Lambda invocation around this call has left."""


@dataclass(frozen=True, slots=True)
class Options:
    """The options of a decorator."""

    persistence_store: Store | None
    config: IdempotencyConfig | None
    key_prefix: str | None
    serializer: OutputSerializer | None = None


def guard_for(function: Callable[..., Any], arguments: Arguments, options: Options) -> "Guard | AsyncGuard":
    """Return the guard for a plain or an async function.

    Raises `IdempotencyConfigurationError` if an option is invalid, or if the function can't be protected.
    """
    return (AsyncGuard if _is_async(function) else Guard)(function, arguments, options)


class _Guard:
    """What both guards have in common: the way from a call's arguments to its key."""

    def __init__(self, function: Callable[..., Any], arguments: Arguments, options: Options) -> None:
        config = IdempotencyConfig() if options.config is None else options.config
        check_type("config", config, IdempotencyConfig)
        check_type("key_prefix", options.key_prefix, str | None)
        self._function = function
        self._arguments = arguments
        self._config = config
        self._name = options.key_prefix or _name(function)
        self._namespace = namespace_of(config, self._name)
        self._serializer = options.serializer
        self._event_key = Selection.of_option(config.event_key_jmespath, config.jmespath_options)
        self._validation = Selection.of_option(config.payload_validation_jmespath, config.jmespath_options)

    def _announce(self, options: Options) -> None:
        """Log one line at DEBUG.

        Not at INFO as a middleware does: functions are decorated by the dozen, when modules are imported. Nor is
        there a warning about a shared namespace: a function's module and name are part of its keys.
        """
        expression = self._config.event_key_jmespath
        key = "key is the payload" if expression is None else f"key in the payload at {expression}"
        announce(self._name, (key,), options.persistence_store, self._config, level=logging.DEBUG)

    def _prepared(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[KeyedCall | None, RemainingSeconds | None]:
        """Return the call, or None if it runs unprotected, and the time that it has."""
        if _is_disabled():
            report.protection_disabled(self._name)
            return None, None
        payload, context = self._arguments.bind(args, kwargs)
        plain = plain_payload(payload)
        key = self._key(plain)
        if key is None:
            return None, lifetime(context) or _remaining.get()
        operation = operation_of(self._namespace, key, self._validated(plain))
        return KeyedCall(operation, key, self._serializer), lifetime(context) or _remaining.get()

    def _key(self, payload: Any) -> Any:
        key = payload if self._event_key is None else plain_payload(self._event_key.select(payload))
        if not is_missing(key):
            return key
        if self._config.raise_on_no_idempotency_key:
            raise IdempotencyKeyError("the payload has no idempotency key")
        report.key_missing(self._name)
        return None

    def _validated(self, payload: Any) -> Any:
        return None if self._validation is None else plain_payload(self._validation.select(payload))


class Guard(_Guard):
    """For a plain function, over a blocking layer."""

    def __init__(self, function: Callable[..., Any], arguments: Arguments, options: Options) -> None:
        super().__init__(function, arguments, options)
        self._lifecycle = ClaimLifecycle(for_blocking(options.persistence_store, self._config), self._config)
        self._announce(options)

    def wrapper(self) -> Callable[..., Any]:
        """Return the decorated function."""

        def decorated(*args: Any, **kwargs: Any) -> Any:
            return self._call(args, kwargs)

        return functools.wraps(self._function)(decorated)

    def _call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        call, remaining = self._prepared(args, kwargs)
        function = functools.partial(self._function, *args, **kwargs)
        token = _remaining.set(remaining)
        try:
            if call is None:
                return function()
            lifecycle = self._lifecycle if remaining is None else self._lifecycle.within(remaining)
            return run(lifecycle, call, function)
        finally:
            _remaining.reset(token)


class AsyncGuard(_Guard):
    """For an async function, over an async layer, or a blocking one in threads."""

    def __init__(self, function: Callable[..., Any], arguments: Arguments, options: Options) -> None:
        super().__init__(function, arguments, options)
        self._lifecycle = AsyncClaimLifecycle(for_async(options.persistence_store, self._config), self._config)
        self._announce(options)

    def wrapper(self) -> Callable[..., Any]:
        """Return the decorated function."""

        async def decorated(*args: Any, **kwargs: Any) -> Any:
            return await self._call(args, kwargs)

        return functools.wraps(self._function)(decorated)

    async def _call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        call, remaining = self._prepared(args, kwargs)
        function = functools.partial(self._function, *args, **kwargs)
        token = _remaining.set(remaining)
        try:
            if call is None:
                return await function()
            if remaining is None:
                return await run_async(self._lifecycle, call, function)
            lifecycle = self._lifecycle.within(remaining)
            try:
                return await run_async(lifecycle, call, function)
            finally:
                await lifecycle.finish()
        finally:
            _remaining.reset(token)


def _is_disabled() -> bool:
    return os.environ.get("IDEMPOTENCY_DISABLED", "").lower() not in ("", "0", "false", "no", "off", "n", "f")


def _name(function: Any) -> str:
    name: str | None = getattr(function, "__qualname__", None)
    if name is None:
        raise IdempotencyConfigurationError("a callable without a name needs a key_prefix")
    return f"{function.__module__}.{name}"


def _is_async(function: Callable[..., Any]) -> bool:
    forms = (function, getattr(function, "__call__", None))  # noqa: B004 - the method of a callable object
    if any(isgeneratorfunction(form) or isasyncgenfunction(form) for form in forms):
        raise IdempotencyConfigurationError("a generator function returns before it runs: it can't be protected")
    return runs_async(function)
