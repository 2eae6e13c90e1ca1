"""The payloads whose keys are pinned, and a script that computes the keys with the package alone, on any Python.

    python tests/functions/golden.py

prints the keys as JSON, without those of pydantic models if pydantic can't be imported.
"""

import json
import sys
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from pathlib import Path, PureWindowsPath
from types import MappingProxyType
from uuid import UUID

from idempotency_mw import IdempotencyConfig
from idempotency_mw.calls import Call

__all__ = ["OF_MODELS", "PAYLOADS", "golden"]


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


LINE = Line(UUID(int=7), Decimal("1.50"))
AT = datetime(2026, 2, 3, 4, 5, 6, 789, tzinfo=UTC)

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
}

OF_MODELS = frozenset(("model", "nested"))
"""The payloads that need pydantic."""

try:
    from pydantic import BaseModel
except ImportError:
    CUSTOMER = None
else:

    class Customer(BaseModel):
        name: str
        born: date
        home: Path

    CUSTOMER = Customer(name="Ada", born=date(1815, 12, 10), home=Path("/home/ada"))
    PAYLOADS |= {
        "model": CUSTOMER,
        "nested": {"order": Order([LINE, LINE], AT, Colour.RED), "customers": [CUSTOMER]},
    }


def golden():
    config = IdempotencyConfig(key_prefix="payments")
    digests = {name: Call(payload, "charge", payload).operation(config) for name, payload in PAYLOADS.items()}
    return {name: [each.storage_key, each.fingerprint] for name, each in digests.items()}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(golden()))
