"""The decorators: `idempotent` for handlers `(event, context)`, `idempotent_function` for any function.

This module is their signatures, for people and for type checkers. `guard.py` is what a decorated function does.
"""

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast, overload

from idempotency_mw.core.config import IdempotencyConfig
from idempotency_mw.errors import IdempotencyConfigurationError
from idempotency_mw.functions.arguments import Arguments
from idempotency_mw.functions.guard import AsyncGuard, Guard, Options, guard_for
from idempotency_mw.functions.serializers import OutputSerializer, serializer_for
from idempotency_mw.persistence.adapted import Store

__all__ = ["idempotent", "idempotent_function"]

P = ParamSpec("P")
R = TypeVar("R")


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
    """Make a handler `(event, context)`, plain or async, run once for each event.

    On Lambda the lease is the time that the context has left, also for protected functions that it calls. Raises
    `IdempotencyConfigurationError` at decoration if an option is invalid.
    """

    def guard(bare: Callable[..., Any]) -> Guard | AsyncGuard:
        return guard_for(bare, Arguments(bare), Options(persistence_store, config, key_prefix))

    def decorate(function: Callable[..., Any]) -> Any:
        return _decorated(function, guard)

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


def idempotent_function(  # noqa: PLR0913 - the options are pinned, and passed by keyword
    function: Callable[..., Any] | None = None,
    /,
    *,
    data_keyword_argument: str | None = None,
    persistence_store: Store | None = None,
    config: IdempotencyConfig | None = None,
    output_serializer: OutputSerializer | type[OutputSerializer] | None = None,
    key_prefix: str | None = None,
) -> Any:
    """Make a function, plain or async, run once for each payload; every duplicate gets the first result.

    The payload is the argument that `data_keyword_argument` names, passed by keyword or by position. A function
    with one argument need not name it. Raises `IdempotencyConfigurationError` at decoration if an option is
    invalid.
    """

    def guard(bare: Callable[..., Any]) -> Guard | AsyncGuard:
        arguments = Arguments(bare, payload=data_keyword_argument, only=True)
        serializer = serializer_for(bare, output_serializer)
        return guard_for(bare, arguments, Options(persistence_store, config, key_prefix, serializer))

    def decorate(function: Callable[..., Any]) -> Any:
        return _decorated(function, guard)

    return decorate if function is None else decorate(function)


def _decorated(function: Any, guard: Callable[[Callable[..., Any]], Guard | AsyncGuard]) -> Any:
    if isinstance(function, classmethod | staticmethod):
        method = cast("Any", function)
        return type(method)(_decorated(method.__func__, guard))
    if not callable(function):
        raise IdempotencyConfigurationError(f"only functions can be decorated, not {type(function).__name__}")
    bare = cast("Callable[..., Any]", function)
    return guard(bare).wrapper()
