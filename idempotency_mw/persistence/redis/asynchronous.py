"""The four verbs in Redis or Valkey, for asyncio code: as in `blocking.py`, and for several event loops."""

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from inspect import iscoroutinefunction
from types import TracebackType
from typing import Self, cast

from idempotency_mw.core.record import Acquired, Claim, Existing, Lost, Settled
from idempotency_mw.errors import IdempotencyConfigurationError, IdempotencyPersistenceConnectionError
from idempotency_mw.persistence.redis import commands, errors, pipelines
from idempotency_mw.persistence.redis.address import AsyncOwnClient, RedisClientProtocol, RedisConnection
from idempotency_mw.persistence.redis.checks import AsyncInspected, check_policy, check_version
from idempotency_mw.persistence.redis.clients.asynchronous import async_client
from idempotency_mw.persistence.redis.clients.closing import closers, drop
from idempotency_mw.persistence.redis.clients.limits import Limits
from idempotency_mw.persistence.redis.commands import Call, TooFewReplicas
from idempotency_mw.persistence.redis.direct.asynchronous import DirectRedis
from idempotency_mw.persistence.redis.direct.resp import Reply
from idempotency_mw.persistence.redis.errors import DRIVER_ERRORS, NO_PERMISSION, NO_SCRIPT
from idempotency_mw.persistence.redis.layer import Outcome, RedisLayer, wait_ms
from idempotency_mw.persistence.redis.pipelines import RAW, PipelineSteps

__all__ = ["AsyncRedisPersistenceLayer"]


class AsyncRedisPersistenceLayer(RedisLayer):
    """The four verbs for asyncio code.

    `from_url` and `connect` build a client for each running event loop when the layer is first used there, and
    close them. A client that is brought along is used as it is, within `timeout_seconds`, and is not closed; it
    belongs to the event loop for which it was made. `min_replicas` and what the verbs raise are as in
    `RedisPersistenceLayer`.

    The client for a standalone server sends the commands of all callers over one connection, and bypasses most of
    redis-py. `direct=False` builds redis-py's usual client, which takes a connection for each caller.
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
        is_client = not isinstance(client, RedisConnection)
        if is_client and not iscoroutinefunction(getattr(client, "execute_command", None)):
            raise IdempotencyConfigurationError("client is blocking: give it to RedisPersistenceLayer")
        super().__init__(
            client,
            key_prefix=key_prefix,
            timeout_seconds=timeout_seconds,
            min_replicas=min_replicas,
            **client_options,
        )
        self._direct = direct
        self._own: dict[asyncio.AbstractEventLoop, tuple[AsyncOwnClient, int, int]] = {}  # process, thread
        self._limits = Limits(for_replicas=bool(min_replicas))
        self._dropping = threading.Lock()
        self._in_doubt: set[asyncio.Task[None]] = set()

    async def acquire(self, claim: Claim) -> Acquired | Existing:
        """As `PersistenceLayer.acquire`. One round trip."""
        try:
            if not self.min_replicas:
                return await self._run(commands.acquire(self._key(claim), claim), commands.read_acquire)
            found = await self._acquire_acknowledged(claim)
        except (IdempotencyPersistenceConnectionError, asyncio.CancelledError):
            # The server may have carried it out, or may do so later. The acquire is over on our side, so that the
            # release can't overtake it here.
            task = asyncio.get_running_loop().create_task(self._release_in_doubt(claim))
            self._in_doubt.add(task)
            task.add_done_callback(self._in_doubt.discard)
            raise
        return commands.unless_too_few(found)

    async def _acquire_acknowledged(self, claim: Claim) -> Acquired | Existing | TooFewReplicas:
        key, wanted = self._key(claim), self.min_replicas
        clock = asyncio.get_running_loop().time
        ends = clock() + self.timeout_seconds

        def wait() -> int:
            return wait_ms(self._client(), ends - clock())

        return await self._run_pipeline(
            key, lambda: commands.acquire_acknowledged(key, claim, wanted, wait), waits=True
        )

    async def extend(self, claim: Claim) -> bool:
        """As `PersistenceLayer.extend`. One round trip."""
        return await self._run(commands.extend(self._key(claim), claim), commands.read_flag)

    async def complete(self, claim: Claim, result: bytes | None) -> Settled | Lost:
        """As `PersistenceLayer.complete`. One round trip."""
        key = self._key(claim)
        temporary = self._temporary(key, claim, result)
        if result is None or temporary is None:
            return await self._run(commands.complete(key, claim, result), commands.read_complete)
        return await self._complete_large(key, claim, result, temporary)

    async def _complete_large(self, key: str, claim: Claim, result: bytes, temporary: str) -> Settled | Lost:
        return await self._run_pipeline(key, lambda: commands.complete_large(key, claim, result, temporary))

    async def release(self, claim: Claim) -> bool:
        """As `PersistenceLayer.release`. One round trip."""
        return await self._run(commands.release(self._key(claim), claim), commands.read_flag)

    async def acheck(self) -> None:
        """As `RedisPersistenceLayer.check`."""
        try:
            async with asyncio.timeout(self.timeout_seconds):
                client = cast("AsyncInspected", self._client())
                check_version(await client.info("server"))
                check_policy(await client.config_get("maxmemory-policy"))
        except NO_PERMISSION:
            return  # an ACL may forbid INFO and CONFIG; the server answered, which is what matters
        except TimeoutError as error:
            raise self._too_late() from error
        except DRIVER_ERRORS as error:
            raise errors.translated(error) from error

    async def aclose(self) -> None:
        """Wait for releases that are still under way, and close this loop's client if this layer built it.

        Clients of loops that are over are closed too.
        """
        await self.until_released(self.timeout_seconds)
        self._drop_what_is_over()
        own = self._own.pop(asyncio.get_running_loop(), None)
        if own is not None:
            for close in closers(own[0]):
                await close()

    async def until_released(self, seconds: float) -> None:
        """Wait for this loop's releases that are still under way, and cancel them after so many seconds.

        Afterwards this layer has no task and no timer on the loop until a verb is called.
        """
        loop = asyncio.get_running_loop()
        under_way = [task for task in tuple(self._in_doubt) if task.get_loop() is loop]
        if under_way:
            _, late = await asyncio.wait(under_way, timeout=seconds)
            for task in late:
                task.cancel()
            await asyncio.wait(under_way)
        client, *_ = self._own.get(loop, (None,))
        if isinstance(client, DirectRedis):
            client.rest()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def _client(self) -> RedisClientProtocol:
        if not isinstance(self._source, RedisConnection):
            return self._source
        loop = asyncio.get_running_loop()
        own = self._own.get(loop)
        if own is None:
            self._drop_what_is_over()
            client = async_client(self._source, self.timeout_seconds, direct=self._direct, **self._client_options)
            own = self._own[loop] = client, os.getpid(), threading.get_ident()
        return own[0]

    def _drop_what_is_over(self) -> None:
        """Drop the clients of loops on which `aclose` can't be called any more."""
        with self._dropping:  # one thread at a time
            for loop, (client, process, thread) in tuple(self._own.items()):
                if _is_over(loop, thread):
                    del self._own[loop]
                    drop(client, loop, process)

    async def _run(self, call: Call, read: Callable[[Reply], Outcome]) -> Outcome:
        """Try once on an open shared connection. If there is none, or it fails, go on in `_within_deadline`."""
        client = self._client()
        reply: Reply = None
        ends = asyncio.get_running_loop().time() + self.timeout_seconds
        if isinstance(client, DirectRedis):
            command = call.packed()
            if (connection := client.connection_for(command)) is not None:
                try:
                    reply = await connection.ask(command, ends)
                except asyncio.CancelledError:
                    connection.end_if_deserted()
                    raise
        if reply is None or isinstance(reply, Exception):
            reply = await self._after_first_try(call, ends, reply)
        return read(reply)

    async def _after_first_try(self, call: Call, ends: float, failed: Exception | None) -> Reply:
        """Try until there is an answer. `failed` ended the first try; `None` if there was none."""
        if isinstance(failed, NO_SCRIPT):
            return await self._within_deadline(lambda: self._ask_by_text(call), ends)
        return await self._within_deadline(lambda: self._ask_once(call), ends, failed)

    async def _run_pipeline(
        self, key: str, begin: Callable[[], PipelineSteps[Outcome]], *, waits: bool = False
    ) -> Outcome:
        async def ask() -> Outcome:
            client = self._client()
            async with self._limits.semaphore_for(client, waits=waits):
                return await pipelines.run_async(client, key, begin())

        return await self._within_deadline(ask, asyncio.get_running_loop().time() + self.timeout_seconds)

    async def _within_deadline(
        self, ask: Callable[[], Awaitable[Outcome]], ends: float, failed: Exception | None = None
    ) -> Outcome:
        try:
            async with asyncio.timeout_at(ends):
                return await self._ask(ask, ends, failed)
        except TimeoutError as error:
            raise self._too_late() from error
        except DRIVER_ERRORS as error:
            raise errors.translated(error) from error

    async def _ask(self, ask: Callable[[], Awaitable[Outcome]], ends: float, failed: Exception | None) -> Outcome:
        """Try until there is an answer, an error that lasts, or too little time. `failed` ended the first try."""
        retries = errors.Retries()
        while True:
            try:
                if failed is not None:
                    raise failed
                return await ask()
            except DRIVER_ERRORS as error:
                failed = None
                pause = retries.pause_after(error, ends - asyncio.get_running_loop().time())
                if pause is None:
                    raise
                await asyncio.sleep(pause)

    async def _ask_once(self, call: Call) -> Reply:
        client = self._client()
        if isinstance(client, DirectRedis):  # single commands share a connection, so none has to wait in line
            return await _asked(client, call)
        async with self._limits.semaphore_for(client):
            return await _asked(client, call)

    async def _ask_by_text(self, call: Call) -> Reply:
        return cast("Reply", await self._client().execute_command(*call.by_text, **RAW))

    async def _release_in_doubt(self, claim: Claim) -> None:
        call = commands.release(self._key(claim), claim)
        with suppress(*DRIVER_ERRORS):  # with TimeoutError, which is an OSError: the lease ends the claim
            async with asyncio.timeout(self.timeout_seconds):
                try:
                    await self._ask_once(call)
                except DRIVER_ERRORS:
                    # This release may go out on the shared connection just before that is closed, because the
                    # callers of its exchange have left. The next try goes on another one.
                    await self._ask_once(call)

    def _too_late(self) -> IdempotencyPersistenceConnectionError:
        return IdempotencyPersistenceConnectionError(f"Redis did not answer within {self.timeout_seconds} s")


async def _asked(client: RedisClientProtocol, call: Call) -> Reply:
    try:
        return cast("Reply", await client.execute_command(*call.by_digest, **RAW))
    except NO_SCRIPT:  # after a restart, a failover, a flush, or because the server's cache was full
        return cast("Reply", await client.execute_command(*call.by_text, **RAW))


def _is_over(loop: asyncio.AbstractEventLoop, thread: int) -> bool:
    """Tell whether the loop is closed, as `asyncio.run` leaves it, or another one runs in its thread.

    If it runs again nevertheless, it gets a new client.
    """
    return loop.is_closed() or (thread == threading.get_ident() and not loop.is_running())
