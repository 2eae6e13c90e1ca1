"""One run of an ASGI app under a claim: what it receives, what it sends, and when its record is completed.

Nothing that would let a client see a whole response goes out before its record is completed:

    the message that makes the answer whole, by its Content-Length or by being the only one
        settle, then send it
    the last message of an answer without a declared length
        hold it, because a middleware inside may have ended a broken stream this way. Settle and send it when
        the app returns, or after HOLD_SECONDS if the app still runs (a background task). An exception before
        that releases.

A client that goes away is not the app's business: the app runs to its end, and its answer is kept for the retry.
"""

import asyncio

from idempotency_mw.asgi.lock import FairLock
from idempotency_mw.asgi.outgoing import Outgoing
from idempotency_mw.asgi.types import ASGIApp, Message, Receive, Scope, Send
from idempotency_mw.core.machine import Discarded, Ending, Execute, Failed, Kept, Stopped
from idempotency_mw.execution import Discard, Executing, Execution
from idempotency_mw.http.message import Request
from idempotency_mw.http.replies import Replies
from idempotency_mw.lifecycle.claims import AsyncClaimLifecycle
from idempotency_mw.lifecycle.shielding import until_done

__all__ = ["SCOPE_KEY", "Run"]

SCOPE_KEY = "idempotency"

HOLD_SECONDS = 0.05
"""How long the last message is held while the app still runs. Starlette's `BaseHTTPMiddleware` raises one to
several turns of the loop after its false end of a body, which takes far less; a client that waits this long
hardly notices."""

HOLD_TURNS = 50
"""Turns of the loop to wait after HOLD_SECONDS: a loop that was blocked meanwhile has made none."""

# With these extensions the server sends a file itself: the body would never pass through here to be kept.
_HIDDEN_EXTENSIONS = ("http.response.pathsend", "http.response.zerocopysend")


class Run:
    """One run. `serve` it once."""

    def __init__(
        self,
        lifecycle: AsyncClaimLifecycle,
        replies: Replies,
        request: Request,
        decision: Execute,
        key: str,
    ) -> None:
        self._lifecycle = lifecycle
        self._replies = replies
        self._request = request
        self._claim = decision.claim
        self._discard = Discard()
        self._execution = Execution(
            key=key, storage_key=self._claim.storage_key, attempt=decision.attempt, discard=self._discard
        )
        self._heartbeat = lifecycle.heartbeat(decision.claim)
        self._capture = replies.capture(request)
        self._outgoing = Outgoing(self._capture, replies)
        self._sending = FairLock()  # an app may send from several tasks, and no message may overtake the settling
        self._is_settled = False
        self._is_client_gone = False
        self._is_answered = False
        self._answered: asyncio.Event | None = None  # made when the app waits for it
        self._hold: asyncio.TimerHandle | None = None
        self._late: asyncio.Task[None] | None = None

    async def serve(self, app: ASGIApp, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        """Run the app, and settle its claim."""
        self._body: bytes | None = body
        self._server_receive = receive
        self._server_send = send
        self._heartbeat.start()
        try:
            with Executing(self._execution):
                await app(self._inner_scope(scope), self.receive, self.send)
        except Exception:
            await self._after_exception()
            raise
        else:
            if not self._is_over():
                await self._after_return()
        finally:
            self._end_hold()
            if self._late is not None:
                await self._end_late(self._late)
            self._heartbeat.stop()
            if not self._is_settled:
                await self._stop()
            self._note_answered()

    def _inner_scope(self, scope: Scope) -> Scope:
        inner = dict(scope)
        inner[SCOPE_KEY] = self._execution
        extensions = scope.get("extensions")
        if extensions and any(name in extensions for name in _HIDDEN_EXTENSIONS):
            inner["extensions"] = {
                name: value for name, value in extensions.items() if name not in _HIDDEN_EXTENSIONS
            }
        return inner

    # What the app receives.

    async def receive(self) -> Message:
        """Give the body once. After that, wait until the answer is out before asking the server for more."""
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        if not self._is_answered:
            self._answered = self._answered or asyncio.Event()
            await self._answered.wait()
        return await self._server_receive()

    def _note_answered(self) -> None:
        self._is_answered = True
        if self._answered is not None:
            self._answered.set()

    # What the app sends.

    async def send(self, message: Message) -> None:
        """Take one message of the app's answer."""
        if not self._sending.acquire():
            await self._sending.wait()
        try:
            to_do = self._outgoing.take(message, is_settled=self._is_settled)
            if to_do == "settle":
                await self._settle_as_answered()
                await self._flush()
            elif to_do == "send":
                await self._flush()
            elif to_do == "hold":
                self._hold = asyncio.get_running_loop().call_later(HOLD_SECONDS, self._after_hold)
        finally:
            self._sending.release()

    async def _flush(self) -> None:
        for message in self._outgoing.due():
            if not self._is_client_gone:
                try:
                    await self._server_send(message)
                except OSError:
                    # Since ASGI 2.4: the client has gone, which is not the app's business.
                    self._is_client_gone = True
        if self._is_settled:
            self._note_answered()

    # How it ends.

    def _encoded(self, kept: Kept) -> bytes | None:
        return self._replies.encode(kept, self._capture)

    async def _settle_as_answered(self) -> None:
        ending = self._replies.verdict(self._capture, discarded=self._discard.close())
        await self._settle(ending)

    async def _settle(self, ending: Ending) -> None:
        """Settle once. If the claim was lost and nothing is out yet, the answer is what the record says now."""
        self._is_settled = True
        # A beat that came after the settling would find no claim, and report it as lost.
        self._heartbeat.stop()
        reply = await self._lifecycle.settle(self._claim, ending, self._encoded, sent=self._outgoing.is_sent)
        response = self._replies.instead(self._request, self._claim.operation, reply)
        if response is not None:
            self._outgoing.replace(response)

    async def _stop(self) -> None:
        """Tell that the run was stopped before it ended: cancelled, interrupted, or closed. Never suspends.

        The run does not count as settled. What a task of the app still sends is kept, while the claim stands.
        """
        await self._lifecycle.settle(self._claim, Stopped(), self._encoded)

    async def _settle_in_turn(self) -> None:
        if not self._sending.acquire():
            await self._sending.wait()
        try:
            if not self._is_settled:
                await self._settle_as_answered()
                await self._flush()
        finally:
            self._sending.release()

    def _end_hold(self) -> None:
        if self._hold is not None:
            self._hold.cancel()

    def _after_hold(self) -> None:
        self._late = asyncio.get_running_loop().create_task(self._settle_late())

    async def _settle_late(self) -> None:
        for _ in range(HOLD_TURNS):
            await asyncio.sleep(0)
        await self._settle_in_turn()

    async def _end_late(self, late: asyncio.Task[None]) -> None:
        """Cancel the late settling.

        A write that is under way is finished; sending is not, it may take for ever.
        """
        if not late.done():
            late.cancel()
            await until_done(late)

    async def _after_exception(self) -> None:
        self._end_hold()
        if not self._is_settled:
            await self._settle(Discarded() if self._discard.close() else Failed())
            if self._outgoing.is_replaced:
                await self._flush()
        elif self._late is not None:
            await asyncio.wait([self._late])

    def _is_over(self) -> bool:
        return self._is_settled and self._late is None and not self._sending.is_locked

    async def _after_return(self) -> None:
        self._end_hold()
        if not self._is_settled or self._sending.is_locked:
            await self._settle_in_turn()
        if self._late is not None and self._late.done():
            self._late.result()
