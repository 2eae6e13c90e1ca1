"""A TCP proxy on loopback that loses, delays, cuts or hangs chosen messages.

    with Proxy(server.port) as proxy:
        proxy.when(b"EVALSHA", "cut reply")             # the next one is executed, its reply is lost
        proxy.when(b"EVALSHA", "drop request", times=2) # the next two never arrive, the connection stays
        proxy.when(b"", "hang request", times=None)     # from now on no message is answered
        proxy.when(b"EVALSHA", "answer request", reply=LOADING)   # the proxy answers instead of the server
        … a client on proxy.port …
        proxy.requests                                  # the messages of all clients, as bytes

A message is the data that one side sends at once: with redis-py one command or one pipeline. A reply is the first
message after the request that matched. The first plan that matches is used, once or `times` times.
"""

import contextlib
import socket
import threading
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal, Self

__all__ = ["Proxy"]

Action = Literal[
    "drop request",  # dropped; the connection stays open
    "cut request",  # dropped, and the connection is closed
    "hang request",  # dropped, and nothing passes on this connection any more
    "delay request",
    "answer request",  # dropped; the proxy answers instead of the server
    "drop reply",  # executed by the server; the connection stays open
    "cut reply",
    "hang reply",
    "delay reply",
]
LARGEST = 4 << 20


@dataclass
class _Plan:
    match: bytes
    action: Action
    times: int | None
    seconds: float
    reply: bytes
    after: int


@dataclass
class _Link:
    """A connection of a client, and the one to the server that belongs to it."""

    client: socket.socket
    server: socket.socket
    hangs: bool = False
    on_reply: list[_Plan] = field(default_factory=list)

    def close(self) -> None:
        for side in (self.client, self.server):
            with contextlib.suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)
            side.close()


class Proxy:
    """A proxy in front of one port. It runs in threads, so that blocking tests can use it too."""

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self.requests: list[bytes] = []
        self.taken: list[str] = []
        """The actions that were taken, in their order."""
        self._plans: list[_Plan] = []
        self._links: list[_Link] = []
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def when(
        self,
        match: bytes,
        action: Action,
        *,
        times: int | None = 1,
        seconds: float = 0.1,
        reply: bytes = b"",
        after: int = 0,
    ) -> None:
        """Plan the action for the next `times` requests that contain `match`, after `after` such requests.

        `seconds` is the length of a delay, `reply` the answer of the proxy to "answer request".
        """
        with self._lock:
            if times == 0:
                return
            self._plans.append(_Plan(match, action, times, seconds, reply, after))

    @property
    def planned(self) -> int:
        """How many plans have not matched all their messages yet."""
        return len(self._plans)

    def pass_all(self) -> None:
        """Forget every plan; connections that hang stay so."""
        with self._lock:
            self._plans.clear()

    def count(self, *words: bytes) -> int:
        """Return how many requests contained one of the words."""
        return sum(any(word in request for word in words) for request in list(self.requests))

    def cut_all(self) -> None:
        """Close every open connection."""
        with self._lock:
            links, self._links = self._links, []
        for link in links:
            link.close()

    def say(self, data: bytes) -> None:
        """Send this unrequested to every connected client, as if it came from the server."""
        with self._lock:
            for link in self._links:
                with contextlib.suppress(OSError):
                    link.client.sendall(data)

    def freeze(self) -> None:
        """Pass nothing on the open connections from now on; they stay open."""
        with self._lock:
            for link in self._links:
                link.hangs = True

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # `close` alone would not wake the thread that waits in `accept`.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut_all()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self.target_port))
            except OSError:
                client.close()
                continue
            for side in (client, server):
                side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            link = _Link(client, server)
            with self._lock:
                self._links.append(link)
            threading.Thread(target=self._pump, args=(link, self._on_request, client, server), daemon=True).start()
            threading.Thread(target=self._pump, args=(link, self._on_reply, server, client), daemon=True).start()

    def _pump(self, link, ask, source, target) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(LARGEST):
                what, plan = ask(link, data)
                if what == "cut":
                    break
                if what == "hang":
                    link.hangs = True
                if what == "delay":
                    time.sleep(plan.seconds)
                if what == "answer" and not link.hangs:
                    source.sendall(plan.reply)
                if what in ("pass", "delay") and not link.hangs:
                    target.sendall(data)
        link.close()

    def _on_request(self, link, data):
        self.requests.append(data)
        plan = self._take(data)
        if plan is None:
            return "pass", None
        what, side = plan.action.split()
        if side == "reply":
            link.on_reply.append(plan)
            return "pass", None
        return what, plan

    def _on_reply(self, link, data):
        if not link.on_reply:
            return "pass", None
        plan = link.on_reply.pop(0)
        return plan.action.split()[0], plan

    def _take(self, data: bytes) -> _Plan | None:
        with self._lock:
            for plan in self._plans:
                if plan.match in data and plan.after > 0:
                    plan.after -= 1
                elif plan.match in data:
                    self.taken.append(plan.action)
                    if plan.times is not None:
                        plan.times -= 1
                    if plan.times == 0:
                        self._plans.remove(plan)
                    return plan
        return None
