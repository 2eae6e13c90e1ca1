"""Keys from payloads: equal for equal data, and the same in every process, on every Python, in every release."""

import json
import os
import subprocess
import sys
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from pathlib import Path, PureWindowsPath
from types import MappingProxyType
from uuid import UUID

import pytest
from pydantic import BaseModel, SecretStr

from idempotency_mw import IdempotencyConfig
from idempotency_mw.calls import Call
from idempotency_mw.core.plain import plain, plain_payload
from idempotency_mw.errors import IdempotencyKeyError

GOLDEN = Path(__file__).with_name("golden_keys.json")
ROOT = Path(__file__).parents[2]


class Colour(Enum):
    RED = "red"


class Level(IntEnum):
    HIGH = 3


class Name(StrEnum):
    ADA = "ada"


@dataclass
class Line:
    sku: UUID
    price: Decimal


@dataclass
class Order:
    lines: list[Line]
    at: datetime
    colour: Colour


class Customer(BaseModel):
    name: str
    born: date
    home: Path


LINE = Line(UUID(int=7), Decimal("1.50"))
AT = datetime(2026, 2, 3, 4, 5, 6, 789, tzinfo=UTC)
CUSTOMER = Customer(name="Ada", born=date(1815, 12, 10), home=Path("/home/ada"))

PAYLOADS = {
    "text": "payment-17",
    "number": 17,
    "float": 0.1,
    "false": False,
    "zero": 0,
    "object": {"b": [1, None, "\u00e9"], "a": {"d": 1.5, "c": True}},
    "tuple": (1, 2),
    "mapping": MappingProxyType({"a": 1}),
    "names": {1: "a", False: "b", None: "c", Colour.RED: "d", date(2026, 1, 2): "e"},
    "decimal": Decimal("1.50"),
    "uuid": UUID(int=7),
    "date": date(2026, 2, 3),
    "time": time(4, 5, 6),
    "datetime": AT,
    "enums": [Colour.RED, Level.HIGH, Name.ADA],
    "path": PureWindowsPath("a\\b"),
    "dataclass": Order([LINE], AT, Colour.RED),
    "model": CUSTOMER,
    "nested": {"order": Order([LINE, LINE], AT, Colour.RED), "customers": [CUSTOMER]},
}


def golden():
    config = IdempotencyConfig(key_prefix="payments")
    digests = {name: Call(payload, "charge", payload).operation(config) for name, payload in PAYLOADS.items()}
    return {name: [each.storage_key, each.fingerprint] for name, each in digests.items()}


# The storage key of every record in every store depends on these: a change here orphans them all.
def test_golden_keys_stay_what_they_were():
    assert golden() == json.loads(GOLDEN.read_text())


def test_another_process_with_another_hash_seed_has_the_same_keys():
    code = "import json; from tests.functions.test_payloads import golden; print(json.dumps(golden()))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | {"PYTHONHASHSEED": "77"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == json.loads(GOLDEN.read_text())


def test_payloads_that_differ_have_keys_that_differ():
    keys = [storage_key for storage_key, _ in golden().values()]
    assert len(set(keys)) == len(keys)


def test_a_payload_is_its_data_whatever_class_holds_it():
    line = {"sku": "00000000-0000-0000-0000-000000000007", "price": "1.50"}
    assert plain(LINE) == plain(OrderedDict(line)) == line
    assert plain(CUSTOMER) == {"name": "Ada", "born": "1815-12-10", "home": "/home/ada"}
    assert plain(PAYLOADS["enums"]) == ["red", 3, "ada"]
    assert plain(PAYLOADS["path"]) == "a/b"
    assert plain(PAYLOADS["names"])["null"] == "c"


class Account(BaseModel):
    number: SecretStr


CYCLE = []
CYCLE.append(CYCLE)


class Breaks(BaseModel):
    def model_dump(self, **options):
        raise RuntimeError("4111-1111")


@pytest.mark.parametrize(
    "payload",
    [
        object(),
        b"4111-1111",
        {"4111-1111"},
        Account(number="4111-1111"),
        Account,
        Breaks(),
        CYCLE,
        {1: "a", "1": "b"},
        {(1, 2): "4111-1111"},
        lambda: None,
    ],
    ids=lambda payload: type(payload).__name__,
)
def test_what_has_no_stable_text_is_a_key_error_that_quotes_nothing(payload):
    with pytest.raises(IdempotencyKeyError) as caught:
        plain_payload(payload)
    assert "4111" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
