"""Apps for real servers: the same few endpoints in plain WSGI, Werkzeug, Flask and Django.

One process serves them all: `/flask/whole` is the Flask app. The query says what a run does. Each run writes files
into a folder when it begins and ends, and can wait there for a file, its gate. So a test counts runs across
processes, also of killed ones, and never waits by the clock.
"""

import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from secrets import token_hex
from typing import Any
from wsgiref.util import FileWrapper, shift_path_info

from idempotency_mw import HTTPConfig, IdempotencyConfig
from idempotency_mw.persistence.redis import RedisPersistenceLayer
from idempotency_mw.persistence.sqlite import SQLitePersistenceLayer
from idempotency_mw.wsgi import IdempotencyMiddleware
from tests.marking import LONGEST_WAIT, MARKS, MarkedRun

logging.basicConfig(format="%(levelname)s %(name)s %(message)s")
logging.getLogger("django.request").setLevel(logging.ERROR)  # it logs a warning for each 4xx


class Work(MarkedRun):
    """One run of a WSGI app."""

    def __init__(self, environ: dict[str, Any]) -> None:
        super().__init__(environ["QUERY_STRING"])
        self.body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))

    def gate(self, step: int) -> None:
        """Wait for the gate's file, if this is the step to wait at."""
        time.sleep(self.seconds)
        ends = time.monotonic() + LONGEST_WAIT
        while self.has_to_wait(step):
            assert time.monotonic() < ends, f"{self.run}: nobody opened the gate"
            time.sleep(0.01)

    def answer(self) -> dict[str, Any]:
        """Return the whole answer, once the gate is open."""
        self.gate(0)
        self.note("ended")
        return {"run": self.run, "nonce": self.nonce, "length": len(self.body)}

    def stream(self) -> Iterator[bytes]:
        """Yield the answer in chunks."""
        for step in range(self.chunks):
            self.gate(step)
            yield self.chunk(step)
        self.note("ended")

    def failing(self) -> Iterator[bytes]:
        """Raise in the middle of the stream, in the first run only."""
        for number, chunk in enumerate(self.stream()):
            if number == 3 and self.number == 1:
                raise RuntimeError("this app fails in mid-stream")
            yield chunk


def plain_app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    endpoint = environ["PATH_INFO"]
    work = Work(environ)
    if endpoint == "/whole":
        body = json.dumps(work.answer()).encode()
        length = ("Content-Length", str(len(body)))
        start_response(f"{work.status} Said", [("Content-Type", "application/json"), length, ("X-A", "1")])
        return [body]
    write = start_response("200 OK", [("Content-Type", "application/octet-stream")])
    if endpoint == "/file":
        path = MARKS / f"{work.run}.bin"
        path.write_bytes(b"".join(work.stream()))
        return environ.get("wsgi.file_wrapper", FileWrapper)(path.open("rb"), 1000)
    if endpoint == "/write":
        for chunk in work.stream():
            write(chunk)
        return []
    return {"/stream": work.stream, "/failing": work.failing}[endpoint]()


def werkzeug_app() -> Any:
    from werkzeug import Request, Response

    @Request.application
    def app(request: Request) -> Response:
        work = Work(request.environ)
        if request.path == "/whole":
            body = json.dumps(work.answer())
            return Response(body, work.status, {"X-A": "1"}, mimetype="application/json")
        return Response({"/stream": work.stream, "/failing": work.failing}[request.path]())

    return app


def flask_app() -> Any:
    from flask import Flask, g, jsonify, request, stream_with_context

    app = Flask("tests.wsgi.apps")

    @app.post("/whole")
    def whole() -> Any:
        work = Work(request.environ)
        return jsonify(work.answer()), work.status, {"X-A": "1"}

    @app.post("/stream")
    def stream() -> Any:
        return stream_with_context(Work(request.environ).stream())

    @app.post("/failing")
    def failing() -> Any:
        return stream_with_context(Work(request.environ).failing())

    @app.post("/closing")
    def closing() -> Any:
        work = Work(request.environ)
        response = app.response_class(work.stream())
        response.call_on_close(lambda: work.note(f"closed.{token_hex(4)}"))
        return response

    @app.post("/teardown")
    def teardown() -> Any:
        g.work = Work(request.environ)
        return jsonify(g.work.answer())

    @app.teardown_request
    def fail(_: BaseException | None) -> None:
        work = g.pop("work", None)
        if work is not None and work.number == 1:
            raise RuntimeError("this app fails in its teardown")

    return app


def django_app() -> Any:
    import django
    from django.conf import settings
    from django.core.wsgi import get_wsgi_application
    from django.http import HttpRequest, JsonResponse, StreamingHttpResponse
    from django.urls import path

    def whole(request: HttpRequest) -> Any:
        work = Work(request.environ)
        return JsonResponse(work.answer(), status=work.status, headers={"X-A": "1"})

    def stream(request: HttpRequest) -> Any:
        return StreamingHttpResponse(Work(request.environ).stream())

    def failing(request: HttpRequest) -> Any:
        return StreamingHttpResponse(Work(request.environ).failing())

    class URLs:
        urlpatterns = (path("whole", whole), path("stream", stream), path("failing", failing))

    settings.configure(
        ROOT_URLCONF=URLs, ALLOWED_HOSTS=["*"], MIDDLEWARE=[], SECRET_KEY="not secret", LOGGING_CONFIG=None
    )
    django.setup(set_prefix=False)
    return get_wsgi_application()


# The process.


def _store(url: str) -> Any:
    if url.startswith("redis:"):
        return RedisPersistenceLayer.from_url(url, timeout_seconds=1.0)
    return SQLitePersistenceLayer(url, durability="normal")


STORE = _store(os.environ["TEST_STORE"])
STORE.check()  # so that the workers inherit a store that was in use before the fork
# Given by hand: with the defaults a middleware warns when it is built, and these logs have to be empty.
BY_HAND = {"bound_headers": ("authorization", "cookie", "x-api-key", "host")}
CONFIG = IdempotencyConfig(**{"key_prefix": "served"} | json.loads(os.environ["TEST_CONFIG"]))
HTTP = BY_HAND | json.loads(os.environ["TEST_HTTP"])
FRAMEWORKS: dict[str, Callable[[], Any]] = {
    "plain": lambda: plain_app,
    "werkzeug": werkzeug_app,
    "flask": flask_app,
    "django": django_app,
}


@cache
def variant(name: str) -> Any:
    """Return the app of a name like `flask` or `plain-required`."""
    framework, *required = name.split("-")
    http = HTTPConfig(**HTTP, required=bool(required))
    return IdempotencyMiddleware(framework_app(framework), persistence_store=STORE, config=CONFIG, http=http)


@cache
def framework_app(name: str) -> Any:
    return FRAMEWORKS[name]()


def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """Choose the app by the first segment of the path."""
    if environ["PATH_INFO"] == "/ready":
        start_response("204 No Content", [])
        return []
    name = shift_path_info(environ)
    assert name is not None
    return variant(name)(environ, start_response)
