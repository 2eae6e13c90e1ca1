"""Storage key, fingerprint and JMESPath selection, on plain data.

Digests are SHA-256 over length-prefixed parts: no choice of delimiter lets `("a", "bc")` meet `("ab", "c")`.
"""

import json
from collections.abc import Iterable, Iterator
from hashlib import sha256
from typing import Any, cast

import jmespath
from jmespath.exceptions import UnknownFunctionError
from jmespath.functions import Functions
from jmespath.visitor import TreeInterpreter

from idempotency_mw.core.unpacking import NAMES, Unpacking
from idempotency_mw.errors import IdempotencyKeyError

__all__ = ["Selection", "canonical", "digest", "joined", "text"]


LARGE = 16_384
"""From this length on, hashing a part by itself costs less than copying it."""


_CANONICAL = json.JSONEncoder(allow_nan=False, sort_keys=True, separators=(",", ":"))


_LENGTHS = [b"%d:" % length for length in range(256)]
"""Of most parts. To write a number into bytes takes longer than to hash them."""


def digest(parts: Iterable[bytes], *, behind: bytes = b"") -> str:
    """Return 64 hexadecimal digits that are equal only for equal sequences of parts.

    `behind`: the first ones, joined once for all sequences that begin with them.
    """
    pieces = [behind]
    hashed = None
    for part in parts:
        length = len(part)
        pieces.append(_LENGTHS[length] if length < 256 else b"%d:" % length)
        if length < LARGE:
            pieces.append(part)
        else:
            hashed = hashed or sha256()
            hashed.update(b"".join(pieces))
            hashed.update(part)
            pieces.clear()
    if hashed is None:
        return sha256(b"".join(pieces)).hexdigest()
    hashed.update(b"".join(pieces))
    return hashed.hexdigest()


def joined(parts: Iterable[bytes]) -> bytes:
    """Return bytes that are equal only for equal sequences of parts, and begin no others."""
    return b"".join([b"%d:%b" % (len(part), part) for part in parts])


def text(value: str) -> bytes:
    """Return the bytes of any text, a lone surrogate included."""
    return value.encode("utf-8", "surrogatepass")


def canonical(data: Any) -> bytes:
    """Return the same bytes for equal JSON data, whatever the order of its members.

    Raises `IdempotencyKeyError` for what is not JSON data, or is nested too deeply. A number over the range of
    floats was read as infinity, which is no JSON either: it would be equal to every other such number.
    """
    try:
        return _CANONICAL.encode(data).encode("ascii")
    except (TypeError, ValueError, RecursionError) as error:
        raise IdempotencyKeyError(f"the payload has no canonical form: {type(error).__name__}") from None


class Selection:
    """A compiled JMESPath expression with its options.

    Raises jmespath's own error when built from something that is not an expression, or names a function that
    there is not, and `IdempotencyKeyError` when it fails on the data that it is given.
    """

    __slots__ = ("_functions", "_interpreter", "_options", "_parsed", "_unpacking")

    def __init__(self, expression: str, options: jmespath.Options | None = None) -> None:
        self._parsed = jmespath.compile(expression).parsed
        self._options = options
        # To make one costs more than most searches; it has no state but what it knows of its own methods.
        self._interpreter = TreeInterpreter(options)
        self._functions = getattr(options, "custom_functions", None) or Functions()
        known = getattr(self._functions, "FUNCTION_TABLE", None)  # what has none only jmespath can ask
        named = frozenset(_functions_in(self._parsed))
        self._unpacking = (named & NAMES).difference(known or ())  # the user's own function of a name comes first
        for name in named - self._unpacking:
            if known is not None and name not in known:
                raise UnknownFunctionError(f"there is no function {name}()")

    def of(self, data: Any) -> Any:
        """Return what the expression selects from JSON data; None where it selects nothing."""
        try:
            return self._interpreter_of_one_search().visit(self._parsed, data)
        except Exception as error:  # noqa: BLE001 - custom functions raise what they like
            # The error's message holds the value that it choked on: it is neither repeated nor chained to.
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
    """Yield the functions that a parsed expression names: jmespath asks for one only when it is called."""
    if not isinstance(node, dict):  # the bounds of a slice are nodes without a dict
        return
    parsed = cast("dict[str, Any]", node)
    if parsed["type"] == "function_expression":
        yield parsed["value"]
    for child in parsed["children"]:
        yield from _functions_in(child)
