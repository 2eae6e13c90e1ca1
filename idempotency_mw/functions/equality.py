"""Whether a result comes back from the store as it was: compared before it is kept.

A duplicate must never get another value than the first call. So a result that would come back changed is not kept.
"""

import json
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from typing import Any, cast

__all__ = ["maps_to", "same", "same_data"]


def same(one: Any, other: Any) -> bool:
    """Tell whether two values are equal, as their class says, or in each of their parts.

    The parts are compared where `==` says no, or fails: a class may define no equality (`eq=False`), or hold NaN
    or an array, whose `==` is no bool. Where neither a class nor its parts can tell, two values of one class count
    as equal, and `same_data` decides alone.
    """
    verdict = _verdict(one, other)
    kind = _class(one)
    if verdict or kind is not type(other):
        return bool(verdict)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in cast("Any", one))
    if isinstance(one, list | tuple):
        return len(cast("Any", one)) == len(other) and all(map(same, cast("Any", one), other))
    if is_dataclass(kind) or hasattr(kind, "model_fields"):
        return all(same(*each) for each in zip(_parts(one), _parts(other), strict=True))
    if isinstance(one, datetime):
        return _same_instant(one, other)
    return verdict is None or not _defines_equality(kind) or (_is_nan(one) and _is_nan(other))


def same_data(one: str, other: str) -> bool:
    """Tell whether two JSON texts hold the same data: members and elements in any order, 1 the same as 1.0.

    A set is written in any order. The order of a list is compared by `same`.
    """
    return one == other or _unordered(json.loads(one)) == _unordered(json.loads(other))


def maps_to(value: Any, data: Any) -> bool:
    """Tell whether this JSON data is what JSON merely maps the value to: tuples to lists, keys to text.

    No if two keys became one, or if two halves of a surrogate pair became one character.
    """
    return bool(value == data) or same(_mapped(value), data)


def _verdict(one: Any, other: Any) -> bool | None:
    """Return what `==` says, or None where it says nothing usable: arrays compare element by element."""
    try:
        verdict = one == other
    except Exception:  # noqa: BLE001 - a user's class may raise anything
        return None
    return verdict if isinstance(verdict, bool) else None


def _parts(instance: Any) -> Iterator[Any]:
    """Yield the fields of a dataclass or a pydantic model, and what else a model compares."""
    kind = _class(instance)
    if is_dataclass(kind):
        yield from (getattr(instance, each.name) for each in fields(kind))
        return
    yield from (getattr(instance, name) for name in kind.model_fields)
    yield instance.__pydantic_extra__
    yield instance.__pydantic_private__


def _class(value: Any) -> Any:
    return cast("Any", type(value))


def _defines_equality(kind: Any) -> bool:
    return any("__eq__" in vars(each) for each in kind.__mro__[:-1])


def _is_nan(value: Any) -> bool:
    return bool(value != value)  # noqa: PLR0124 - NaN alone, also a Decimal's, differs from itself


def _same_instant(one: datetime, other: datetime) -> bool:
    """Tell whether they are the same instant. In the hour that a zone repeats, `==` always says no (PEP 495)."""
    return None not in (one.tzinfo, other.tzinfo) and one.astimezone(UTC) == other.astimezone(UTC)


def _unordered(data: Any) -> str:
    if isinstance(data, list):
        return f"[{','.join(sorted(map(_unordered, cast('Any', data))))}]"
    if isinstance(data, dict):
        members = (f"{json.dumps(name)}:{_unordered(each)}" for name, each in cast("Any", data).items())
        return f"{{{','.join(sorted(members))}}}"
    return json.dumps(int(data) if isinstance(data, float) and data.is_integer() else data)


def _mapped(value: Any) -> Any:
    """Return the data that JSON maps a value to. Raises `ValueError` if two keys become one."""
    if isinstance(value, list | tuple):
        return [_mapped(each) for each in cast("Any", value)]
    if not isinstance(value, dict):
        return value
    pairs: Any = cast("Any", value)
    members = {_name(key): _mapped(each) for key, each in pairs.items()}
    if len(members) < len(pairs):
        raise ValueError("two keys become one text")
    return members


def _name(key: Any) -> str:
    """Return the text that JSON writes for a key."""
    return key if isinstance(key, str) else next(iter(json.loads(json.dumps({key: None}))))
