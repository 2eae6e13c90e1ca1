"""A payment service whose requests are safe to retry.

    POST /payments   the key is in the Idempotency-Key header
    POST /refunds    the key is in the body, in the field idempotency_key
    POST /charges    slow, to show what a duplicate gets while the first request runs
    POST /exports    a streamed response
    GET  /ledger     every run of a handler

Run it with `make run`, or with as many workers as you like:

    uvicorn fastapi_app:app --app-dir examples --workers 2

Environment variables: REDIS_URL keeps the records in Redis instead of SQLite; DATA_FOLDER is the folder of the
SQLite files; LEASE_SECONDS is how long a claim outlives its worker; CARD_NETWORK_SECONDS is how long a charge
takes.
"""

import os
import sqlite3
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Literal
from urllib.parse import quote
from uuid import NAMESPACE_URL, uuid5

from fastapi import FastAPI, Response
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, PositiveInt
from starlette.requests import Request

from idempotency_mw import HTTPConfig, IdempotencyConfig, current_execution
from idempotency_mw.asgi import IdempotencyMiddleware
from idempotency_mw.persistence.redis import AsyncRedisPersistenceLayer
from idempotency_mw.persistence.sqlite import SQLitePersistenceLayer

REDIS_URL = os.environ.get("REDIS_URL")
DATA_FOLDER = Path(os.environ.get("DATA_FOLDER", "."))
LEASE_SECONDS = float(os.environ.get("LEASE_SECONDS", "30"))
CARD_NETWORK_SECONDS = float(os.environ.get("CARD_NETWORK_SECONDS", "5"))


# What makes requests safe to retry

store = (
    AsyncRedisPersistenceLayer.from_url(REDIS_URL)
    if REDIS_URL
    else SQLitePersistenceLayer(DATA_FOLDER / "idempotency.sqlite3")
)

RULES = {
    "/payments": HTTPConfig(required=True),
    "/refunds": HTTPConfig(required=True, header=None),  # the key is only in the body
    "/charges": HTTPConfig(required=True, max_wait_seconds=10),  # honours `Prefer: wait=10`
    "/exports": HTTPConfig(required=True, max_response_body=16 * 2**20),
}


def rule_of(request: Request) -> HTTPConfig:
    """Return the route's own options. On other routes a request is protected if its client sends a key."""
    return RULES.get(request.url.path, HTTPConfig())


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncGenerator[None, None]:
    """Fail at the start, not at the first payment, if the store can't be used."""
    if isinstance(store, SQLitePersistenceLayer):
        with store:
            store.check()
            yield
    else:
        async with store:
            await store.acheck()
            yield


app = FastAPI(title="Payments", lifespan=lifespan)
app.add_middleware(
    IdempotencyMiddleware,
    persistence_store=store,
    config=IdempotencyConfig(
        lease_seconds=LEASE_SECONDS,
        event_key_jmespath="idempotency_key",
        key_prefix="payments",  # other services on this Redis have other names, and so other records
    ),
    http=rule_of,
)
# The middleware added last is the outermost. CORS is outermost, so that replays and refusals get its headers, too.
# Authentication must also be outside, or replays would be sent to unauthenticated clients. With authentication,
# give each HTTPConfig a `caller=lambda request: request.user.identity`; then two customers may choose the same
# key. Without it, as here, the same key with other credentials is refused.
app.add_middleware(
    CORSMiddleware,
    allow_origins=["https://shop.example"],
    allow_methods=["GET", "POST"],
    allow_headers=["Idempotency-Key", "Prefer"],
    expose_headers=["Idempotent-Replayed", "Retry-After"],
)


# The service. Only `carry_out` uses the key.

Kind = Literal["payment", "refund", "charge", "export"]


class Entry(BaseModel):
    """One run of a handler, as the ledger shows it. `reference` stays None if its worker died."""

    id: int
    kind: Kind
    subject: str
    amount: int
    attempt: int
    reference: str | None


class Ledger:
    """All runs, in a SQLite file that all workers share."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._execute(
            "CREATE TABLE IF NOT EXISTS entries ("
            "id INTEGER PRIMARY KEY, kind TEXT, subject TEXT, amount INTEGER, attempt INTEGER, reference TEXT)"
        )

    def begin(self, kind: Kind, subject: str, amount: int, attempt: int) -> Entry:
        row = self._execute(
            "INSERT INTO entries (kind, subject, amount, attempt) VALUES (?, ?, ?, ?) RETURNING *",
            (kind, subject, amount, attempt),
        )[0]
        return Entry.model_validate(dict(row))

    def finish(self, entry: Entry, reference: str) -> Entry:
        row = self._execute("UPDATE entries SET reference = ? WHERE id = ? RETURNING *", (reference, entry.id))[0]
        return Entry.model_validate(dict(row))

    def entries(self, subject: str | None) -> list[Entry]:
        rows = self._execute("SELECT * FROM entries WHERE subject = coalesce(?, subject) ORDER BY id", (subject,))
        return [Entry.model_validate(dict(row)) for row in rows]

    def _execute(self, statement: str, values: tuple[str | int | None, ...] = ()) -> list[sqlite3.Row]:
        with closing(sqlite3.connect(self._path, timeout=10)) as connection, connection:
            connection.row_factory = sqlite3.Row
            return connection.execute(statement, values).fetchall()


ledger = Ledger(DATA_FOLDER / "ledger.sqlite3")


def card_network(amount: int, key: str, seconds: float) -> str:
    """Stand for the card network's API, which accepts keys too: it moves the money once for each key."""
    time.sleep(seconds)
    return str(uuid5(NAMESPACE_URL, f"{key}:{amount}"))


def carry_out(kind: Kind, subject: str, amount: int, seconds: float = 0) -> Entry:
    """Write down the intention, charge the card, and write down the result.

    A worker may die in between. The next attempt can't know whether the money was moved, so every attempt sends
    the card network the same key. `storage_key` is made from caller, path and key, so no two customers share one.
    """
    execution = current_execution()
    assert execution is not None, "every route that calls this requires a key"
    entry = ledger.begin(kind, subject, amount, execution.attempt)
    return ledger.finish(entry, card_network(amount, execution.storage_key, seconds))


class Payment(BaseModel):
    order: str
    amount: PositiveInt
    """In cents."""


class Refund(Payment):
    idempotency_key: str


class Export(BaseModel):
    name: str
    pages: PositiveInt = 10


@app.post("/payments", status_code=201)
def pay(payment: Payment, response: Response) -> Entry:
    entry = carry_out("payment", payment.order, payment.amount)
    response.headers["Location"] = f"/ledger?subject={quote(entry.subject)}"
    return entry


@app.post("/refunds", status_code=201)
def refund(refund: Refund) -> Entry:
    return carry_out("refund", refund.order, -refund.amount)


@app.post("/charges", status_code=201)
def charge(payment: Payment) -> Entry:
    return carry_out("charge", payment.order, payment.amount, CARD_NETWORK_SECONDS)


@app.post("/exports")
def export(export: Export) -> StreamingResponse:
    entry = carry_out("export", export.name, 0)
    return StreamingResponse(pages_of(entry, export.pages), media_type="text/csv")


def pages_of(entry: Entry, count: int) -> Iterator[str]:
    for page in range(1, count + 1):
        time.sleep(0.1)  # reports are slow
        yield "".join(f"{entry.reference},{page},{line}\n" for line in range(1, 101))


@app.get("/ledger")
def list_entries(subject: str | None = None) -> list[Entry]:
    return ledger.entries(subject)
