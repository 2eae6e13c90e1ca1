"""The four verbs in Redis or Valkey, for asyncio code: as `redis/blocking.py`, and for several event loops."""

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from inspect import iscoroutinefunction
from types import TracebackType
from typing import Any, Self

from idempotency_mw.core.record import Acquired, Claim, Existing, Lost, Settled
from idempotency_mw.errors import IdempotencyConfigurationError, IdempotencyPersistenceConnectionError
from idempotency_mw.persistence.redis import commands, errors, pipelines
from idempotency_mw.persistence.redis.address import RedisClientProtocol, RedisConnection
from idempotency_mw.persistence.redis.checks import check_policy, check_version
from idempotency_mw.persistence.redis.clients.asynchronous import async_client
from idempotency_mw.persistence.redis.clients.closing import closers, drop
from idempotency_mw.persistence.redis.clients.limits import Queues
from idempotency_mw.persistence.redis.commands import Call, Short
from idempotency_mw.persistence.redis.direct.asynchronous import DirectRedis
from idempotency_mw.persistence.redis.errors import DRIVER_ERRORS, NO_PERMISSION, NO_SCRIPT
from idempotency_mw.persistence.redis.layer import RedisLayer, Reply, wait_ms
from idempotency_mw.persistence.redis.pipelines import RAW, Talk

__all__ = ["AsyncRedisPersistenceLayer"]


class AsyncRedisPersistenceLayer(RedisLayer):
    """The four verbs for asyncio code.

    A client that is brought along is used as it is, under this layer's deadline, and is not closed; it belongs
    to the event loop that it was made for. `from_url` and `connect` build a client for each running event loop,
    when first used there, and close them. `min_replicas` is as for `RedisPersistenceLayer`.

    A client that is built for a standalone server sends the commands of all callers over one connection, past
    most of redis-py; `direct=False` builds redis-py's usual client, which takes a connection for each caller.
    """

    def __init__(
        self,
        client: RedisClientProtocol | RedisConnection,
        *,
        key_prefix: str = "idempotency:",
        timeout_seconds: float = 2.0,
        min_replicas: int = 0,
        direct: bool = True,
        **client_options: Any,
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
        self._own: dict[asyncio.AbstractEventLoop, tuple[RedisClientProtocol, int, int]] = {}  # process, thread
        self._queues = Queues(for_replicas=bool(min_replicas))
        self._dropping = threading.Lock()
        self._in_doubt: set[asyncio.Task[None]] = set()

    async def acquire(self, claim: Claim) -> Acquired | Existing:
        """As `PersistenceLayer.acquire`. One round trip."""
        try:
            if not self.min_replicas:
                return await self._run(commands.acquire(self._key(claim), claim), commands.read_acquire)
            found = await self._acquire_acknowledged(claim)
        except (IdempotencyPersistenceConnectionError, asyncio.CancelledError):
            # The server may have heard it, or hear it yet. The acquire itself is over here, so that this
            # release can't overtake it on our side.
            task = asyncio.get_running_loop().create_task(self._release_in_doubt(claim))
            self._in_doubt.add(task)
            task.add_done_callback(self._in_doubt.discard)
            raise
        return commands.unless_short(found)

    async def _acquire_acknowledged(self, claim: Claim) -> Acquired | Existing | Short:
        key, wanted = self._key(claim), self.min_replicas
        clock = asyncio.get_running_loop().time
        ends = clock() + self.timeout_seconds

        def wait() -> int:
            return wait_ms(self._client(), ends - clock())

        return await self._talk(key, lambda: commands.acquire_acknowledged(key, claim, wanted, wait), waits=True)

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
        return await self._talk(key, lambda: commands.complete_large(key, claim, result, temporary))

    async def release(self, claim: Claim) -> bool:
        """As `PersistenceLayer.release`. One round trip."""
        return await self._run(commands.release(self._key(claim), claim), commands.read_flag)

    async def acheck(self) -> None:
        """As `RedisPersistenceLayer.check`."""
        try:
            async with asyncio.timeout(self.timeout_seconds):
                client: Any = self._client()
                check_version(await client.info("server"))
                check_policy(await client.config_get("maxmemory-policy"))
        except NO_PERMISSION:
            return  # an ACL may well forbid INFO and CONFIG; what answers is there
        except TimeoutError as error:
            raise self._too_late() from error
        except DRIVER_ERRORS as error:
            raise errors.translated(error) from error

    async def aclose(self) -> None:
        """Wait for releases that are still under way, and close this loop's client, if this layer built it.

        Clients of loops that are over go too.
        """
        await self.until_released(self.timeout_seconds)
        self._drop_what_is_over()
        own = self._own.pop(asyncio.get_running_loop(), None)
        if own is not None:
            for close in closers(own[0]):
                await close()

    async def until_released(self, seconds: float) -> None:
        """Wait for this loop's releases that are still under way; stop them after so many seconds.

        After that nothing of this layer is left on the loop, unless somebody asks.
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

    async def _run(self, call: Call, read: Callable[[Any], Reply]) -> Reply:
        """Ask once, where a connection is ready; only where that brings no answer there is more to do."""
        client, reply = self._client(), None
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

    async def _after_first_try(self, call: Call, ends: float, failed: Exception | None) -> Any:
        """Ask until there is an answer. The first try has failed, or there was none."""
        if isinstance(failed, NO_SCRIPT):
            return await self._within_deadline(lambda: self._ask_by_text(call), ends)
        return await self._within_deadline(lambda: self._ask_once(call), ends, failed)

    async def _talk(self, key: str, begin: Callable[[], Talk[Reply]], *, waits: bool = False) -> Reply:
        async def ask() -> Reply:
            client = self._client()
            async with self._queues.of(client, waits=waits):
                return await pipelines.ask_async(client, key, begin())

        return await self._within_deadline(ask, asyncio.get_running_loop().time() + self.timeout_seconds)

    async def _within_deadline(
        self, ask: Callable[[], Awaitable[Reply]], ends: float, failed: Exception | None = None
    ) -> Reply:
        try:
            async with asyncio.timeout_at(ends):
                return await self._ask(ask, ends, failed)
        except TimeoutError as error:
            raise self._too_late() from error
        except DRIVER_ERRORS as error:
            raise errors.translated(error) from error

    async def _ask(self, ask: Callable[[], Awaitable[Reply]], ends: float, failed: Exception | None) -> Reply:
        """Ask until there is an answer, an error that lasts, or no time for another try. One may have failed."""
        pauses = errors.pauses()
        while True:
            try:
                if failed is not None:
                    raise failed
                return await ask()
            except DRIVER_ERRORS as error:
                failed = None
                pause = next(pauses)
                if not errors.is_passing(error) or ends - asyncio.get_running_loop().time() <= pause:
                    raise
                await asyncio.sleep(pause)

    async def _ask_once(self, call: Call) -> Any:
        client = self._client()
        if isinstance(client, DirectRedis):
            return await _said(client, call)  # single commands share a connection: nobody keeps another from it
        async with self._queues.of(client):
            return await _said(client, call)

    async def _ask_by_text(self, call: Call) -> Any:
        return await self._client().execute_command(*call.by_text, **RAW)

    async def _release_in_doubt(self, claim: Claim) -> None:
        call = commands.release(self._key(claim), claim)
        with suppress(*DRIVER_ERRORS):  # TimeoutError is an OSError; the lease ends it
            async with asyncio.timeout(self.timeout_seconds):
                try:
                    await self._ask_once(call)
                except DRIVER_ERRORS:
                    # Once those have gone for whom a shared connection works, it is closed under this one.
                    await self._ask_once(call)

    def _too_late(self) -> IdempotencyPersistenceConnectionError:
        return IdempotencyPersistenceConnectionError(f"Redis did not answer within {self.timeout_seconds} s")


async def _said(client: RedisClientProtocol, call: Call) -> Any:
    try:
        return await client.execute_command(*call.by_digest, **RAW)
    except NO_SCRIPT:
        # Restarted, failed over, flushed, or evicted from the script cache.
        return await client.execute_command(*call.by_text, **RAW)


def _is_over(loop: asyncio.AbstractEventLoop, thread: int) -> bool:
    """Tell whether the loop is closed, as `asyncio.run` leaves it, or another one runs in its thread.

    Should it run again nevertheless, it gets a new client.
    """
    return loop.is_closed() or (thread == threading.get_ident() and not loop.is_running())
