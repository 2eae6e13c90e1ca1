"""Mangum, called as Lambda calls it: `handler(event, context)`."""

import asyncio
import base64
import json
import time

from mangum import Mangum

from idempotency_mw import current_execution
from idempotency_mw.asgi import IdempotencyMiddleware
from tests.aws.events import http_api

__all__ = ["Answer", "Context", "Orders", "invoke", "keyed", "mangum"]


class Context:
    """Lambda's context object with its remaining time, fixed or running out."""

    def __init__(self, left_ms: int = 30_000, *, runs_out: bool = False) -> None:
        self._left_ms = left_ms
        self._ends = time.monotonic() + left_ms / 1000 if runs_out else None
        self.function_name = "orders"
        self.aws_request_id = "8476a536-e9f4-11e8-9739-2dfe598c3fcd"

    def get_remaining_time_in_millis(self) -> int:
        if self._ends is None:
            return self._left_ms
        return max(int((self._ends - time.monotonic()) * 1000), 0)


class Answer:
    """The answer that Lambda gets back, for every kind of event."""

    def __init__(self, out: dict) -> None:
        self.status = int(out.get("statusCode", out.get("status", 0)))
        body = out["body"]
        self.body = base64.b64decode(body) if out["isBase64Encoded"] else body.encode()
        self.headers = {name.lower(): _first(value) for name, value in (_all(out)).items()}

    @property
    def is_replay(self) -> bool:
        return self.headers.get("idempotent-replayed") == "true"

    @property
    def problem(self) -> str:
        return json.loads(self.body)["type"].rsplit(":", 1)[-1]


def _all(out: dict) -> dict:
    return (out.get("multiValueHeaders") or {}) | (out.get("headers") or {})


def _first(value: object) -> str:
    if isinstance(value, list):
        value = value[0]
    return value["value"] if isinstance(value, dict) else value


class Orders:
    """An ASGI app that records its runs. `during` is awaited in each run."""

    def __init__(self, during=None, on_lifespan=None) -> None:
        self.runs: list[dict] = []
        self.lifespans: list[str] = []
        self.during = during
        self._on_lifespan = on_lifespan

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        execution = current_execution()
        body = (await receive())["body"]
        self.runs.append({"attempt": execution.attempt, "storage_key": execution.storage_key, "body": body})
        if self.during is not None:
            await self.during()
        answer = json.dumps({"run": len(self.runs), "attempt": execution.attempt}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer))]
        await send({"type": "http.response.start", "status": 201, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    async def _live(self, receive, send) -> None:
        for stage in ("startup", "shutdown"):
            await receive()
            self.lifespans.append(stage)
            if self._on_lifespan is not None:
                await self._on_lifespan(stage)
            await send({"type": f"lifespan.{stage}.complete"})


def mangum(app, store, *, lifespan: str = "off", config=None, http=None) -> Mangum:
    return Mangum(IdempotencyMiddleware(app, persistence_store=store, config=config, http=http), lifespan=lifespan)


def invoke(handler: Mangum, event: dict, context: object = None) -> Answer:
    """Call once, and check that the call leaves no task and no timer on its loop."""
    loop = asyncio.get_event_loop()
    out = handler(event, Context() if context is None else context)
    assert asyncio.all_tasks(loop) == set()
    assert [timer for timer in loop._scheduled if not timer.cancelled()] == []
    return Answer(out)


def keyed(key: str, kind=http_api, **more) -> dict:
    """Return an event with this key."""
    return kind([("Idempotency-Key", f'"{key}"')], **more)
