"""A payment service on AWS Lambda whose requests are safe to retry: FastAPI behind Mangum.

    POST /charges   its key is in the header Idempotency-Key; who sends it, API Gateway's authorizer says

Deploy it with the handler `lambda_mangum.handler`, behind an HTTP API with a JWT authorizer. Or see it live and
die on this machine: `make run-lambda`.

Lambda freezes environments between calls and kills them at the time-out. So a claim stands for as long as the
invocation has left, whatever `lease_seconds` says; nothing has to be configured for that.

Settings come from the environment. REDIS_URL: a Redis or Valkey, where all environments see the records; each has
one connection, made by its first call. CARD_NETWORK_SECONDS: how slow a charge is.
"""

import asyncio
import logging
import os
from uuid import NAMESPACE_URL, uuid5

from fastapi import FastAPI
from mangum import Mangum
from pydantic import BaseModel, PositiveInt
from starlette.requests import Request

from idempotency_mw import HTTPConfig, current_execution
from idempotency_mw.asgi import IdempotencyMiddleware
from idempotency_mw.persistence.redis import AsyncRedisPersistenceLayer

CARD_NETWORK_SECONDS = float(os.environ.get("CARD_NETWORK_SECONDS", "0"))

logger = logging.getLogger("payments")
logger.setLevel(logging.INFO)


def caller_of(request: Request) -> str:
    """Return who the token was issued to, as the authorizer found. No two of them share a key."""
    subject: str = request.scope["aws.event"]["requestContext"]["authorizer"]["jwt"]["claims"]["sub"]
    return subject


store = AsyncRedisPersistenceLayer.from_url(os.environ["REDIS_URL"])

app = FastAPI(title="Payments")
app.add_middleware(
    IdempotencyMiddleware,
    persistence_store=store,
    http=HTTPConfig(required=True, caller=caller_of),
)

# Mangum would run a lifespan around each call. One that closes the store costs a new connection each time.
handler = Mangum(app, lifespan="off")


class Charge(BaseModel):
    order: str
    amount: PositiveInt
    """In cents."""


class Receipt(Charge):
    reference: str
    attempt: int


async def card_network(amount: int, key: str) -> str:
    """Stand for the card network's API, which knows keys too: the same one moves the money once."""
    await asyncio.sleep(CARD_NETWORK_SECONDS)
    return str(uuid5(NAMESPACE_URL, f"{key}:{amount}"))


@app.post("/charges", status_code=201)
async def make_charge(charge: Charge) -> Receipt:
    """Charge the card. An attempt that was killed may have done it, so each one sends the card network one key."""
    execution = current_execution()
    assert execution is not None, "the route requires a key"
    logger.info("charging %s, attempt %d", charge.order, execution.attempt)
    reference = await card_network(charge.amount, execution.storage_key)
    return Receipt(**charge.model_dump(), reference=reference, attempt=execution.attempt)
