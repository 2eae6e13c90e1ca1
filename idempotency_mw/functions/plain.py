"""Payloads of functions as plain JSON data, so that equal data is one key, whichever class holds it.

    dataclass, pydantic model, mapping    an object
    list, tuple                           an array
    Decimal, UUID, Path                   its text
    date, time, datetime                  ISO 8601
    Enum                                  its value

Anything else is refused, because it has no text that is the same in every process. pydantic is not imported:
its models are recognised by their methods.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, is_dataclass
from datetime import date, time
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any, cast
from uuid import UUID

from idempotency_mw.errors import IdempotencyKeyError

__all__ = ["is_missing", "plain", "plain_payload"]

_TEXTS: tuple[tuple[type | tuple[type, ...], Callable[[Any], str]], ...] = (
    ((Decimal, UUID), str),
    ((date, time), lambda value: value.isoformat()),
    (PurePath, lambda value: value.as_posix()),
)


_PLAIN = frozenset((str, int, float, bool, type(None)))
"""Fast path for most values. A subclass of these, such as an Enum, may stand for another value."""


def plain_payload(payload: object) -> Any:
    """Return the payload as JSON data. Raises `IdempotencyKeyError`, which quotes nothing of the payload."""
    try:
        return plain(payload)
    except Exception as error:  # noqa: BLE001 - a user's models and properties may raise anything
        raise IdempotencyKeyError(f"the payload has no plain form: {type(error).__name__}") from None


def is_missing(selected: Any) -> bool:
    """Tell whether a selected value is no key: None, empty, or a container whose parts are all None."""
    if isinstance(selected, str):
        return selected == ""
    if isinstance(selected, dict):
        return all(part is None for part in cast("dict[str, Any]", selected).values())
    if isinstance(selected, list):
        return all(part is None for part in cast("Any", selected))
    return selected is None


def plain(value: object) -> Any:
    """Return the value as JSON data. Raises `TypeError` if it has no such form."""
    if type(value) in _PLAIN:
        return value
    return _CONTAINERS.get(type(value), _of_any_class)(value)


def _of_any_class(value: Any) -> Any:
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, str | int | float):
        return value
    for kind, as_text in _TEXTS:
        if isinstance(value, kind):
            return as_text(value)
    return _container(value)


def _container(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return _array(value)
    if isinstance(value, Mapping):
        return _members(value)
    if isinstance(value, type):
        raise TypeError("a class is no data")
    if is_dataclass(value):
        return _object((each.name, getattr(value, each.name)) for each in fields(value))
    if hasattr(value, "model_dump"):
        return plain(value.model_dump())
    raise TypeError(f"{type(value).__name__} is no data")


def _array(value: Any) -> list[Any]:
    return [plain(each) for each in value]


def _members(value: Any) -> dict[str, Any]:
    return _object(value.items())


_CONTAINERS: dict[type, Callable[[Any], Any]] = {dict: _members, list: _array, tuple: _array}
"""Fast path for most containers: testing a value against each possible base class is slow."""


def _object(items: Iterable[tuple[Any, Any]]) -> dict[str, Any]:
    members: dict[str, Any] = {}
    for name, value in items:
        text = name if type(name) is str else _name(plain(name))
        if text in members:
            raise ValueError("two names have one text")
        members[text] = plain(value)
    return members


def _name(name: Any) -> str:
    if isinstance(name, list | dict):
        raise TypeError("a container is no name")
    return name if isinstance(name, str) else json.dumps(name)
