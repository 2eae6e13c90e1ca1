"""The bare app, bare Redis calls, this library and its peers, each behind the same interface.

A peer is set up as its documentation says, with its defaults. Two settings differ, so that all do the same: no
peer isolates callers in these runs, and none waits for a running request. Each function imports its library only
when it is called, because each contestant runs in an environment of its own.
"""

import json
import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from benchmarks import workload
from benchmarks.workload import ANSWER_BYTES, BODY, OTHER_BODY, Held

__all__ = ["CONTESTANTS", "Contestant", "build"]

RETENTION_MS = 86_400_000


@dataclass(frozen=True)
class Contestant:
    """One way of answering, blocking or async. `first` runs the app; `replay` asks with a completed key."""

    first: Callable[[bytes], Any]
    replay: Callable[[bytes], Any]
    unkeyed: Callable[[], Any] | None = None
    mismatch: Callable[[bytes], Any] | None = None
    app: Any = None
    """The app for a server."""
    bare: Callable[[], Any] | None = None
    """The same app without protection."""
    held: Held | None = None
    is_async: bool = False
    statuses: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """The statuses that it answers with to a kind of request, where they differ from the others'."""


def _http(call: Callable[..., Any], app: Any, held: Held, bare: Any, *, is_async: bool) -> Contestant:
    return Contestant(
        first=lambda key: call(app, key),
        replay=lambda key: call(app, key),
        unkeyed=lambda: call(app, None),
        mismatch=lambda key: call(app, key, body=OTHER_BODY),
        app=app,
        bare=lambda: call(bare, None),
        held=held,
        is_async=is_async,
    )


_asgi = partial(_http, workload.call_asgi, is_async=True)
_wsgi = partial(_http, workload.call_wsgi, is_async=False)


# This library

BOUND = ("authorization", "cookie", "host", "x-api-key")
"""The default, given by hand: otherwise a middleware warns that nobody chose what separates senders."""


def ours(url: str, size: int) -> Contestant:
    from idempotency_mw.asgi import IdempotencyMiddleware
    from idempotency_mw.http.config import HTTPConfig
    from idempotency_mw.persistence.redis import AsyncRedisPersistenceLayer

    held = Held()
    bare = workload.asgi_app(held, size)
    store = AsyncRedisPersistenceLayer.from_url(url, timeout_seconds=60)
    http = HTTPConfig(bound_headers=BOUND, max_response_body=max(2**20, 2 * size))
    return _asgi(IdempotencyMiddleware(bare, persistence_store=store, http=http), held, bare)


def ours_stream(url: str, size: int) -> Contestant:  # noqa: ARG001 - its answers have a size of their own
    from idempotency_mw.asgi import IdempotencyMiddleware
    from idempotency_mw.http.config import HTTPConfig
    from idempotency_mw.persistence.redis import AsyncRedisPersistenceLayer

    bare = workload.streaming_app()
    store = AsyncRedisPersistenceLayer.from_url(url, timeout_seconds=60)
    app = IdempotencyMiddleware(bare, persistence_store=store, http=HTTPConfig(bound_headers=BOUND))
    return _asgi(app, Held(), bare)


def ours_wsgi(url: str, size: int) -> Contestant:
    from idempotency_mw.http.config import HTTPConfig
    from idempotency_mw.persistence.redis import RedisPersistenceLayer
    from idempotency_mw.wsgi import IdempotencyMiddleware

    held = Held()
    bare = workload.wsgi_app(held, size)
    store = RedisPersistenceLayer.from_url(url, timeout_seconds=60)
    app = IdempotencyMiddleware(bare, persistence_store=store, http=HTTPConfig(bound_headers=BOUND))
    return _wsgi(app, held, bare)


def ours_function(url: str, size: int, validated: str | None = None) -> Contestant:
    from idempotency_mw import IdempotencyConfig, idempotent_function
    from idempotency_mw.errors import IdempotencyAlreadyInProgressError, IdempotencyValidationError
    from idempotency_mw.persistence.redis import RedisPersistenceLayer

    held = Held()
    bare = workload.function(held, size)
    config = IdempotencyConfig(event_key_jmespath="key", payload_validation_jmespath=validated)
    store = RedisPersistenceLayer.from_url(url, timeout_seconds=60)
    guarded = idempotent_function(bare, persistence_store=store, config=config)
    refusals = (IdempotencyAlreadyInProgressError, 409), (IdempotencyValidationError, 422)
    return _function(guarded, held, bare, *refusals)


def _function(function: Any, held: Held, bare: Any, *refusals: tuple[type[Exception], int]) -> Contestant:
    def ask(key: bytes, body: bytes = BODY) -> int:
        try:
            function(payment={**json.loads(body), "key": key.decode()})
        except Exception as error:
            for kind, status in refusals:
                if isinstance(error, kind):
                    return status
            raise
        return 200

    def ask_bare() -> int:
        bare(payment={**json.loads(BODY), "key": "a-key"})
        return 200

    return Contestant(first=ask, replay=ask, mismatch=lambda key: ask(key, OTHER_BODY), bare=ask_bare, held=held)


# The floors: no library can be cheaper that asks Redis twice for a first request and once for a replay.


def calls(url: str, size: int) -> Contestant:
    import redis.asyncio

    client = redis.asyncio.Redis.from_url(url, max_connections=2000)  # the default is fewer
    answer = workload.json_answer(size)

    async def first(key: bytes) -> int:
        await client.set(b"calls:" + key, b"running", nx=True, px=RETENTION_MS)
        await client.set(b"calls:" + key, answer, px=RETENTION_MS)
        return 200

    async def replay(key: bytes) -> int:
        await client.get(b"calls:" + key)
        return 200

    return Contestant(first, replay, is_async=True)


def calls_blocking(url: str, size: int) -> Contestant:
    import redis

    client = redis.Redis.from_url(url)
    answer = workload.json_answer(size)

    def first(key: bytes) -> int:
        client.set(b"calls:" + key, b"running", nx=True, px=RETENTION_MS)
        client.set(b"calls:" + key, answer, px=RETENTION_MS)
        return 200

    def replay(key: bytes) -> int:
        client.get(b"calls:" + key)
        return 200

    return Contestant(first, replay)


# Peers


def idemkit(url: str, size: int) -> Contestant:
    """It fences. By default it waits for a running request, and warns where callers are not isolated."""
    from idemkit import HttpConfig, IdempotencyMiddleware, RedisBackend

    held = Held()
    bare = workload.asgi_app(held, size)
    config = HttpConfig(scope_mode="single_tenant", wait_timeout_seconds=0.0)
    return _asgi(IdempotencyMiddleware(bare, backend=RedisBackend.from_url(url), config=config), held, bare)


def idemkit_wsgi(url: str, size: int) -> Contestant:
    """Its core is async: a thread runs an event loop for it."""
    from idemkit import HttpConfig, RedisBackend, WSGIIdempotencyMiddleware

    held = Held()
    bare = workload.wsgi_app(held, size)
    config = HttpConfig(scope_mode="single_tenant", wait_timeout_seconds=0.0)
    app = WSGIIdempotencyMiddleware(bare, backend=RedisBackend.from_url(url), config=config)
    return _wsgi(app, held, bare)


def idemgate(url: str, size: int) -> Contestant:
    """It fences. It protects FastAPI routes only, so its bare app is a FastAPI app too."""
    import redis.asyncio
    from fastapi import FastAPI, Request, Response
    from idemgate import IdempotencyRoute, idempotent
    from idemgate.redis_store import RedisAcquirer

    held = Held()
    answer = workload.json_answer(size)

    async def pay(request: Request) -> Response:
        await request.body()
        if (do := held.take()) is not None:
            await do()
        return Response(answer, media_type="application/json")

    bare, app = FastAPI(), FastAPI()
    app.post("/bare")(pay)
    app.state.idempotency_store = RedisAcquirer(redis.asyncio.Redis.from_url(url))
    app.router.route_class = IdempotencyRoute
    bare.post("/payments")(pay)
    app.post("/payments")(idempotent(ttl=RETENTION_MS // 1000)(pay))
    return replace(_asgi(app, held, bare), statuses={"mismatch": (409,)})


def fastapi_idempotency_key(url: str, size: int) -> Contestant:
    """It does not fence. Its Redis backend drops the fingerprint on completion, and answers replays with 422."""
    from fastapi_idempotency_key import IdempotencyMiddleware
    from fastapi_idempotency_key.backends.redis import RedisBackend

    held = Held()
    bare = workload.asgi_app(held, size)
    contestant = _asgi(IdempotencyMiddleware(bare, backend=RedisBackend(redis_url=url)), held, bare)
    return replace(contestant, statuses={"replay": (422,)})


def ichido(url: str, size: int) -> Contestant:
    """It does not fence, and a claim has no lease of its own."""
    import redis.asyncio
    from ichido import IchidoMiddleware, RedisIdempotencyStore

    logging.getLogger("ichido").setLevel(logging.ERROR)
    held = Held()
    bare = workload.asgi_app(held, size)
    client = redis.asyncio.Redis.from_url(url, decode_responses=True)
    return _asgi(IchidoMiddleware(bare, store=RedisIdempotencyStore(client)), held, bare)


def powertools(url: str, size: int) -> Contestant:
    """It does not fence. Nothing is validated here, or it would refuse each replay.

    Its Redis layer drops the validated payload on completion. On Lambda it would know its context; the warning
    about the missing one is silenced.
    """
    import os

    import redis
    from aws_lambda_powertools.utilities.idempotency import IdempotencyConfig, idempotent_function
    from aws_lambda_powertools.utilities.idempotency.exceptions import IdempotencyAlreadyInProgressError
    from aws_lambda_powertools.utilities.idempotency.persistence.redis import CachePersistenceLayer

    os.environ.setdefault("AWS_LAMBDA_FUNCTION_NAME", "bench")
    warnings.filterwarnings("ignore", message="Couldn't determine the remaining time left")
    held = Held()
    bare = workload.function(held, size)
    config = IdempotencyConfig(event_key_jmespath="key", expires_after_seconds=RETENTION_MS // 1000)
    store = CachePersistenceLayer(client=redis.Redis.from_url(url, decode_responses=True))
    guarded = idempotent_function(bare, data_keyword_argument="payment", persistence_store=store, config=config)
    return _function(guarded, held, bare, (IdempotencyAlreadyInProgressError, 409))


Build = Callable[[str, int], Contestant]

CONTESTANTS: dict[str, Build] = {
    "ours": ours,
    "ours-stream": ours_stream,
    "ours-wsgi": ours_wsgi,
    "ours-function": ours_function,
    "ours-function-validated": partial(ours_function, validated="amount"),
    "calls": calls,
    "calls-blocking": calls_blocking,
    "idemkit": idemkit,
    "idemkit-wsgi": idemkit_wsgi,
    "idemgate": idemgate,
    "fastapi-idempotency-key": fastapi_idempotency_key,
    "ichido": ichido,
    "powertools": powertools,
}


def build(name: str, url: str, size: int = ANSWER_BYTES) -> Contestant:
    """Return the contestant of that name, for that server and size of answer."""
    return CONTESTANTS[name](url, size)
