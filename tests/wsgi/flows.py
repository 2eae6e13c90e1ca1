"""Flows: apps that follow PEP 3333, each with another way to answer, however unusual."""

import io
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from wsgiref.util import FileWrapper

from idempotency_mw import HTTPConfig, IdempotencyConfig, current_execution
from idempotency_mw.wsgi import IdempotencyMiddleware
from tests.wsgi.driver import TEXT, Body, serve

BROKEN = RuntimeError("the app broke")
STORE_ERRORS = IdempotencyConfig(on_error="store")
SMALL = HTTPConfig(max_response_body=50, methods=("POST", "HEAD"))


def answering(
    *chunks: Any, status: str = "200 OK", headers: Iterable[tuple[str, str]] = (TEXT,), events: Any = None
) -> Any:
    """Return an app that gives these chunks in an iterable with a `close`."""

    def app(environ, start_response):
        start_response(status, list(headers))
        return Body(chunks, [] if events is None else events)

    return app


# The flows.


def a_list(environ, start_response):
    start_response("201 Created", [TEXT, ("Location", "/pay/1")])
    return [b"done"]


def two_in_a_list(environ, start_response):
    start_response("200 OK", [TEXT])
    return [b"do", b"ne"]


def nothing(environ, start_response):
    start_response("200 OK", [TEXT])
    return []


def only_empty(environ, start_response):
    start_response("200 OK", [TEXT])
    return [b""]


def no_content(environ, start_response):
    start_response("204 No Content", [])
    return []


def declared(environ, start_response):
    start_response("200 OK", [TEXT, ("Content-Length", "4")])
    return Body([b"do", b"", b"ne"], environ["test.events"])


def undeclared(environ, start_response):
    start_response("200 OK", [TEXT])
    return Body([b"", b"d", b"o", b"", b"ne", b""], environ["test.events"])


def late_start(environ, start_response):
    def body() -> Iterator[bytes]:
        yield b""
        start_response("200 OK", [TEXT])
        yield b"done"

    # The validator demands that start_response was called at the first chunk, even if that is empty.
    started = body()
    next(started)
    return Body(started, environ["test.events"])


def write_alone(environ, start_response):
    write = start_response("200 OK", [TEXT])
    write(b"do")
    write(b"")
    write(b"ne")
    return []


def write_and_iterable(environ, start_response):
    write = start_response("200 OK", [TEXT])
    write(b"d")
    write(b"o")
    return Body([b"n", b"e"], environ["test.events"])


def write_and_one(environ, start_response):
    start_response("200 OK", [TEXT])(b"do")
    return [b"ne"]


def replaced_before_output(environ, start_response):
    start_response("500 Broken", [TEXT, ("X-First", "1")])
    try:
        raise BROKEN
    except RuntimeError as error:
        start_response("200 OK", [TEXT, ("X-Last", "1")], (type(error), error, error.__traceback__))
    return [b"done"]


def a_file(environ, start_response):
    start_response("200 OK", [TEXT])
    return FileWrapper(io.BytesIO(b"done"), 3)


def reading(environ, start_response):
    body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
    start_response("200 OK", [TEXT])
    return [body]


def an_error(environ, start_response):
    start_response("503 Busy", [TEXT])
    return [b"busy"]


def too_large(environ, start_response):
    start_response("200 OK", [TEXT])
    return Body([b"x" * 30, b"y" * 30], environ["test.events"])


def discarded(environ, start_response):
    assert current_execution().discard()
    return undeclared(environ, start_response)


def raising(environ, start_response):
    raise BROKEN


def raising_after_start(environ, start_response):
    start_response("200 OK", [TEXT])
    raise BROKEN


def raising_in_body(environ, start_response):
    def body() -> Iterator[bytes]:
        yield b"d"
        yield b"o"
        raise BROKEN

    start_response("200 OK", [TEXT])
    return Body(body(), environ["test.events"])


def raising_at_the_first(environ, start_response):
    def body() -> Iterator[bytes]:
        raise BROKEN
        yield b""

    start_response("200 OK", [TEXT])
    return Body(body(), environ["test.events"])


def raising_in_close(environ, start_response):
    start_response("200 OK", [TEXT])
    return Body([b"do", b"ne"], environ["test.events"], on_close=BROKEN)


def replacing_after_output(environ, start_response):
    def body() -> Iterator[bytes]:
        yield b"do"
        yield b"ne"
        try:
            raise BROKEN
        except RuntimeError as error:
            start_response("500 Broken", [TEXT], (type(error), error, error.__traceback__))
        yield b"never"

    start_response("200 OK", [TEXT])
    return Body(body(), environ["test.events"])


KEPT = [
    a_list,
    two_in_a_list,
    nothing,
    only_empty,
    no_content,
    declared,
    undeclared,
    late_start,
    write_alone,
    write_and_iterable,
    write_and_one,
    replaced_before_output,
    a_file,
    reading,
    raising_in_close,
]
NOT_KEPT = [
    an_error,
    discarded,
    raising,
    raising_after_start,
    raising_in_body,
    raising_at_the_first,
    replacing_after_output,
]
TOMBSTONES = [too_large]
CLOSED = [
    declared,
    undeclared,
    late_start,
    write_and_iterable,
    too_large,
    discarded,
    raising_in_body,
    raising_at_the_first,
    raising_in_close,
    replacing_after_output,
]
NAMED = {"ids": lambda value: getattr(value, "__name__", None)}


def flow(app: Any, **options: Any) -> Any:
    """Make one request of a flow; the app adds its events to those of the server."""
    events: list[Any] = []
    return serve(app, events=events, **options, **{"test.events": events})


def guarded(app: Any, store: Any, guard: Callable[[Any], Any], **options: Any) -> Any:
    return guard(IdempotencyMiddleware(guard(app), persistence_store=store, http=SMALL, **options))


def echo(environ, start_response):
    """Answer with the body that the app reads."""
    start_response("200 OK", [TEXT])
    return [environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))]
