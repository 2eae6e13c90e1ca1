"""The four verbs in Redis or Valkey, for blocking code."""

import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from inspect import iscoroutinefunction
from time import monotonic, sleep
from types import TracebackType
from typing import Self, cast

from idempotency_mw.core.record import Acquired, Claim, Existing, Lost, Settled
from idempotency_mw.errors import IdempotencyConfigurationError, IdempotencyPersistenceConnectionError
from idempotency_mw.persistence.redis import commands, errors, pipelines
from idempotency_mw.persistence.redis.address import OwnClient, RedisClientProtocol, RedisConnection
from idempotency_mw.persistence.redis.checks import Inspected, check_policy, check_version, warn_if_slow
from idempotency_mw.persistence.redis.clients.blocking import blocking_client
from idempotency_mw.persistence.redis.clients.closing import closers
from idempotency_mw.persistence.redis.commands import Call, TooFewReplicas
from idempotency_mw.persistence.redis.direct.blocking import DirectBlockingRedis
from idempotency_mw.persistence.redis.direct.deadline import Deadline
from idempotency_mw.persistence.redis.direct.resp import Reply
from idempotency_mw.persistence.redis.errors import DRIVER_ERRORS, NO_PERMISSION, NO_SCRIPT
from idempotency_mw.persistence.redis.layer import Outcome, RedisLayer, wait_ms
from idempotency_mw.persistence.redis.pipelines import RAW, PipelineSteps

__all__ = ["RedisPersistenceLayer"]


class RedisPersistenceLayer(RedisLayer):
    """The four verbs for blocking code.

    `timeout_seconds` bounds one verb with all its tries. `from_url` and `connect` build clients that keep to it,
    and close them. A client that is brought along is used as it is, keeps its own time-outs, and is not closed;
    construction warns if they can exceed `timeout_seconds`. A layer may be shared between threads, and over a
    fork.

    The client for a standalone server bypasses most of redis-py. `direct=False` builds redis-py's usual client.

    With `min_replicas`, a claim counts as acquired once so many replicas have acknowledged it, within half of
    the time that is left. Else it is released, and `acquire` raises before the app has run. That makes a lost or
    lagging replica visible, and promises no more: nothing is rolled back, a failover may promote a replica that
    did not acknowledge, a replica may lose what it acknowledged when it restarts, and results are not waited
    for. Existing records need no acknowledgement; while replicas are missing, they may be returned only after
    the wait.

    Every verb raises `IdempotencyPersistenceConnectionError` if the server did not answer in time,
    `IdempotencyRecordError` for a key that holds something else than a record of this version, and
    `IdempotencyPersistenceLayerError` if the server refuses.
    """

    def __init__(
        self,
        client: RedisClientProtocol | RedisConnection,
        *,
        key_prefix: str = "idempotency:",
        timeout_seconds: float = 2.0,
        min_replicas: int = 0,
        direct: bool = True,
        **client_options: object,
    ) -> None:
        if iscoroutinefunction(getattr(client, "execute_command", None)):
            raise IdempotencyConfigurationError("client is async: give it to AsyncRedisPersistenceLayer")
        super().__init__(
            client,
            key_prefix=key_prefix,
            timeout_seconds=timeout_seconds,
            min_replicas=min_replicas,
            **client_options,
        )
        self._direct = direct
        self._deadline = Deadline()
        self._building = threading.Lock()
        self._own: OwnClient[object] | None = None
        self._in_doubt: set[threading.Thread] = set()
        if not isinstance(client, RedisConnection):
            warn_if_slow(client, timeout_seconds)

    def acquire(self, claim: Claim) -> Acquired | Existing:
        """As `PersistenceLayer.acquire`. One round trip."""
        try:
            if not self.min_replicas:
                return self._run(commands.acquire(self._key(claim), claim), commands.read_acquire)
            found = self._acquire_acknowledged(claim)
        except BaseException as error:
            # The server may have carried it out, or may do so later; also if a signal or gevent ended the call.
            if isinstance(error, IdempotencyPersistenceConnectionError) or not isinstance(error, Exception):
                self._begin_release(claim)
            raise
        return commands.unless_too_few(found)

    def _acquire_acknowledged(self, claim: Claim) -> Acquired | Existing | TooFewReplicas:
        key, wanted = self._key(claim), self.min_replicas
        return self._run_pipeline(key, lambda: commands.acquire_acknowledged(key, claim, wanted, self._wait_ms))

    def _wait_ms(self) -> int:
        return wait_ms(self._client(), self._deadline.left())

    def extend(self, claim: Claim) -> bool:
        """As `PersistenceLayer.extend`. One round trip."""
        return self._run(commands.extend(self._key(claim), claim), commands.read_flag)

    def complete(self, claim: Claim, result: bytes | None) -> Settled | Lost:
        """As `PersistenceLayer.complete`. One round trip."""
        key = self._key(claim)
        temporary = self._temporary(key, claim, result)
        if result is None or temporary is None:
            return self._run(commands.complete(key, claim, result), commands.read_complete)
        return self._run_pipeline(key, lambda: commands.complete_large(key, claim, result, temporary))

    def release(self, claim: Claim) -> bool:
        """As `PersistenceLayer.release`. One round trip."""
        return self._run(commands.release(self._key(claim), claim), commands.read_flag)

    def check(self) -> None:
        """Verify the connection and the server's version; warn about a `maxmemory-policy` that evicts.

        Raises `IdempotencyPersistenceConnectionError` when the server can't be reached within
        `timeout_seconds`, and `IdempotencyConfigurationError` when it is too old.
        """
        self._deadline.start(self.timeout_seconds)
        try:
            client = cast("Inspected", self._client())
            check_version(client.info("server"))
            check_policy(client.config_get("maxmemory-policy"))
        except NO_PERMISSION:
            return  # an ACL may forbid INFO and CONFIG; the server answered, which is what matters
        except DRIVER_ERRORS as error:
            raise errors.translated(error) from error

    def close(self) -> None:
        """Wait for releases that are still under way, and close the client if this layer built it."""
        for thread in tuple(self._in_doubt):
            thread.join()
        own, self._own = self._own, None
        if own is not None:
            for close in closers(own):
                close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _client(self) -> RedisClientProtocol:
        if not isinstance(self._source, RedisConnection):
            return self._source
        own = self._own
        return self._built(self._source) if own is None else own

    def _built(self, connection: RedisConnection) -> RedisClientProtocol:
        """Build the client in one thread while the others wait: each client asks a cluster for all its slots.

        Time 0: a thread of the parent holds the lock. Time 1: another one forks. In the child nobody ever
        releases the lock, so it is waited for, for half of the time that is left. A second client does no harm.
        """
        has_lock = self._building.acquire(timeout=self._deadline.left() / 2)
        try:
            own = self._own
            if own is None:
                own = self._own = blocking_client(
                    connection, self._deadline, direct=self._direct, **self._client_options
                )
            return own
        finally:
            if has_lock:
                self._building.release()

    def _run(self, call: Call, read: Callable[[Reply], Outcome]) -> Outcome:
        """Try once on the direct path. If there is none, or it fails, go on in `_within_deadline`."""
        now, client = monotonic(), self._own
        ends = now + self.timeout_seconds
        if not isinstance(client, DirectBlockingRedis):
            return read(self._within_deadline(partial(self._ask_once, call), ends))
        try:
            reply = client.ask(call.packed(), now, ends)
        except NO_SCRIPT:
            reply = self._within_deadline(partial(self._ask_by_text, call), ends)
        except DRIVER_ERRORS as error:
            reply = self._within_deadline(partial(self._ask_once, call), ends, error)
        return read(reply)

    def _run_pipeline(self, key: str, begin: Callable[[], PipelineSteps[Outcome]]) -> Outcome:
        ends = monotonic() + self.timeout_seconds
        return self._within_deadline(lambda: pipelines.run(self._client(), key, begin()), ends)

    def _within_deadline(
        self, ask: Callable[[], Outcome], ends: float, failed: Exception | None = None
    ) -> Outcome:
        """Try until there is an answer, an error that lasts, or too little time. `failed` ended the first try."""
        self._deadline.ends = ends
        retries = errors.Retries()
        while True:
            try:
                if failed is not None:
                    raise failed
                return ask()
            except DRIVER_ERRORS as error:
                failed = None
                pause = retries.pause_after(error, ends - monotonic())
                if pause is None:
                    raise errors.translated(error) from error
            sleep(pause)

    def _ask_once(self, call: Call) -> Reply:
        try:
            return cast("Reply", self._client().execute_command(*call.by_digest, **RAW))
        except NO_SCRIPT:
            return self._ask_by_text(call)

    def _ask_by_text(self, call: Call) -> Reply:
        """Ask a server that has lost the script: by a restart, a failover, a flush, or for lack of room."""
        return cast("Reply", self._client().execute_command(*call.by_text, **RAW))

    def _begin_release(self, claim: Claim) -> None:
        """Release in a thread. Only `close` waits for it."""
        thread = threading.Thread(target=self._release_in_doubt, args=(claim,), daemon=True)
        with suppress(RuntimeError):  # there is no thread to be had: the lease ends the claim
            thread.start()  # first, because `close` in another thread can't wait for one that was not started
            self._in_doubt.difference_update([each for each in tuple(self._in_doubt) if not each.is_alive()])
            self._in_doubt.add(thread)

    def _release_in_doubt(self, claim: Claim) -> None:
        self._deadline.start(self.timeout_seconds)
        try:
            self._ask_once(commands.release(self._key(claim), claim))
        except DRIVER_ERRORS:
            return  # the lease ends it
