"""Row 101, in this process, with the frameworks' own test clients."""

from typing import Any

import pytest
from flask import Flask, Response, abort, g, request, stream_with_context
from werkzeug.test import Client

from idempotency_mw import HTTPConfig, current_execution
from idempotency_mw.wsgi import IdempotencyMiddleware

KEY = {"Idempotency-Key": '"k-1"'}


def form() -> Any:
    return {**request.form, "attempt": current_execution().attempt}


def stream() -> Any:
    g.word = "seen"
    return stream_with_context(f"{number} {g.word}\n" for number in range(3))


def closing() -> Any:
    response = Response(iter(["a", "b"]))
    response.call_on_close(lambda: notes.append("closed"))
    return response


def teardown() -> Any:
    return "done"


def broken() -> Any:
    abort(404) if request.args else 1 / 0


def thing() -> Any:
    return "", 204


def torn_down(error: BaseException | None) -> None:
    notes.append("torn down")
    if request.path == "/teardown" and len(notes) == 1:
        raise RuntimeError("this app fails in its teardown")


notes: list[str] = []
"""What the app below has noted."""


@pytest.fixture
def app(memory) -> Flask:
    notes.clear()
    app = Flask("tests")
    http = HTTPConfig(methods=("POST", "DELETE", "GET"))
    app.wsgi_app = IdempotencyMiddleware(app.wsgi_app, persistence_store=memory, http=http)
    app.teardown_request(torn_down)
    for view in (form, stream, closing, teardown, broken, thing):
        app.add_url_rule(f"/{view.__name__}", view_func=view, methods=["POST", "DELETE", "GET"])
    return app


def twice(app: Flask, *arguments: Any, **options: Any) -> tuple[Any, Any]:
    options |= {"headers": KEY, "buffered": True}
    first, retry = (app.test_client().open(*arguments, **options) for _ in range(2))
    return first, retry


def is_replay(answer: Any) -> bool:
    return answer.headers.get("Idempotent-Replayed") == "true"


@pytest.mark.row(88, 98, 101)
def test_flask_can_read_a_form(app):
    first, retry = twice(app, "/form", method="POST", data={"amount": "7"})
    assert first.json == {"amount": "7", "attempt": 1}
    assert (retry.data, is_replay(first), is_replay(retry)) == (first.data, False, True)


@pytest.mark.row(65, 101)
def test_a_stream_keeps_flasks_context_until_its_end(app):
    app.test_client().post("/stream", buffered=True)
    without_a_key = notes.copy()
    notes.clear()
    first, retry = twice(app, "/stream", method="POST")
    assert first.data == b"0 seen\n1 seen\n2 seen\n"
    assert (retry.data, is_replay(retry)) == (first.data, True)
    assert notes == without_a_key


@pytest.mark.row(93, 101)
def test_flasks_on_close_callbacks_run_once_and_not_for_a_replay(app):
    first, retry = twice(app, "/closing", method="POST")
    assert (first.data, retry.data) == (b"ab", b"ab")
    assert notes.count("closed") == 1


@pytest.mark.row(99)
def test_a_teardown_that_raises_before_the_body_is_iterated_frees_the_key(app, memory):
    with pytest.raises(RuntimeError, match="teardown"):
        app.test_client().post("/teardown", headers=KEY)
    assert memory.calls == ["acquire", "release"]
    again, retry = twice(app, "/teardown", method="POST")
    assert (again.data, is_replay(again), is_replay(retry)) == (b"done", False, True)


@pytest.mark.row(41, 42)
@pytest.mark.parametrize("query", ["", "?missing=1"])
def test_flasks_error_page_is_not_stored(app, query):
    first, retry = twice(app, f"/broken{query}", method="POST")
    assert first.status_code == retry.status_code == (404 if query else 500)
    assert not is_replay(retry)


@pytest.mark.row(3, 66, 71)
@pytest.mark.parametrize("method", ["DELETE", "GET"])
def test_an_answer_without_a_body_is_replayed_without_one(app, method):
    first, retry = twice(app, "/thing", method=method)
    assert (first.status_code, first.data) == (retry.status_code, retry.data) == (204, b"")
    assert is_replay(retry)
    assert "Content-Length" not in retry.headers


@pytest.mark.row(37, 101)
def test_an_answer_that_the_client_has_not_read_yet_is_in_progress(app):
    client = Client(app)
    unread = client.post("/stream", headers=KEY, buffered=False)
    assert client.post("/stream", headers=KEY).status_code == 409
    assert unread.data.count(b"seen") == 3
    assert is_replay(client.post("/stream", headers=KEY))
