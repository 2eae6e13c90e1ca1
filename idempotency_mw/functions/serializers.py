"""Results of functions as bytes: a versioned value, or a failure in its place.

    offset  width
         0      1  version, "1"
         1      1  "V", a value, or "F", a failure
         2      ...  value: JSON, in ASCII, with NaN and infinities as Python writes and reads them
                     failure: the name of the exception's class, in UTF-8

Without a serializer a result is kept as JSON maps it: a tuple comes back as a list, a member of an Enum whose
value is text or a whole number comes back as that value, and a key of a dict that is a number, a bool or None
comes back as text. A serializer turns a result into JSON data and back into its class, and is kept only if it
comes back equal. None is always kept as None. Nothing from a store is trusted, and nothing is ever unpickled.
"""

import json
import re
from collections.abc import Callable
from types import NoneType, UnionType
from typing import Any, NamedTuple, Protocol, Union, cast, get_args, get_origin, get_type_hints

from idempotency_mw.errors import IdempotencyConfigurationError, IdempotencyRecordError
from idempotency_mw.functions.equality import maps_to, same, same_data
from idempotency_mw.functions.rebuilding import checked_dataclass, data_of, rebuilt

__all__ = [
    "CustomDictSerializer",
    "DataclassSerializer",
    "OutputSerializer",
    "PydanticSerializer",
    "StoredFailure",
    "StoredValue",
    "decode",
    "encode_failure",
    "encode_value",
    "serializer_for",
]

_ENCODER = json.JSONEncoder(separators=(",", ":"))
_DECODER = json.JSONDecoder()
_LONGEST_CLASS_NAME = 200
"""In characters. Python sets no limit; this one keeps a record's size independent of generated class names."""
_CLASS_NAME = re.compile(rf"[\w.<>]{{1,{_LONGEST_CLASS_NAME}}}")


class OutputSerializer(Protocol):
    """Turns results into JSON data and back. Both methods may raise anything.

    Both are called before a result is kept: it is kept only if `from_dict` returns a value that equals the result,
    as its class defines equality, and if `to_dict` makes the same data of that value again. Otherwise the caller
    still gets the result, and the record becomes a tombstone: a duplicate raises
    `IdempotencyResponseNotKeptError`.
    """

    def to_dict(self, data: Any) -> Any:
        """Return the JSON data for a result. If it raises, the result is not kept."""
        ...

    def from_dict(self, data: Any) -> Any:
        """Return the result for its JSON data.

        If it raises before the result is kept, the result is not kept. If it raises for a duplicate, the duplicate
        raises `IdempotencyRecordError`, and the function does not run.
        """
        ...


class CustomDictSerializer:
    """A serializer made of two functions: `to_dict(result) -> data` and `from_dict(data) -> result`."""

    def __init__(self, to_dict: Callable[[Any], Any], from_dict: Callable[[Any], Any]) -> None:
        self._to_dict = to_dict
        self._from_dict = from_dict

    def to_dict(self, data: Any) -> Any:
        """Return what the given `to_dict` returns."""
        return self._to_dict(data)

    def from_dict(self, data: Any) -> Any:
        """Return what the given `from_dict` returns."""
        return self._from_dict(data)


class PydanticSerializer:
    """Keeps instances of one pydantic 2 model.

    An instance of a subclass is not kept: its own fields would be lost. Nor is one that would come back changed: a
    `SecretStr` is written masked, a field with `exclude=True` not at all, and a field with `serialization_alias`
    alone can't be read again.
    """

    def __init__(self, model: Any) -> None:
        if not hasattr(model, "model_validate_json"):
            raise IdempotencyConfigurationError("PydanticSerializer needs a model of pydantic 2")
        self._model = model

    def to_dict(self, data: Any) -> Any:
        """Return the instance as pydantic dumps it for JSON."""
        _check_class(data, self._model)
        return data.model_dump(mode="json", by_alias=True, round_trip=True)

    def from_dict(self, data: Any) -> Any:
        """Return an instance, validated from JSON text: strict models accept dates in no other form."""
        return self._model.model_validate_json(json.dumps(data))


class DataclassSerializer:
    """Keeps instances of one dataclass, rebuilt by the annotations of its fields, nested dataclasses too.

    An instance that would not come back equal is not kept, such as one whose field is annotated as `Any` and holds
    a date. Without equality of its own (`eq=False`) a dataclass is compared field by field.
    """

    def __init__(self, model: Any) -> None:
        self._model = checked_dataclass(model)

    def to_dict(self, data: Any) -> Any:
        """Return the fields as JSON data."""
        _check_class(data, self._model)
        return data_of(data)

    def from_dict(self, data: Any) -> Any:
        """Return an instance."""
        return rebuilt(self._model, data)


def serializer_for(
    function: Callable[..., Any], given: OutputSerializer | type[OutputSerializer] | None
) -> OutputSerializer | None:
    """Return the serializer. If a class is given, build it for the model in the function's return annotation.

    Raises `IdempotencyConfigurationError` if the annotation does not name one model.
    """
    if given is None or not isinstance(given, type):
        return given
    if given not in (PydanticSerializer, DataclassSerializer):
        raise IdempotencyConfigurationError(f"output_serializer must be an instance of {given.__name__}")
    serializer: OutputSerializer = cast("Any", given)(_returned_model(function))
    return serializer


def _returned_model(function: Callable[..., Any]) -> Any:
    try:
        hint = get_type_hints(function).get("return")
    except NameError as error:
        raise IdempotencyConfigurationError(f"the return annotation can't be resolved: {error}") from error
    if get_origin(hint) in (Union, UnionType):
        models = [each for each in get_args(hint) if each is not NoneType]
        hint = models[0] if len(models) == 1 else None
    if hint is None:
        raise IdempotencyConfigurationError("output_serializer as a class needs one model as return annotation")
    return hint


class StoredValue(NamedTuple):
    """What the first call returned."""

    value: Any

    def __repr__(self) -> str:
        return "StoredValue()"


class StoredFailure(NamedTuple):
    """What the first call failed with, under `on_error="store"`: the name of the exception's class."""

    class_name: str


def encode_value(result: Any, serializer: OutputSerializer | None) -> bytes | None:
    """Return the bytes of a result, or None if it can't be kept, or would come back as another value."""
    try:
        data = result if result is None or serializer is None else serializer.to_dict(result)
        encoded = b"1V" + _ENCODER.encode(data).encode("ascii")
        return encoded if _comes_back(encoded, result, serializer) else None
    except Exception:  # noqa: BLE001 - the caller must get its result, whatever a serializer raises
        return None


def _comes_back(encoded: bytes, result: Any, serializer: OutputSerializer | None) -> bool:
    """Tell whether a duplicate would get the result that these bytes were made of. May raise anything."""
    (stored,) = decode(encoded, serializer)
    if result is None or serializer is None:
        return maps_to(result, stored)
    data = _ENCODER.encode(serializer.to_dict(stored))
    return same_data(encoded[2:].decode("ascii"), data) and same(result, stored)


def encode_failure(error: Exception) -> bytes:
    """Return the bytes of a failure: its class, and none of its arguments."""
    kind = type(error)
    return b"1F" + f"{kind.__module__}.{kind.__qualname__}"[:_LONGEST_CLASS_NAME].encode("utf-8", "replace")


def decode(data: bytes, serializer: OutputSerializer | None) -> StoredValue | StoredFailure:
    """Return the value or the failure that the bytes hold.

    Raises `IdempotencyRecordError` if they were not written here, or if the serializer can't read them.
    """
    if data[:2] == b"1F":
        return _failure(data[2:])
    if data[:2] != b"1V":
        raise IdempotencyRecordError("the record holds no result of this version")
    try:
        value = _value(data[2:].decode("ascii"))
        return StoredValue(value if value is None or serializer is None else serializer.from_dict(value))
    except Exception as error:  # noqa: BLE001 - a model's error quotes the value, so it is not chained
        raise IdempotencyRecordError(f"the record's result can't be read: {type(error).__name__}") from None


def _value(written: str) -> Any:
    """Return the value. `raw_decode` skips the search for white space around it, and we wrote none."""
    value, end = _DECODER.raw_decode(written)
    if end < len(written):
        raise ValueError("something stands behind the value")
    return value


def _failure(name: bytes) -> StoredFailure:
    text = name.decode("utf-8", "replace")
    if not _CLASS_NAME.fullmatch(text):
        raise IdempotencyRecordError("the record holds a failure that is mangled")
    return StoredFailure(text)


def _check_class(data: Any, model: Any) -> None:
    if type(data) is not model:
        raise TypeError(f"{type(data).__name__} is not {model.__name__}")
