"""What an app sends, message by message, and what to do about each message. Awaits nothing and settles nothing.

the message that makes the answer whole, by its Content-Length or by being the only one      settle, then send
the last message of an answer without a declared length                                      hold
the start, until the next message                                                            wait
any other                                                                                    send
"""

from typing import Literal

from idempotency_mw.asgi.types import Message
from idempotency_mw.http.capture import Capture
from idempotency_mw.http.message import Response
from idempotency_mw.http.replies import Replies

__all__ = ["Outgoing", "messages"]

ToDo = Literal["wait", "hold", "settle", "send"]


class Outgoing:
    """One answer: `take` each message of the app, and send what `due` gives."""

    __slots__ = ("_capture", "_is_ended", "_pending", "_replies", "is_replaced", "is_sent")

    def __init__(self, capture: Capture, replies: Replies) -> None:
        self._capture = capture
        self._replies = replies
        self._pending: list[Message] = []  # messages to send before any later one
        self._is_ended = False  # the app has sent a message without `more_body`
        self.is_sent = False
        """Whether part of the app's own answer is out."""
        self.is_replaced = False
        """Whether the client got, or gets, another answer than the app's."""

    def take(self, message: Message, *, is_settled: bool) -> ToDo:
        """Take a message, and return what to do now."""
        if self.is_replaced:
            return "wait"
        kind = message["type"]
        if kind == "http.response.start":
            self._pending.append(self._started(message))
            return "wait"
        if kind == "http.response.body" and not self._is_ended:
            return self._take_body(message, is_settled=is_settled)
        self._pending.append(message)
        return "send" if len(self._pending) == 1 else "wait"

    def due(self) -> list[Message]:
        """Return the messages to send now, and forget them."""
        pending, self._pending = self._pending, []
        # Messages before the start (early hints) are no part of the answer.
        self.is_sent = self._capture.is_started
        return pending

    def replace(self, response: Response) -> None:
        """Send this instead of the app's answer; ignore later messages of the app."""
        self.is_replaced = True
        self._pending = messages(response)

    def _started(self, message: Message) -> Message:
        if self._capture.is_started:
            raise RuntimeError("the app has sent http.response.start twice")
        headers = tuple([(bytes(name), bytes(value)) for name, value in message.get("headers", ())])
        lowered = tuple([line if line[0].islower() else (line[0].lower(), line[1]) for line in headers])
        self._capture.start(message["status"], lowered)
        return {**message, "headers": list(self._replies.without_marker(headers))}

    def _take_body(self, message: Message, *, is_settled: bool) -> ToDo:
        if not self._capture.is_started:
            raise RuntimeError("the app has sent http.response.body before http.response.start")
        is_last = not message.get("more_body", False)
        self._capture.add(message.get("body", b""))  # first, because it raises if this is no bytes
        if is_last:
            self._is_ended = True
            self._capture.finish()
        to_do = "send" if is_settled else self._called_for(is_last=is_last)
        if to_do != "wait":
            self._pending.append(message)
        return to_do

    def _called_for(self, *, is_last: bool) -> ToDo:
        capture = self._capture
        # Whole for certain. An only message that is empty does not count: it may be the end of a broken answer.
        if capture.is_whole and (capture.has_length or not (self.is_sent or capture.is_empty)):
            return "settle"
        if is_last and not capture.has_length:
            return "hold"
        # Without a body the head alone is the whole answer, and no client gets this message.
        return "wait" if capture.is_bodiless else "send"


def messages(response: Response) -> list[Message]:
    """Return a whole response as ASGI messages."""
    start = {"type": "http.response.start", "status": response.status, "headers": list(response.headers)}
    return [start, {"type": "http.response.body", "body": response.body}]
