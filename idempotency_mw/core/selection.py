"""JMESPath on plain data: an expression that is compiled and checked once, and searched often."""

from collections.abc import Iterator
from typing import Any, Self, cast

import jmespath
from jmespath.exceptions import UnknownFunctionError
from jmespath.functions import Functions
from jmespath.visitor import TreeInterpreter

from idempotency_mw.core.unpacking import NAMES, Unpacking
from idempotency_mw.errors import IdempotencyKeyError

__all__ = ["Selection"]


class Selection:
    """A compiled JMESPath expression with its options.

    The constructor raises jmespath's own error if the text is not an expression, or names a function that does not
    exist.
    """

    __slots__ = ("_functions", "_interpreter", "_options", "_parsed", "_unpacking")

    def __init__(self, expression: str, options: jmespath.Options | None = None) -> None:
        self._parsed = jmespath.compile(expression).parsed
        self._options = options
        # Made once: making one costs more than most searches, and it keeps no state between searches.
        self._interpreter = TreeInterpreter(options)
        self._functions = getattr(options, "custom_functions", None) or Functions()
        known = getattr(self._functions, "FUNCTION_TABLE", None)  # a user's own class may have none
        named = frozenset(_functions_in(self._parsed))
        self._unpacking = (named & NAMES).difference(known or ())  # a user's function of the same name wins
        for name in named - self._unpacking:
            if known is not None and name not in known:
                raise UnknownFunctionError(f"there is no function {name}()")

    @classmethod
    def of_option(cls, expression: str | None, options: jmespath.Options | None) -> Self | None:
        """Return the selection for an option, or None if the option is None."""
        return None if expression is None else cls(expression, options)

    def select(self, data: Any) -> Any:
        """Return what the expression selects from JSON data, or None if it selects nothing.

        Raises `IdempotencyKeyError` if the expression fails on this data.
        """
        try:
            return self._interpreter_of_one_search().visit(self._parsed, data)
        except Exception as error:  # noqa: BLE001 - custom functions raise what they like
            # The error's message quotes the value, so it is neither repeated nor chained.
            raise IdempotencyKeyError(
                f"the JMESPath expression fails on this payload: {type(error).__name__}"
            ) from None

    def _interpreter_of_one_search(self) -> TreeInterpreter:
        if not self._unpacking:
            return self._interpreter
        dict_class = getattr(self._options, "dict_cls", None)
        functions: Any = Unpacking(self._functions, self._unpacking)
        return TreeInterpreter(jmespath.Options(dict_cls=dict_class, custom_functions=functions))


def _functions_in(node: Any) -> Iterator[str]:
    """Yield the functions that a parsed expression names. jmespath itself looks for one only when it is called."""
    if not isinstance(node, dict):  # the bounds of a slice are nodes without a dict
        return
    parsed = cast("dict[str, Any]", node)
    if parsed["type"] == "function_expression":
        yield parsed["value"]
    for child in parsed["children"]:
        yield from _functions_in(child)
