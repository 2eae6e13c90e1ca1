"""JMESPath functions that unpack text: embedded JSON, base64, and gzip in base64.

Each has two names: `json(body)` and `powertools_json(body)` are the same. The bytes that one search may unpack
from gzip are bounded in total, because a few bytes of gzip can stand for gigabytes.
"""

import io
import json
from base64 import b64decode
from collections.abc import Callable
from gzip import GzipFile
from typing import Any

from jmespath.exceptions import JMESPathTypeError

from idempotency_mw.core.members import distinct

__all__ = ["MAX_UNPACKED_BYTES", "NAMES", "Unpacking"]

MAX_UNPACKED_BYTES = 10 * 1024 * 1024
"""What one search may unpack from gzip: as much as a request's body may have by default (`max_request_body`)."""


class Unpacking:
    """The functions for one search, as jmespath calls them. All other names go to `others`."""

    def __init__(self, others: Any, own: frozenset[str], budget: int = MAX_UNPACKED_BYTES) -> None:
        self._others = others
        self._own = own
        self._left = budget

    def call_function(self, name: str, arguments: list[Any]) -> Any:
        """Call the named function, as jmespath does."""
        if name not in self._own:
            return self._others.call_function(name, arguments)
        return _FUNCTIONS[name.removeprefix(_PREFIX)](self, _text(name, arguments))

    def as_json(self, text: str) -> Any:
        """Return the JSON data that a text holds."""
        return json.loads(text, object_pairs_hook=distinct)

    def from_base64(self, text: str) -> str:
        """Return the text that base64 stands for."""
        return b64decode(text, validate=True).decode()

    def from_base64_gzip(self, text: str) -> str:
        """Return the text that gzip in base64 stands for."""
        with GzipFile(fileobj=io.BytesIO(b64decode(text, validate=True))) as file:
            unpacked = file.read(self._left + 1)
        if len(unpacked) > self._left:
            raise ValueError("more to unpack than is allowed")
        self._left -= len(unpacked)
        return unpacked.decode()


_PREFIX = "powertools_"

_FUNCTIONS: dict[str, Callable[[Unpacking, str], Any]] = {
    "json": Unpacking.as_json,
    "base64": Unpacking.from_base64,
    "base64_gzip": Unpacking.from_base64_gzip,
}

NAMES = frozenset(_FUNCTIONS) | {_PREFIX + name for name in _FUNCTIONS}


def _text(name: str, arguments: list[Any]) -> str:
    if len(arguments) != 1 or not isinstance(arguments[0], str):
        raise JMESPathTypeError(name, None, "other than one string", ["string"])
    return arguments[0]
