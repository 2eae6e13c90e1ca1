"""The protected app, for ASGI and for WSGI, on layers that note each completion in the journal.

The request's body says what an execution does:

seconds         how long it takes
die             the moment (one of `MOMENTS`) at which the first attempt kills its own process; these moments last
                microseconds, so a kill from outside would never hit them
gate            a file; the key's first execution in this process waits until it exists
seconds_again   with a gate: how long the key's later executions in this process take

Each execution creates a marker file for its key when it begins, and removes it when it ends. An execution that
finds another one's marker notes that in the journal; `judging.py` decides whether the other was dead, or stopped
past its lease, or alive, which breaks I1.
"""

import asyncio
import json
import os
import signal
import time
from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from secrets import token_hex
from typing import Any

from idempotency_mw import HTTPConfig, IdempotencyConfig, current_execution
from idempotency_mw.asgi import IdempotencyMiddleware
from idempotency_mw.core.record import Claim, Settled
from idempotency_mw.persistence.redis import AsyncRedisPersistenceLayer, RedisConnection, RedisPersistenceLayer
from idempotency_mw.persistence.sqlite import SQLitePersistenceLayer
from idempotency_mw.persistence.threaded import as_async
from idempotency_mw.wsgi import IdempotencyMiddleware as WSGIIdempotencyMiddleware
from proof.stage.journal import Journal

__all__ = ["MOMENTS", "Setting", "Stage", "asgi_app", "wsgi_app"]

_name: ContextVar[str] = ContextVar("name of the execution that runs in this context")

HTTP = HTTPConfig(bound_headers=("authorization", "cookie", "host", "x-api-key"))
"""The default, given by hand: a middleware warns when nobody chose what separates senders."""

MOMENTS = ("before the effect", "after the effect", "before complete", "after complete")


@dataclass(frozen=True, slots=True)
class Setting:
    """What a worker process needs to know. It is passed on as JSON in an environment variable."""

    folder: str
    store: dict[str, Any]
    """For SQLite `{"path": …}`; otherwise the options of a `RedisConnection`."""
    config: dict[str, Any] = field(default_factory=dict)
    timeout_seconds: float = 2.0

    def environment(self) -> dict[str, str]:
        """Return the environment variable that `here` reads."""
        return {"PROOF_SETTING": json.dumps(asdict(self))}

    @classmethod
    def here(cls) -> "Setting":
        """Return the setting that this process was started with."""
        return cls(**json.loads(os.environ["PROOF_SETTING"]))

    @property
    def journal(self) -> Path:
        """The file that the executions write to."""
        return Path(self.folder) / "journal"

    def layer(self, *, is_async: bool) -> Any:
        """Build a new layer on the store."""
        if "path" in self.store:
            layer = SQLitePersistenceLayer(self.store["path"], timeout_seconds=self.timeout_seconds)
            return as_async(layer) if is_async else layer
        kind = AsyncRedisPersistenceLayer if is_async else RedisPersistenceLayer
        return kind.connect(_connection(self.store), timeout_seconds=self.timeout_seconds)


def _connection(store: dict[str, Any]) -> RedisConnection:
    pairs = [(host, port) for host, port in store.get("sentinels", ())]
    return RedisConnection(**store | {"sentinels": pairs})


class Stage:
    """State that all executions of one process share: the journal, and which execution kills the process."""

    def __init__(self, setting: Setting) -> None:
        self.folder = Path(setting.folder)
        self.journal = Journal(setting.journal)
        self._deaths: dict[str, str] = {}
        self._known: set[str] = set()

    def is_first(self, storage_key: str) -> bool:
        """Tell whether this process runs this key for the first time."""
        is_first = storage_key not in self._known
        self._known.add(storage_key)
        return is_first

    def will_die(self, storage_key: str, moment: str) -> None:
        """Make this process kill itself when the execution of this key reaches that moment."""
        self._deaths[storage_key] = moment

    def die_if(self, storage_key: str, moment: str) -> None:
        """Kill this process with SIGKILL if this is the moment that was planned."""
        if self._deaths.get(storage_key) == moment:
            self.journal.note("dies", moment=moment)
            os.kill(os.getpid(), signal.SIGKILL)

    def note_settled(self, claim: Claim, outcome: object, result: bytes | None) -> None:
        """Write down how the store answered a completion."""
        digest = sha256(result or b"").hexdigest()
        what = "settled" if isinstance(outcome, Settled) else "lost"
        self.journal.note(what, name=_name.get(), storage_key=claim.storage_key, digest=digest)


class _Work:
    """One execution of the app."""

    def __init__(self, stage: Stage, body: bytes) -> None:
        execution = current_execution()
        assert execution is not None
        wish = json.loads(body)
        is_first = stage.is_first(execution.storage_key)
        self.seconds: float = wish.get("seconds_again" if "gate" in wish and not is_first else "seconds", 0.0)
        self._gate = wish.get("gate") if is_first else None
        self._stage = stage
        self._name = token_hex(8)
        _name.set(self._name)
        self._key, self._storage_key, self._attempt = execution.key, execution.storage_key, execution.attempt
        self._marker = stage.folder / f"{execution.storage_key}.live"
        if self._attempt == 1 and "die" in wish:
            stage.will_die(execution.storage_key, wish["die"])
        self._begin()

    def _begin(self) -> None:
        self._stage.journal.note(
            "begun", name=self._name, key=self._key, storage_key=self._storage_key, attempt=self._attempt
        )
        while not self._mark():
            pass
        self._stage.die_if(self._storage_key, MOMENTS[0])

    def _mark(self) -> bool:
        try:
            # Like O_EXCL, but the file contains the name from its first moment on, even if this process dies right
            # after.
            self._marker.symlink_to(self._name)
        except FileExistsError:
            return self._mark_beside()
        return True

    def _mark_beside(self) -> bool:
        try:
            other = str(self._marker.readlink())
        except FileNotFoundError:
            return False  # the other execution has just ended
        self._stage.journal.note("beside", name=self._name, other=other)
        self._marker.unlink(missing_ok=True)
        return False

    def effect(self) -> None:
        """Note the side effect, which must not happen twice."""
        self._stage.journal.note("effect", name=self._name)
        self._stage.die_if(self._storage_key, MOMENTS[1])

    def is_held(self) -> bool:
        """Tell whether the execution still has to wait for its gate: a file that the run will create."""
        return self._gate is not None and not (self._stage.folder / self._gate).exists()

    def end(self) -> bytes:
        """End the execution; return a body that differs from every other execution's."""
        if self._marks():
            self._marker.unlink(missing_ok=True)
        self._stage.journal.note("ended", name=self._name)
        return json.dumps({"key": self._key, "execution": self._name, "attempt": self._attempt}).encode("ascii")

    def _marks(self) -> bool:
        try:
            return str(self._marker.readlink()) == self._name
        except FileNotFoundError:
            return False


class _Noting:
    """A blocking layer that writes completions to the journal."""

    def __init__(self, layer: Any, stage: Stage) -> None:
        self._stage = stage
        self.inner = layer
        self.acquire, self.extend, self.release = layer.acquire, layer.extend, layer.release

    def complete(self, claim: Claim, result: bytes | None) -> Any:
        self._stage.die_if(claim.storage_key, MOMENTS[2])
        outcome = self.inner.complete(claim, result)
        self._stage.note_settled(claim, outcome, result)
        self._stage.die_if(claim.storage_key, MOMENTS[3])
        return outcome


class _AsyncNoting(_Noting):
    async def complete(self, claim: Claim, result: bytes | None) -> Any:
        self._stage.die_if(claim.storage_key, MOMENTS[2])
        outcome = await self.inner.complete(claim, result)
        self._stage.note_settled(claim, outcome, result)
        self._stage.die_if(claim.storage_key, MOMENTS[3])
        return outcome


def asgi_app(setting: Setting, stage: Stage | None = None, layer: Any = None) -> IdempotencyMiddleware:
    """Return the app inside its middleware, on `layer` or on a new one."""
    stage = stage or Stage(setting)
    noting = _AsyncNoting(layer or setting.layer(is_async=True), stage)

    async def app(_: Any, receive: Any, send: Any) -> None:
        work = _Work(stage, (await receive())["body"])
        await asyncio.sleep(work.seconds / 2)
        work.effect()
        await asyncio.sleep(work.seconds / 2)
        while work.is_held():  # noqa: ASYNC110 - it polls for a file
            await asyncio.sleep(0.005)
        body = work.end()
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 201, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    config = IdempotencyConfig(**setting.config)
    return IdempotencyMiddleware(app, persistence_store=noting, config=config, http=HTTP)


def wsgi_app(setting: Setting) -> WSGIIdempotencyMiddleware:
    """Return the same app for WSGI, on a new layer."""
    stage = Stage(setting)

    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        work = _Work(stage, environ["wsgi.input"].read())
        time.sleep(work.seconds / 2)
        work.effect()
        time.sleep(work.seconds / 2)
        while work.is_held():
            time.sleep(0.005)
        body = work.end()
        start_response("201 Created", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
        return [body]

    layer = _Noting(setting.layer(is_async=False), stage)
    config = IdempotencyConfig(**setting.config)
    return WSGIIdempotencyMiddleware(app, persistence_store=layer, config=config, http=HTTP)
