"""How users call this package, for type checkers: mypy and pyright check it, and it is never run.

A line that must be an error has a mark for each of them; a mark that is not needed is an error too.
"""

from typing import Any, assert_type

from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request as StarletteRequest
from starlette.types import ASGIApp

from idempotency_mw import HTTPConfig, IdempotencyConfig, current_execution, idempotent, idempotent_function
from idempotency_mw.asgi import IdempotencyMiddleware
from idempotency_mw.calls import Call
from idempotency_mw.core.record import Acquired, Claim, Existing, Lost, Record, Settled
from idempotency_mw.errors import IdempotencyAlreadyInProgressError, IdempotencyError
from idempotency_mw.handler import AsyncIdempotencyHandler, IdempotencyHandler
from idempotency_mw.http.message import Response
from idempotency_mw.persistence.base import AsyncPersistenceLayer, PersistenceLayer
from idempotency_mw.persistence.memory import MemoryPersistenceLayer
from idempotency_mw.persistence.redis import AsyncRedisPersistenceLayer, RedisConnection, RedisPersistenceLayer
from idempotency_mw.persistence.sqlite import SQLitePersistenceLayer
from idempotency_mw.serializers import CustomDictSerializer, DataclassSerializer, PydanticSerializer

# Hooks.


def tenant(request: StarletteRequest) -> str:
    return request.headers["x-tenant"]


async def user(request: StarletteRequest) -> str:
    return request.headers["x-user"]


def by_route(request: StarletteRequest) -> HTTPConfig | None:
    return HTTPConfig(required=True) if request.url.path == "/pay" else None


async def by_route_later(request: StarletteRequest) -> HTTPConfig | None:
    return by_route(request)


def number(request: StarletteRequest) -> int:
    return len(request.headers)


def note(response: Response, record: Record) -> Response:
    return Response(response.status, (*response.headers, (b"x-attempt", b"%d" % record.attempt)), response.body)


def is_storable(status: int) -> bool:
    return status == 404 or 200 <= status < 400


# Frameworks.

blocking = MemoryPersistenceLayer()
asynchronous = AsyncRedisPersistenceLayer.from_url("redis://localhost:6379/0")

fastapi = FastAPI()
fastapi.add_middleware(
    IdempotencyMiddleware,
    persistence_store=asynchronous,
    config=IdempotencyConfig(lease_seconds=30),
    http=HTTPConfig(required=True, caller=lambda request: request.headers["x-tenant"]),
)
fastapi.add_middleware(IdempotencyMiddleware, persistence_store=blocking)
fastapi.add_middleware(IdempotencyMiddleware)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]

starlette = Starlette(
    middleware=[Middleware(IdempotencyMiddleware, persistence_store=SQLitePersistenceLayer("idempotency.sqlite3"))]
)

# Wrapping.


def wrap(app: ASGIApp) -> ASGIApp:
    return IdempotencyMiddleware(app, persistence_store=blocking)


IdempotencyMiddleware(
    fastapi, persistence_store=asynchronous, http=HTTPConfig(caller=tenant, storable=is_storable)
)
IdempotencyMiddleware(fastapi, persistence_store=asynchronous, http=HTTPConfig(caller=user))
IdempotencyMiddleware(fastapi, persistence_store=blocking, http=by_route)
IdempotencyMiddleware(fastapi, persistence_store=blocking, http=by_route_later)
IdempotencyMiddleware(fastapi, persistence_store=blocking, http=lambda request: None)
IdempotencyMiddleware(fastapi, persistence_store=blocking, config=IdempotencyConfig(response_hook=note))

IdempotencyMiddleware(fastapi)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
IdempotencyMiddleware(fastapi, blocking)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
IdempotencyMiddleware(fastapi, persistence_store="redis://localhost")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
IdempotencyMiddleware(fastapi, persistence_store=blocking, http=tenant)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
HTTPConfig(caller=number)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
HTTPConfig(key_syntax="any")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
HTTPConfig(methods=7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
IdempotencyConfig(on_error="retry")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
IdempotencyConfig(lease_seconds="30")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
IdempotencyConfig(response_hook=tenant)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
IdempotencyConfig(30)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
IdempotencyConfig().lease_seconds = 5  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]

# Any collection of names.

HTTPConfig(methods={"POST"}, bound_headers=["authorization"], dropped_headers=frozenset(("date",)))

# Layers.

layers: list[PersistenceLayer] = [
    MemoryPersistenceLayer(),
    SQLitePersistenceLayer("idempotency.sqlite3"),
    RedisPersistenceLayer.from_url("redis://localhost"),
    RedisPersistenceLayer.connect(
        RedisConnection(host="localhost", mode="cluster"), key_prefix="a:", timeout_seconds=1
    ),
]
async_layers: list[AsyncPersistenceLayer] = [
    AsyncRedisPersistenceLayer.from_url("redis://localhost", key_prefix="a:")
]

wrong: PersistenceLayer = asynchronous  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
wrong_too: AsyncPersistenceLayer = blocking  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]


def use_and_close() -> None:
    with RedisPersistenceLayer.from_url("redis://localhost") as layer:
        assert_type(layer, RedisPersistenceLayer)
        layer.check()


async def use_and_close_later() -> None:
    async with AsyncRedisPersistenceLayer.from_url("redis://localhost") as layer:
        assert_type(layer, AsyncRedisPersistenceLayer)
        await layer.acheck()


# A layer around a layer, as a user writes it: without a base class.


class Sealing:
    """Seals the results."""

    def __init__(self, layer: PersistenceLayer) -> None:
        self._layer = layer

    def acquire(self, claim: Claim) -> Acquired | Existing:
        return self._layer.acquire(claim)

    def extend(self, claim: Claim) -> bool:
        return self._layer.extend(claim)

    def complete(self, claim: Claim, result: bytes | None) -> Settled | Lost:
        return self._layer.complete(claim, None if result is None else result[::-1])

    def release(self, claim: Claim) -> bool:
        return self._layer.release(claim)


class AsyncSealing:
    """The same for async code."""

    def __init__(self, layer: AsyncPersistenceLayer) -> None:
        self._layer = layer

    async def acquire(self, claim: Claim) -> Acquired | Existing:
        return await self._layer.acquire(claim)

    async def extend(self, claim: Claim) -> bool:
        return await self._layer.extend(claim)

    async def complete(self, claim: Claim, result: bytes | None) -> Settled | Lost:
        return await self._layer.complete(claim, result)

    async def release(self, claim: Claim) -> bool:
        return await self._layer.release(claim)


class Unfinished:
    """Lacks three verbs."""

    def acquire(self, claim: Claim) -> Acquired | Existing:
        raise NotImplementedError


IdempotencyMiddleware(fastapi, persistence_store=Sealing(blocking))
IdempotencyMiddleware(fastapi, persistence_store=AsyncSealing(asynchronous))
IdempotencyMiddleware(fastapi, persistence_store=Unfinished())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
Sealing(asynchronous)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

# During a run.


def pay() -> dict[str, Any]:
    execution = current_execution()
    if execution is None:
        return {}
    assert_type(execution.key, str)
    assert_type(execution.storage_key, str)
    assert_type(execution.attempt, int)
    assert_type(execution.previous_unfinished, bool)
    assert_type(execution.discard(), bool)
    execution.attempt = 2  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    return {"key": execution.key}


str(current_execution().key)  # type: ignore[union-attr]  # pyright: ignore[reportOptionalMemberAccess]


def retry_after(error: IdempotencyError) -> int | None:
    return error.retry_after_seconds if isinstance(error, IdempotencyAlreadyInProgressError) else None


# Functions.


@idempotent_function(data_keyword_argument="order", persistence_store=MemoryPersistenceLayer())
def charge(order: dict[str, int], *, trace: str = "") -> int:
    return order["amount"] + len(trace)


assert_type(charge({"amount": 1}), int)
assert_type(charge(order={"amount": 1}, trace="a"), int)
charge(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
charge({"amount": 1}, track="a")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


@idempotent_function(persistence_store=MemoryPersistenceLayer(), output_serializer=DataclassSerializer)
async def charge_later(order: str) -> Record | None:
    return None


async def later() -> None:
    assert_type(await charge_later("a"), Record | None)


@idempotent(persistence_store=MemoryPersistenceLayer(), config=IdempotencyConfig())
def on_event(event: dict[str, Any], context: object) -> str:
    return ""


assert_type(on_event({}, None), str)
assert_type(idempotent(lambda: 1, persistence_store=MemoryPersistenceLayer())(), int)


class Shop:
    @idempotent_function(data_keyword_argument="order", persistence_store=MemoryPersistenceLayer())
    def sell(self, order: str) -> bytes:
        return order.encode()

    @classmethod
    @idempotent_function(
        data_keyword_argument="order",
        persistence_store=MemoryPersistenceLayer(),
        output_serializer=CustomDictSerializer(str, bytes),
    )
    def sell_any(cls, order: str) -> bytes:
        return order.encode()


assert_type(Shop().sell("a"), bytes)
assert_type(Shop.sell_any("a"), bytes)
idempotent_function(charge)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
PydanticSerializer(Record)

assert_type(IdempotencyHandler(MemoryPersistenceLayer(), IdempotencyConfig()).handle(Call("a"), lambda: 1), int)


async def handled(handler: AsyncIdempotencyHandler) -> None:
    assert_type(await handler.handle(Call("a"), later), None)
