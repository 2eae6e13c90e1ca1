"""Which argument of a function is the payload, and which is the context, passed by keyword or by position."""

from collections.abc import Callable
from inspect import Parameter, signature
from typing import Any

from idempotency_mw.errors import IdempotencyConfigurationError

__all__ = ["Arguments"]


class Arguments:
    """Finds payload and context among the arguments of one function.

    `payload` names the argument that is the payload; without a name it is the first one. With `only=True` the
    function may have no other argument unless `payload` is named, and there is no context. Otherwise the second
    argument is the context. `self` and `cls` do not count.
    """

    def __init__(self, function: Callable[..., Any], *, payload: str | None = None, only: bool = False) -> None:
        self._signature = signature(function)
        parameters = self._signature.parameters
        keywords = [each.name for each in parameters.values() if each.kind is Parameter.VAR_KEYWORD]
        self._keywords = keywords[0] if keywords else None
        named = [each for each in parameters if each not in ("self", "cls")]
        if payload is None:
            _check_unnamed(named, only=only)
        elif payload not in parameters and self._keywords is None:
            raise IdempotencyConfigurationError(f"data_keyword_argument: there is no argument {payload!r}")
        self._payload = named[0] if payload is None else payload
        self._context = named[1] if len(named) > 1 and not only else None
        is_simple = all(each.kind is Parameter.POSITIONAL_OR_KEYWORD for each in parameters.values())
        self._simple = tuple(parameters) if is_simple else None
        self._names = frozenset(parameters)

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        """Return payload and context of one call. Raises `TypeError` where the call itself would."""
        arguments = self._bound(args, kwargs)
        context = None if self._context is None else arguments[self._context]
        if self._payload in arguments:
            return arguments[self._payload], context
        return arguments[self._keywords or ""].get(self._payload), context

    def _bound(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments by name.

        Fast path: `signature.bind` is slow, and not needed if every argument is passed, all in the same way.
        """
        if self._simple is not None:
            if not args and kwargs.keys() == self._names:
                return kwargs
            if not kwargs and len(args) == len(self._simple):
                return dict(zip(self._simple, args, strict=True))
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return bound.arguments


def _check_unnamed(named: list[str], *, only: bool) -> None:
    if not named:
        raise IdempotencyConfigurationError("the function takes no argument that could be a payload")
    if only and len(named) > 1:
        raise IdempotencyConfigurationError("data_keyword_argument must name the argument that is the payload")
