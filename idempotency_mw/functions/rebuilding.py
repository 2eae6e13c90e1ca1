"""Dataclasses to JSON data and back, by the annotations of their fields."""

import types
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from datetime import date, datetime, time
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any, Union, cast, get_args, get_origin, get_type_hints
from uuid import UUID

from idempotency_mw.errors import IdempotencyConfigurationError
from idempotency_mw.functions.plain import plain

__all__ = ["checked_dataclass", "data_of", "rebuilt"]

_READERS: dict[Any, Callable[[Any], Any]] = {
    Decimal: Decimal,
    UUID: UUID,
    Path: Path,
    datetime: datetime.fromisoformat,
    date: date.fromisoformat,
    time: time.fromisoformat,
}


def checked_dataclass(model: Any) -> Any:
    """Return the model. Raises `IdempotencyConfigurationError` if it is no dataclass."""
    if not (isinstance(model, type) and is_dataclass(model)):
        raise IdempotencyConfigurationError("DataclassSerializer needs a dataclass")
    return model


def data_of(instance: Any) -> dict[str, Any]:
    """Return the fields of a dataclass as JSON data. Raises `TypeError` if a value has no such form."""
    members: dict[str, Any] = plain(instance)
    return members


def rebuilt(hint: Any, data: Any) -> Any:
    """Return the value that JSON data stands for under this annotation."""
    origin = get_origin(hint) or hint
    if origin in (Union, types.UnionType):
        return _of_union(get_args(hint), data)
    if origin in _CONTAINERS:
        return _CONTAINERS[origin](get_args(hint), data)
    if origin in _READERS:
        return _READERS[origin](data)
    if isinstance(origin, type) and issubclass(origin, Enum):
        return origin(data)
    if isinstance(origin, type) and is_dataclass(origin):
        return _of_dataclass(origin, data)
    return data


def _of_union(hints: tuple[Any, ...], data: Any) -> Any:
    """Return None, or the value under the only other hint.

    With several hints the data can't tell, and stays as it is.
    """
    others = [hint for hint in hints if hint is not types.NoneType]
    return rebuilt(others[0], data) if data is not None and len(others) == 1 else data


def _of_list(hints: tuple[Any, ...], data: list[Any]) -> list[Any]:
    return [rebuilt(hints[0], each) for each in data] if hints else data


def _of_tuple(hints: tuple[Any, ...], data: list[Any]) -> tuple[Any, ...]:
    if len(hints) == 2 and hints[1] is ...:
        hints = (hints[0],) * len(data)
    return tuple(map(rebuilt, hints, data)) if len(hints) == len(data) else tuple(data)


def _of_dict(hints: tuple[Any, ...], data: dict[str, Any]) -> dict[str, Any]:
    return {name: rebuilt(hints[1], each) for name, each in data.items()} if hints else data


_CONTAINERS: dict[Any, Callable[[tuple[Any, ...], Any], Any]] = {list: _of_list, tuple: _of_tuple, dict: _of_dict}


def _of_dataclass(model: Any, data: Any) -> Any:
    hints = get_type_hints(model)
    members = cast("dict[str, Any]", data)
    values = {each.name: rebuilt(hints[each.name], members[each.name]) for each in fields(model)}
    instance = model(**{each.name: values[each.name] for each in fields(model) if each.init})
    for each in fields(model):
        if not each.init:
            object.__setattr__(instance, each.name, values[each.name])
    return instance
