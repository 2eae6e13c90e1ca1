"""Real uvicorn workers on one socket, as a program: `python -m proof.stage.workers PORT COUNT`.

All workers are forked from one process that has imported everything: a killed worker is replaced within
milliseconds, without another start of Python. The app and its layer are made before the fork. gunicorn forks by
itself; its app is `proof.stage.workers:application`.
"""

import ctypes
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any

import uvicorn

from proof.stage.app import Setting, asgi_app, wsgi_app

__all__ = ["end_with_parent", "main"]


def end_with_parent() -> None:
    """Have the kernel kill this process when its parent has ended, in whichever way."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def main(port: int, count: int) -> None:
    """Serve until killed; replace each worker that dies."""
    app = asgi_app(Setting.here())
    listener = socket.create_server(("127.0.0.1", port), backlog=1024)
    workers = {_fork(lambda: _serve(app, listener)) for _ in range(count)}
    while True:
        pid, _ = os.wait()
        workers.discard(pid)
        workers.add(_fork(lambda: _serve(app, listener)))


def _serve(app: Any, listener: socket.socket) -> None:
    config = uvicorn.Config(app, lifespan="off", access_log=False, log_level="warning", backlog=1024)
    uvicorn.Server(config).run(sockets=[listener])


def _fork(body: Callable[[], None]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            end_with_parent()
            body()
        finally:
            os._exit(1)
    return pid


def __getattr__(name: str) -> Any:
    if name == "application":  # made on demand: uvicorn does not need it
        return wsgi_app(Setting.here())
    raise AttributeError(name)


if __name__ == "__main__":
    logging.basicConfig(format="%(process)d %(levelname)s %(name)s %(message)s")
    main(int(sys.argv[1]), int(sys.argv[2]))
