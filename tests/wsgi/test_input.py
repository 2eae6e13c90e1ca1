"""Rows 32, 33, 75, 96 and 98: how the middleware reads the body, and how the app reads it after that."""

import io
import json
from typing import Any

import pytest

from idempotency_mw import HTTPConfig, IdempotencyConfig
from tests.wsgi.driver import OneRead, Service, environ_of, slug_of
from tests.wsgi.flows import echo


@pytest.mark.row(98)
def test_the_app_can_read_the_whole_body_with_every_method_of_its_input(memory):
    body = b'{"a":\n1}\n'
    ways = {
        "length": lambda stream: stream.read(len(body)),
        "beyond": lambda stream: stream.read(10**6),
        "all": lambda stream: stream.read(),
        "lines": lambda stream: b"".join(stream),
        "readlines": lambda stream: b"".join(stream.readlines()),
        "readline": lambda stream: stream.readline() + stream.readline(4) + stream.readline(),
    }
    seen: list[Any] = []
    service = Service(lambda environ, start: seen.append(environ) or echo(environ_of(), start), memory)
    for name, way in ways.items():
        service.request(key=name, body=body).ok()
        assert way(seen[-1]["wsgi.input"]) == body
        assert seen[-1]["CONTENT_LENGTH"] == "9"
        assert seen[-1]["wsgi.input_terminated"] is True


class Trickling(io.BytesIO):
    """A stream that gives a few bytes at a time and then ends."""

    def read(self, size: int = -1, /) -> bytes:
        return super().read(min(size, 3))


@pytest.mark.row(96)
def test_a_chunked_body_is_read_to_its_end_if_the_server_terminates_the_input(memory):
    service = Service(echo, memory)
    chunked = {"CONTENT_LENGTH": "", "wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked"}
    bodies = (b"0123456789", b"0123456789", b"another")
    first, retry, other = (service.request(**chunked, **{"wsgi.input": Trickling(body)}) for body in bodies)
    assert first.ok().body == b"0123456789"
    assert retry.replayed
    assert (other.slug, service.runs) == ("key-reused", 1)


@pytest.mark.row(96)
@pytest.mark.parametrize("length", ["", None])
def test_a_body_without_a_length_is_not_read(memory, length):
    service = Service(echo, memory)
    environ = environ_of(CONTENT_LENGTH=length or "")
    if length is None:
        del environ["CONTENT_LENGTH"]
    assert list(service.middleware(environ, lambda *_: None)) == []
    assert environ["wsgi.input"].read(2) == b"{}"


@pytest.mark.row(96)
@pytest.mark.parametrize("length", ["3", "9" * 10, "9" * 5000, "-1", "+2", "2.0", "two", "\u00b2"])
def test_a_body_shorter_than_declared_or_with_an_invalid_length_is_refused(memory, length):
    service = Service(echo, memory, http=HTTPConfig(max_request_body=10**11))
    answer = service.request(CONTENT_LENGTH=length, **{"wsgi.input": io.BytesIO(b"{}")})
    assert (answer.status, answer.slug, service.runs) == (400, "body-invalid", 0)
    assert memory.calls == []


@pytest.mark.row(33)
@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("size", [100, 101])
def test_a_body_over_the_limit_is_refused(memory, size, chunked):
    service = Service(echo, memory, http=HTTPConfig(max_request_body=100))
    options: dict[str, Any] = {"wsgi.input": io.BytesIO(bytes(size)), "wsgi.input_terminated": chunked}
    answer = service.request(CONTENT_LENGTH="" if chunked else str(size), **options)
    assert slug_of(answer) == ("body-too-large" if size == 101 else None)


@pytest.mark.row(75)
def test_a_client_that_disconnects_while_its_body_is_read_starts_no_run(memory):
    class Gone(OneRead):
        def read(self, size: int = -1, /) -> bytes:
            raise ConnectionResetError

    service = Service(echo, memory)
    answer = service.request(**{"wsgi.input": Gone(b"{}")})
    assert isinstance(answer.raised, ConnectionResetError)
    assert (answer.status, service.runs, memory.calls) == (None, 0, [])


@pytest.mark.row(4, 26, 32)
def test_a_body_that_was_read_for_a_key_and_has_none_reaches_the_app(memory):
    service = Service(echo, memory, config=IdempotencyConfig(event_key_jmespath="key"))
    assert service.request(key=None, body=b'{"key": null}').ok().body == b'{"key": null}'
    assert memory.calls == []


@pytest.mark.row(24, 29, 32)
def test_a_key_in_the_body_needs_no_header(memory):
    service = Service(echo, memory, config=IdempotencyConfig(event_key_jmespath="key"))
    body = json.dumps({"key": "k"}).encode()
    assert service.request(key=None, body=body).ok().body == body
    assert service.request(key=None, body=body).replayed
    assert service.request(key="other", body=body).slug == "key-conflict"
