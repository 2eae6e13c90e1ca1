"""One run of an ASGI app under a claim: what it receives, what it sends, and when its record is completed.

Nothing that would let a client see a whole response goes out before its record is completed:

    the message that makes the answer whole, by its Content-Length or by being the only one
        settle, then send it
    the last message of an answer without a declared length
        hold it: a middleware inside may have ended a broken stream so. When the app returns, or after
        HOLD_SECONDS if it still runs (a background task), settle, then send it. An exception before that releases.
        HOLD_TURNS more turns of the loop, because a loop that was blocked meanwhile has made none.

A client that goes away is not the app's business: it runs to its end, and its answer is kept for the retry.
"""

import asyncio

from idempotency_mw.asgi.outgoing import Outgoing
from idempotency_mw.asgi.turns import Turns
from idempotency_mw.asgi.types import ASGIApp, Message, Receive, Scope, Send
from idempotency_mw.core.machine import Discarded, Ending, Execute, Failed, Kept
from idempotency_mw.execution import Executing, Execution
from idempotency_mw.handler import AsyncIdempotencyHandler
from idempotency_mw.http.message import Request
from idempotency_mw.http.replies import Replies
from idempotency_mw.shielding import until_done

__all__ = ["SCOPE_KEY", "Run"]

SCOPE_KEY = "idempotency"
HOLD_SECONDS = 0.05
HOLD_TURNS = 50

# Ways of sending a body past us, so that it could not be kept.
_HIDDEN_EXTENSIONS = ("http.response.pathsend", "http.response.zerocopysend")


class Run:
    """One run. `serve` it once."""

    def __init__(
        self,
        handler: AsyncIdempotencyHandler,
        replies: Replies,
        request: Request,
        decision: Execute,
        execution: Execution,
    ) -> None:
        self._handler = handler
        self._replies = replies
        self._request = request
        self._claim = decision.claim
        self._execution = execution
        self._heartbeat = handler.heartbeat(decision.claim)
        self._capture = replies.capture(request)
        self._outgoing = Outgoing(self._capture, replies)
        self._turns = Turns()  # an app may send from several tasks: nothing overtakes the settling
        self._is_settled = False
        self._is_client_gone = False
        self._is_answered = False
        self._answered: asyncio.Event | None = None  # for who waits for that
        self._hold: asyncio.TimerHandle | None = None
        self._late: asyncio.Task[None] | None = None

    async def serve(self, app: ASGIApp, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        """Run the app, and settle."""
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
            # Cancelled or interrupted, the claim is left as it is: what the app started may still go on.
            self._end_hold()
            if self._late is not None:
                await self._end_late(self._late)
            self._heartbeat.stop()
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
        """Give the body once. After that there is nothing to be told before the answer is out."""
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
        if not self._turns.take():
            await self._turns.wait()
        try:
            to_do = self._outgoing.take(message, is_settled=self._is_settled)
            if to_do == "settle":
                await self._settle(self._verdict())
                await self._flush()
            elif to_do == "send":
                await self._flush()
            elif to_do == "hold":
                self._hold = asyncio.get_running_loop().call_later(HOLD_SECONDS, self._after_hold)
        finally:
            self._turns.end()

    async def _flush(self) -> None:
        for message in self._outgoing.due():
            if not self._is_client_gone:
                try:
                    await self._server_send(message)
                except OSError:
                    # ASGI, since 2.4: the client has gone. Not the app's business.
                    self._is_client_gone = True
        if self._is_settled:
            self._note_answered()

    # How it ends.

    def _verdict(self) -> Ending:
        return self._replies.verdict(self._capture, discarded=self._execution.discarded)

    def _encoded(self, kept: Kept) -> bytes | None:
        return self._replies.encode(kept, self._capture)

    async def _settle(self, ending: Ending) -> None:
        """Settle once; where the claim was lost and nothing is out yet, the answer is what the record says now."""
        self._is_settled = True
        self._execution.close()
        # A beat that came after the settling would find no claim, and report it as lost.
        self._heartbeat.stop()
        reply = await self._handler.settle(self._claim, ending, self._encoded, sent=self._outgoing.is_sent)
        response = self._replies.instead(self._request, self._claim.operation, reply)
        if response is not None:
            self._outgoing.replace(response)

    async def _settle_in_turn(self) -> None:
        if not self._turns.take():
            await self._turns.wait()
        try:
            if not self._is_settled:
                await self._settle(self._verdict())
                await self._flush()
        finally:
            self._turns.end()

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
        """Cancelled while it settles, see its write done; but not its sending, which may take for ever."""
        if not late.done():
            late.cancel()
            await until_done(late)

    async def _after_exception(self) -> None:
        self._end_hold()
        if not self._is_settled:
            await self._settle(Discarded() if self._execution.discarded else Failed())
            if self._outgoing.is_replaced:
                await self._flush()
        elif self._late is not None:
            await asyncio.wait([self._late])

    def _is_over(self) -> bool:
        return self._is_settled and self._late is None and not self._turns.is_taken

    async def _after_return(self) -> None:
        self._end_hold()
        if not self._is_settled or self._turns.is_taken:
            await self._settle_in_turn()
        if self._late is not None and self._late.done():
            self._late.result()
