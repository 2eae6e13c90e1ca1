"""A consumer of webhooks that may be delivered twice. Each is processed once, and its result is replayed.

    python examples/plain_function.py

Run it twice: in the second run all deliveries are replays, because the records are in a SQLite file. The
environment variable DATA_FOLDER is the folder of that file; the default is the current folder.
"""

import os
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from idempotency_mw import IdempotencyConfig, current_execution, idempotent_function
from idempotency_mw.errors import IdempotencyValidationError
from idempotency_mw.persistence.sqlite import SQLitePersistenceLayer
from idempotency_mw.serializers import DataclassSerializer

store = SQLitePersistenceLayer(Path(os.environ.get("DATA_FOLDER", ".")) / "plain_function.sqlite3")


@dataclass(frozen=True)
class Receipt:
    order: str
    paid: Decimal
    attempt: int


config = IdempotencyConfig(
    event_key_jmespath="id",  # the sender's own number of the delivery
    payload_validation_jmespath="powertools_json(body)",  # must be the same in every delivery
)


@idempotent_function(
    data_keyword_argument="event",
    persistence_store=store,
    config=config,
    output_serializer=DataclassSerializer,
    key_prefix="webhooks",  # as a script this module is called __main__; this name stays the same
)
def receive(event: dict[str, Any], *, trace: str) -> Receipt:
    execution = current_execution()
    print(f"  working on {event['id']} ({trace})")
    return Receipt(event["id"], Decimal("12.50"), execution.attempt if execution else 0)


def main() -> None:
    event = {"id": "delivery-1", "body": '{"order": "order-1", "amount": "12.50"}'}
    print("first:    ", receive(event, trace="first"))
    print("again:    ", receive(event | {"body": '{"amount": "12.50", "order": "order-1"}'}, trace="again"))
    try:
        receive(event | {"body": '{"order": "order-1", "amount": "99.99"}'}, trace="forged")
    except IdempotencyValidationError as error:
        print("forged:   ", type(error).__name__, "-", error)


if __name__ == "__main__":
    with store:
        main()
