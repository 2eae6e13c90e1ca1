"""A theatre's box office whose requests are safe to retry, in Flask.

    POST /bookings   books a seat; the key is in the Idempotency-Key header
    POST /plans      a streamed response: the seats of a house, row by row
    GET  /bookings   what was booked

Each agency has an API key, and its own idempotency keys: no agency gets another agency's answer. Run it with
`make run-flask`, or with as many workers as you like:

    gunicorn flask_app:app --pythonpath examples --workers 2

    curl -i localhost:8000/bookings -H 'X-API-Key: secret-of-north' -H 'Idempotency-Key: "b1"' \\
         --json '{"seat": "A1"}'

Environment variables: REDIS_URL keeps the records in Redis instead of SQLite; DATA_FOLDER is the folder of the
SQLite files; LEASE_SECONDS is how long a claim outlives its worker; PRINTER_SECONDS is how long a ticket takes.
"""

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from flask import Flask, abort, request
from werkzeug import Request

from idempotency_mw import HTTPConfig, IdempotencyConfig, current_execution
from idempotency_mw.persistence.redis import RedisPersistenceLayer
from idempotency_mw.persistence.sqlite import SQLitePersistenceLayer
from idempotency_mw.wsgi import IdempotencyMiddleware

REDIS_URL = os.environ.get("REDIS_URL")
DATA_FOLDER = Path(os.environ.get("DATA_FOLDER", "."))
LEASE_SECONDS = float(os.environ.get("LEASE_SECONDS", "30"))
PRINTER_SECONDS = float(os.environ.get("PRINTER_SECONDS", "0"))
AGENCIES = {"secret-of-north": "north", "secret-of-south": "south"}

app = Flask(__name__)


# What makes requests safe to retry


def agency_of(request: Request) -> str:
    """Return the agency that sent the request; "" if it is unknown."""
    return AGENCIES.get(request.headers.get("X-API-Key", ""), "")


# Built before the workers are forked, if they are; each worker opens its own connections.
store = (
    RedisPersistenceLayer.from_url(REDIS_URL)
    if REDIS_URL
    else SQLitePersistenceLayer(DATA_FOLDER / "idempotency.sqlite3")
)
store.check()  # fail at the start, not at the first booking, if it can't be used

# The middleware is outside Flask, so nothing in Flask runs before it. Therefore `caller` must identify the client
# before a replay is sent.
app.wsgi_app = IdempotencyMiddleware(  # type: ignore[method-assign]
    app.wsgi_app,
    persistence_store=store,
    config=IdempotencyConfig(
        lease_seconds=LEASE_SECONDS,
        key_prefix="bookings",  # other services on this Redis have other names, and so other records
    ),
    http=HTTPConfig(required=True, caller=agency_of),
)


# The service. It does not need to know about keys.


def execute(statement: str, *values: str | int) -> list[dict[str, Any]]:
    with closing(sqlite3.connect(DATA_FOLDER / "bookings.sqlite3", timeout=10)) as connection, connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute(statement, values)]


execute("CREATE TABLE IF NOT EXISTS bookings (id INTEGER PRIMARY KEY, agency TEXT, seat TEXT, attempt INTEGER)")


@app.post("/bookings")
def book() -> tuple[dict[str, Any], int]:
    seat = request.get_json().get("seat")
    if not isinstance(seat, str):
        abort(422)
    execution = current_execution()
    assert execution is not None, "every POST that gets here has a key"
    booking = execute(
        "INSERT INTO bookings (agency, seat, attempt) VALUES (?, ?, ?) RETURNING *",
        agency_of(request),
        seat,
        execution.attempt,
    )[0]
    time.sleep(PRINTER_SECONDS)
    return booking, 201


@app.post("/plans")
def plan() -> tuple[Iterator[str], dict[str, str]]:
    rows = int(request.get_json().get("rows", 10))
    return (f"{row},{seat}\n" for row in range(1, rows + 1) for seat in "ABCD"), {"Content-Type": "text/csv"}


@app.get("/bookings")
def list_bookings() -> list[dict[str, Any]]:
    return execute("SELECT * FROM bookings ORDER BY id")
