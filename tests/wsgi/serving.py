"""Real WSGI servers as processes. As a module it runs the servers that have no command of their own."""

import importlib
import os
import sys
from socketserver import ThreadingMixIn
from typing import Any, ClassVar

from tests.asgi.serving import Server

__all__ = ["KINDS", "WSGIServer"]

_GUNICORN = (
    "gunicorn {app} --bind 127.0.0.1:{port} --workers {workers} --preload --graceful-timeout 1 --worker-class "
)
_PLAIN = "tests.wsgi.serving {app} {port} "


class WSGIServer(Server):
    """One server with its workers; servers that fork import the app before the fork."""

    commands: ClassVar = {"werkzeug": _PLAIN + "werkzeug", "wsgiref": _PLAIN + "wsgiref"}
    if hasattr(os, "fork"):
        commands |= {
            "gunicorn-gevent": _GUNICORN + "gevent",
            "gunicorn-gthread": _GUNICORN + "gthread --threads 16",
            "gunicorn-sync": _GUNICORN + "sync",
        }


KINDS = sorted(WSGIServer.commands)


def _serve_with_wsgiref(app: Any, port: int) -> None:
    from wsgiref import simple_server

    class Threaded(ThreadingMixIn, simple_server.WSGIServer):
        request_queue_size = 64
        daemon_threads = True

    class Quiet(simple_server.WSGIRequestHandler):
        def log_request(self, *_: Any) -> None: ...

    simple_server.make_server("127.0.0.1", port, app, Threaded, Quiet).serve_forever()


def _serve_with_werkzeug(app: Any, port: int) -> None:
    import logging

    from werkzeug.serving import run_simple

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    run_simple("127.0.0.1", port, app, threaded=True)


def _app(name: str) -> Any:
    module, attribute = name.split(":")
    return getattr(importlib.import_module(module), attribute)


if __name__ == "__main__":
    serve = {"wsgiref": _serve_with_wsgiref, "werkzeug": _serve_with_werkzeug}[sys.argv[3]]
    serve(_app(sys.argv[1]), int(sys.argv[2]))
