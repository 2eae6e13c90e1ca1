"""Decorators that make functions safe to call again: `idempotent` for handlers, `idempotent_function` for any.

How they are written, for people and for type checkers. What a decorated function does is in `guard.py`, and
neither knows HTTP.
"""

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast, overload

from idempotency_mw.core.config import IdempotencyConfig
from idempotency_mw.errors import IdempotencyConfigurationError
from idempotency_mw.functions.guard import Guard
from idempotency_mw.functions.payloads import Arguments
from idempotency_mw.persistence.base import AsyncPersistenceLayer, PersistenceLayer
from idempotency_mw.serializers import OutputSerializer, serializer_for

__all__ = ["idempotent", "idempotent_function"]

P = ParamSpec("P")
R = TypeVar("R")
Store = PersistenceLayer | AsyncPersistenceLayer


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
            lambda bare: Guard(
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
            lambda bare: Guard(
                bare,
                Arguments(bare, payload=data_keyword_argument, only=True),
                persistence_store=persistence_store,
                config=config,
                key_prefix=key_prefix,
                serializer=serializer_for(bare, output_serializer),
            ),
        )

    return decorate if function is None else decorate(function)


def _decorated(function: Any, guarding: Callable[[Callable[..., Any]], Guard]) -> Any:
    if isinstance(function, classmethod | staticmethod):
        method = cast("Any", function)
        return type(method)(_decorated(method.__func__, guarding))
    if not callable(function):
        raise IdempotencyConfigurationError(f"only functions can be decorated, not {type(function).__name__}")
    bare = cast("Callable[..., Any]", function)
    return guarding(bare).wrapper()
