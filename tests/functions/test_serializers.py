"""Results as JSON: stored exactly, mapped by JSON, or not stored; with a serializer, with their class."""

import json
import math
import subprocess
import sys
from dataclasses import dataclass, field
from datetime import date, datetime, time
from decimal import Decimal
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import Any, Generic, NamedTuple, Optional, TypeVar
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, RootModel, SecretStr, field_serializer

from idempotency_mw.errors import (
    IdempotencyConfigurationError,
    IdempotencyRecordError,
    IdempotencyResponseNotKeptError,
)
from idempotency_mw.functions.serializers import (
    CustomDictSerializer,
    DataclassSerializer,
    PydanticSerializer,
    StoredFailure,
    StoredValue,
    decode,
    encode_failure,
    encode_value,
    serializer_for,
)
from tests.functions.golden import Colour, Line

ROOT = Path(__file__).parents[2]


class Text(StrEnum):
    RED = "red"


class Level(IntEnum):
    HIGH = 3


class Pair(NamedTuple):
    left: int
    right: Any


json_data = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def there_and_back(result, serializer=None):
    stored = decode(encode_value(result, serializer), serializer)
    assert isinstance(stored, StoredValue)
    return stored.value


@given(json_data)
def test_json_data_is_restored_exactly(data):
    assert repr(there_and_back(data)) == repr(data)


@pytest.mark.parametrize("result", [None, 0, 0.0, False, "", [], {}, -0.0, math.inf, -math.inf, "None"], ids=repr)
async def test_falsy_and_infinite_results_are_replayed_unchanged(surface, result):
    async def body(payload):
        return result

    function = surface.function(body)
    for _ in range(2):
        assert repr(await surface.call(function, 1)) == repr(result)
    assert len(surface.runs) == 1


def test_nan_is_restored():
    assert math.isnan(there_and_back([math.nan])[0])


def test_tuples_and_number_keys_become_lists_and_text_keys():
    assert there_and_back({1: (2, 3)}) == {"1": [2, 3]}


def test_the_stored_form_is_pinned():
    assert encode_value({"b": [1, None], "a": "\u00e9"}, None) == b'1V{"b":[1,null],"a":"\\u00e9"}'
    assert encode_failure(KeyError("secret")) == b"1Fbuiltins.KeyError"
    assert decode(b"1Fbuiltins.KeyError", None) == StoredFailure("builtins.KeyError")


@pytest.mark.row(134)
@pytest.mark.parametrize(
    ("result", "comes_back"),
    [
        (
            {2: (2, (3,)), 1.5: "a", True: None, "b": math.nan},
            {"2": [2, [3]], "1.5": "a", "true": None, "b": math.nan},
        ),
        ({None: 1, math.inf: 2}, {"null": 1, "Infinity": 2}),
        (Pair(1, Text.RED), [1, "red"]),
        ({Text.RED: Level.HIGH}, {"red": 3}),
    ],
    ids=["keys and tuples", "other keys", "named tuple", "enums"],
)
def test_what_json_merely_maps_is_kept_as_mapped(result, comes_back):
    assert repr(there_and_back(result)) == repr(comes_back)


@pytest.mark.row(134)
@pytest.mark.parametrize(
    "result",
    [{1: "a", "1": "b"}, [{True: 1, "true": 2}], {None: 1, "null": 2}, "\ud83d\ude00", {"\ud83d\ude00": 1}],
    ids=["numbers", "bools", "None", "surrogates", "surrogates in a key"],
)
def test_what_json_would_change_is_not_kept(result):
    assert encode_value(result, None) is None


@pytest.mark.parametrize("result", [object(), b"x", {1}, {(1,): 2}, 10**5000, date(2026, 1, 2)], ids=type)
def test_results_that_are_not_json_are_not_stored(result):
    assert encode_value(result, None) is None


@given(st.binary(max_size=30))
def test_any_other_bytes_are_a_record_error(data):
    for start in (b"", b"1V", b"1F"):
        try:
            stored = decode(start + data, None)
        except IdempotencyRecordError:
            continue
        kind = {b"1V": StoredValue, b"1F": StoredFailure}[(start + data)[:2]]
        assert isinstance(stored, kind)


@pytest.mark.parametrize("data", [b"1V1 ", b"1V 1", b"1V1,", b"1V[]]", b"1V"])
def test_extra_bytes_around_a_value_are_a_record_error(data):
    with pytest.raises(IdempotencyRecordError):
        decode(data, None)


def test_a_deeply_nested_record_is_a_record_error():
    with pytest.raises(IdempotencyRecordError):
        decode(b"1V" + b"[" * 200_000, None)


# Serializers.


@dataclass
class Order:
    lines: list[Line]
    at: datetime
    day: date
    when: time
    where: Path
    colour: Colour
    pair: tuple[int, Decimal]
    many: tuple[Decimal, ...]
    by_name: dict[str, Line]
    first: Line | None
    other: Optional[Line] = None  # noqa: UP045 - read too
    either: int | str = 3
    bare: list = field(default_factory=list)
    table: dict = field(default_factory=dict)
    anything: Any = None
    total: int = field(init=False, default=0)


LINE = Line(UUID(int=7), Decimal("1.50"))


def order(**changes):
    made = Order(
        [LINE, LINE],
        datetime(2026, 1, 2, 3, 4),
        date(2026, 1, 2),
        time(3, 4),
        Path("a/b"),
        Colour.RED,
        (1, Decimal("2.0")),
        (Decimal(1), Decimal(2)),
        {"a": LINE},
        LINE,
    )
    made.total = 9
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def test_a_dataclass_is_restored_with_all_its_fields():
    serializer = DataclassSerializer(Order)
    assert there_and_back(order(), serializer) == order()
    assert there_and_back(order(bare=[1], table={"a": 2}, first=None), serializer).bare == [1]
    assert there_and_back(None, serializer) is None


@pytest.mark.parametrize(
    "result",
    [order(anything=LINE), order(pair=(1, Decimal(2), 3), either=Decimal(1)), LINE, {"sku": 1}],
    ids=["untyped", "other length", "another class", "dict"],
)
def test_an_instance_that_would_not_be_restored_equal_is_not_stored(result):
    assert encode_value(result, DataclassSerializer(Order)) is None


@dataclass(eq=False)
class Uncomparable:
    size: int
    more: Any = None


def test_a_dataclass_without_equality_is_compared_field_by_field():
    serializer = DataclassSerializer(Uncomparable)
    assert there_and_back(Uncomparable(3, {"a": [math.nan]}), serializer).size == 3
    for lossy in (date(2026, 1, 2), {"a": (1,)}, [Decimal(1)], {1: 2}):
        assert encode_value(Uncomparable(3, lossy), serializer) is None


class Receipt(BaseModel):
    model_config = ConfigDict(strict=True)
    number: int = Field(alias="no")
    paid: Decimal
    at: datetime
    rate: float = 0.5


RECEIPT = Receipt(no=1, paid=Decimal("1.50"), at=datetime(2026, 1, 2), rate=math.inf)


class Longer(Receipt):
    more: int = 1


def test_a_strict_model_with_aliases_is_restored_equal():
    assert there_and_back(RECEIPT, PydanticSerializer(Receipt)) == RECEIPT
    longer = Longer(no=1, paid=Decimal(1), at=datetime(2026, 1, 2))
    assert encode_value(longer, PydanticSerializer(Receipt)) is None


Item = TypeVar("Item")


class Page(BaseModel, Generic[Item]):
    model_config = ConfigDict(frozen=True, extra="allow")
    items: list[Item]
    tags: set[str] = set()
    at: datetime | None = None
    either: int | str = 0
    near: float = 0.0
    _seen: int = PrivateAttr(default=0)


class Lines(RootModel[list[Receipt]]):
    pass


BERLIN = ZoneInfo("Europe/Berlin")
PAGES = {
    "generic": Page[Receipt](items=[RECEIPT, RECEIPT], either="1"),
    "a set": Page[int](items=[1], tags={"b", "a", "c"}),
    "a zone": Page[int](items=[1], at=datetime(2026, 7, 1, 12, tzinfo=BERLIN)),
    "an hour that comes twice": Page[int](items=[1], at=datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN, fold=1)),
    "NaN": Page[float](items=[math.nan], near=math.nan),
    "extra": Page[int](items=[], more=1),
    "a whole number as float": Page[int].model_construct(items=[1], near=2, tags=set(), at=None, either=0),
    "root": Lines([RECEIPT]),
}


@pytest.mark.row(134)
@pytest.mark.parametrize("name", PAGES)
def test_a_model_that_comes_back_equal_is_kept(name):
    page = PAGES[name]
    again = there_and_back(page, PydanticSerializer(type(page)))
    assert type(again) is type(page)
    assert again.model_dump_json() == page.model_dump_json() or again == page


class Card(BaseModel):
    id: str
    secret: SecretStr = SecretStr("")
    inner: str = Field(default="", exclude=True)
    rate: float = 0
    anything: Any = None
    alone: str = Field(default="", serialization_alias="byItself")
    _seen: int = PrivateAttr(default=0)

    @field_serializer("rate")
    def rounded(self, rate):
        return round(rate, 2)


def seen(card):
    card._seen = 1
    return card


class Camel(BaseModel):
    order_id: str = Field(serialization_alias="orderId")


LOSSY = {
    "a secret": Card(id="c1", secret=SecretStr("cs_123")),
    "an excluded field": Card(id="c1", inner="kept out"),
    "a rounded number": Card(id="c1", rate=1.005),
    "an alias with a default": Card(id="c1", alone="a"),
    "an alias": Camel(order_id="o1"),
    "another type": Card(id="c1", anything=date(2026, 1, 2)),
    "a private attribute": seen(Card(id="c1")),
    "an extra": Page[int](items=[], more=date(2026, 1, 2)),
}


@pytest.mark.row(134)
@pytest.mark.parametrize("name", LOSSY)
async def test_a_model_that_would_come_back_changed_is_not_kept(surface, caplog, name):
    result = LOSSY[name]

    async def body(payload):
        return result

    function = surface.function(body, output_serializer=PydanticSerializer(type(result)))
    assert await surface.call(function, 1) is result
    (warning,) = [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]
    assert "would come back changed" in warning
    assert "cs_123" not in caplog.text
    with pytest.raises(IdempotencyResponseNotKeptError):
        await surface.call(function, 1)
    assert len(surface.runs) == 1


def test_a_model_with_defaults_alone_is_kept():
    assert there_and_back(Card(id="c1"), PydanticSerializer(Card)) == Card(id="c1")


def test_a_record_that_the_model_refuses_is_an_error_that_does_not_quote_it():
    with pytest.raises(IdempotencyRecordError) as caught:
        decode(b'1V{"no":"4111"}', PydanticSerializer(Receipt))
    assert "4111" not in str(caught.value)


def test_a_custom_serializer_is_two_functions():
    serializer = CustomDictSerializer(
        lambda line: {"sku": line.sku.int, "price": str(line.price)},
        lambda data: Line(UUID(int=data["sku"]), Decimal(data["price"])),
    )
    assert there_and_back(LINE, serializer) == LINE


class Vague:
    """Without equality."""

    def __init__(self, size, more=0):
        self.size = size
        self.more = more


class Array:
    """Compares as an array does: element by element."""

    def __init__(self, *values):
        self.values = values

    def __eq__(self, other):
        return Array(*map(lambda a, b: a == b, self.values, other.values))

    def __bool__(self):
        raise ValueError("the truth of an array")

    __hash__ = None


@dataclass
class Measured:
    array: Array


def serializer_of(to_dict, from_dict):
    return CustomDictSerializer(to_dict, from_dict)


KEPT = [
    (Vague(1), serializer_of(lambda x: {"size": x.size}, lambda data: Vague(data["size"]))),
    ([Vague(1)], serializer_of(lambda xs: [x.size for x in xs], lambda data: [Vague(each) for each in data])),
    (Array(1, 2), serializer_of(lambda x: list(x.values), lambda data: Array(*data))),
    (Measured(Array(1)), serializer_of(lambda x: list(x.array.values), lambda data: Measured(Array(*data)))),
    (Decimal("NaN"), serializer_of(str, Decimal)),
    ((1, 2), serializer_of(list, tuple)),
    ({3, 1}, serializer_of(lambda x: {"all": [*sorted(x, reverse=len(x) > 1)]}, lambda data: set(data["all"]))),
    ({"a": 5}, serializer_of(lambda x: x["a"], lambda data: {"a": float(data)})),
]
CHANGED = [
    (Vague(1, more=2), serializer_of(vars, lambda data: Vague(data["size"]))),
    (Vague(1), serializer_of(vars, lambda data: data)),
    (Vague(1), serializer_of(lambda x: None, lambda data: Vague(1))),
    ((1, 2), serializer_of(lambda x: x, lambda data: data)),
    ([Vague(1)], serializer_of(lambda xs: [x.size for x in xs], lambda data: [Vague(each) for each in data[1:]])),
    ({1, 2}, serializer_of(list, lambda data: set(data[:1]))),
    (Decimal("1.005"), serializer_of(float, lambda data: Decimal(str(round(data, 2))))),
    (datetime(2026, 1, 2, tzinfo=BERLIN), serializer_of(lambda x: x.isoformat()[:19], datetime.fromisoformat)),
]


@pytest.mark.row(134)
@pytest.mark.parametrize(("result", "serializer"), KEPT, ids=range(len(KEPT)))
def test_what_a_serializer_of_ones_own_brings_back_is_kept(result, serializer):
    assert type(there_and_back(result, serializer)) is type(result)


@pytest.mark.row(134)
@pytest.mark.parametrize(("result", "serializer"), CHANGED, ids=range(len(CHANGED)))
def test_what_a_serializer_of_ones_own_would_change_is_not_kept(result, serializer):
    assert encode_value(result, serializer) is None


@pytest.mark.parametrize(
    ("serializer", "model", "result"),
    [(PydanticSerializer, Receipt, RECEIPT), (DataclassSerializer, Line, LINE)],
    ids=["pydantic", "dataclass"],
)
async def test_a_serializer_class_takes_its_model_from_the_return_annotation(surface, serializer, model, result):
    def annotated(payload) -> model | None: ...

    assert there_and_back(result, serializer_for(annotated, serializer)) == result
    annotated.__annotations__["return"] = model
    assert there_and_back(result, serializer_for(annotated, serializer)) == result

    async def body(payload):
        return result

    function = surface.function(body, output_serializer=serializer(model))
    assert await surface.call(function, 1) is result
    again = await surface.call(function, 1)
    assert again == result
    assert type(again) is model


def unannotated(payload):
    return payload


def ambiguous(payload) -> int | str:
    return payload


def unresolved(payload) -> "Missing":  # noqa: F821
    return payload


def annotated_plainly(payload) -> int:
    return payload


@pytest.mark.parametrize("function", [unannotated, ambiguous, unresolved, annotated_plainly])
@pytest.mark.parametrize("serializer", [PydanticSerializer, DataclassSerializer])
def test_a_serializer_class_without_a_model_in_the_annotation_is_refused(function, serializer):
    with pytest.raises(IdempotencyConfigurationError):
        serializer_for(function, serializer)


def test_a_serializer_class_that_needs_functions_is_refused():
    with pytest.raises(IdempotencyConfigurationError, match="CustomDictSerializer"):
        serializer_for(annotated_plainly, CustomDictSerializer)


async def test_a_result_is_returned_even_if_its_serializer_fails(surface, caplog):
    def fail(data):
        raise RuntimeError("4111")

    function = surface.function(output_serializer=CustomDictSerializer(fail, fail))
    assert await surface.call(function, 1) == 1
    assert "can't be stored" in caplog.text
    assert "4111" not in caplog.text
    with pytest.raises(IdempotencyResponseNotKeptError):
        await surface.call(function, 1)


def test_pydantic_is_not_imported_unless_used():
    code = "import sys, idempotency_mw, idempotency_mw.serializers; print('pydantic' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.lower()) is False
