"""A receiver of webhooks that processes each event once, in one file of Django.

    POST /webhooks   the key is the event's id in the body; an event may be delivered many times, even at once
    GET  /shipments  what was shipped

Run it with `make run-django`, or with as many workers as you like:

    gunicorn django_app:application --pythonpath examples --workers 2

    curl -i localhost:8000/webhooks --json '{"id": "evt_1", "delivery": 1, "data": {"order": "order-1"}}'

Environment variables: REDIS_URL keeps the records in Redis instead of SQLite; DATA_FOLDER is the folder of the
SQLite files.
"""

import json
import os
from pathlib import Path

import django
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.db import connection
from django.http import HttpRequest, JsonResponse
from django.urls import path
from django.views.decorators.http import require_GET, require_POST
from werkzeug import Request

from idempotency_mw import HTTPConfig, IdempotencyConfig
from idempotency_mw.persistence.redis import RedisPersistenceLayer
from idempotency_mw.persistence.sqlite import SQLitePersistenceLayer
from idempotency_mw.wsgi import IdempotencyMiddleware

REDIS_URL = os.environ.get("REDIS_URL")
DATA_FOLDER = Path(os.environ.get("DATA_FOLDER", "."))

settings.configure(
    ALLOWED_HOSTS=["*"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": DATA_FOLDER / "shipments.sqlite3"}},
    MIDDLEWARE=["django.middleware.common.CommonMiddleware"],
    ROOT_URLCONF=__name__,
    SECRET_KEY="nothing here is signed",
)
django.setup(set_prefix=False)


# The service. It does not need to know about keys.


@require_POST
def receive(request: HttpRequest) -> JsonResponse:
    order = json.loads(request.body)["data"]["order"]
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO shipments (parcel) VALUES (%s)", [order])
    return JsonResponse({"shipped": order})


@require_GET
def list_shipments(_: HttpRequest) -> JsonResponse:
    with connection.cursor() as cursor:
        cursor.execute("SELECT parcel FROM shipments ORDER BY id")
        return JsonResponse([parcel for (parcel,) in cursor.fetchall()], safe=False)


with connection.cursor() as cursor:
    cursor.execute("CREATE TABLE IF NOT EXISTS shipments (id INTEGER PRIMARY KEY, parcel TEXT)")
connection.close()  # a worker that is forked later opens its own connection

urlpatterns = [path("webhooks", receive), path("shipments", list_shipments)]


# What makes requests safe to retry

WEBHOOKS = HTTPConfig(required=True, header=None)  # the key is only in the body


def rule_of(request: Request) -> HTTPConfig | None:
    """Return the options of the webhook route; None for all other routes, which pass."""
    return WEBHOOKS if request.path == "/webhooks" else None


store = (
    RedisPersistenceLayer.from_url(REDIS_URL)
    if REDIS_URL
    else SQLitePersistenceLayer(DATA_FOLDER / "idempotency.sqlite3")
)
store.check()

application = IdempotencyMiddleware(
    get_wsgi_application(),
    persistence_store=store,
    config=IdempotencyConfig(
        event_key_jmespath="id",
        # Deliveries of one event have different numbers, but it is the same event.
        payload_validation_jmespath="[id, data]",
        expires_after_seconds=7 * 86400,
        key_prefix="webhooks",  # other services on this Redis have other names, and so other records
    ),
    http=rule_of,
)
