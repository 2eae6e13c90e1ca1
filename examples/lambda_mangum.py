"""A payment service on AWS Lambda whose requests are safe to retry: FastAPI behind Mangum.

    POST /charges   the key is in the Idempotency-Key header; API Gateway's authorizer identifies the caller

Deploy it with the handler `lambda_mangum.handler`, behind an HTTP API with a JWT authorizer. Or run it on this
machine, with environments that are frozen and killed as on Lambda: `make run-lambda`.

Lambda freezes environments between calls and kills them at the time-out. Therefore a claim's lease is the
remaining time of the invocation, whatever `lease_seconds` says. This needs no configuration.

Environment variables: REDIS_URL is a Redis or Valkey that all environments share (each makes one connection, in
its first call); CARD_NETWORK_SECONDS is how long a charge takes.
"""

import asyncio
import logging
import os
from uuid import NAMESPACE_URL, uuid5

from fastapi import FastAPI
from mangum import Mangum
from pydantic import BaseModel, PositiveInt
from starlette.requests import Request

from idempotency_mw import HTTPConfig, IdempotencyConfig, current_execution
from idempotency_mw.asgi import IdempotencyMiddleware
from idempotency_mw.persistence.redis import AsyncRedisPersistenceLayer

CARD_NETWORK_SECONDS = float(os.environ.get("CARD_NETWORK_SECONDS", "0"))

logger = logging.getLogger("payments")
logger.setLevel(logging.INFO)


def caller_of(request: Request) -> str:
    """Return the subject of the token, as API Gateway's authorizer found it. Each subject has its own keys."""
    subject: str = request.scope["aws.event"]["requestContext"]["authorizer"]["jwt"]["claims"]["sub"]
    return subject


store = AsyncRedisPersistenceLayer.from_url(os.environ["REDIS_URL"])

app = FastAPI(title="Payments")
app.add_middleware(
    IdempotencyMiddleware,
    persistence_store=store,
    config=IdempotencyConfig(key_prefix="payments"),  # other services on this Redis have other names
    http=HTTPConfig(required=True, caller=caller_of),
)

# Mangum would run the lifespan around each call. If the lifespan closes the store, each call needs a new
# connection.
handler = Mangum(app, lifespan="off")


class Charge(BaseModel):
    order: str
    amount: PositiveInt
    """In cents."""


class Receipt(Charge):
    reference: str
    attempt: int


async def card_network(amount: int, key: str) -> str:
    """Stand for the card network's API, which accepts keys too: it moves the money once for each key."""
    await asyncio.sleep(CARD_NETWORK_SECONDS)
    return str(uuid5(NAMESPACE_URL, f"{key}:{amount}"))


@app.post("/charges", status_code=201)
async def make_charge(charge: Charge) -> Receipt:
    """Charge the card. A killed attempt may have done so, so all attempts send the card network one key."""
    execution = current_execution()
    assert execution is not None, "the route requires a key"
    logger.info("charging %s, attempt %d", charge.order, execution.attempt)
    reference = await card_network(charge.amount, execution.storage_key)
    return Receipt(**charge.model_dump(), reference=reference, attempt=execution.attempt)
