"""Rows 40 to 46 and 53: what is stored, by how the run ended."""

from typing import Any

import pytest

from idempotency_mw import HTTPConfig, IdempotencyConfig
from idempotency_mw.core.record import Status
from tests.asgi.driver import Play
from tests.asgi.scenario import BROKEN, STORABLE, STORE_ERRORS, arecord_of


@pytest.mark.row(40)
@pytest.mark.parametrize("play", STORABLE, ids=lambda play: f"{play.status}-{len(play.chunks)}")
async def test_successes_and_redirections_of_every_form_are_stored(surface, store, play):
    service = surface(store, play)
    first = (await service.request()).ok()
    retry = (await service.request()).ok()
    assert first.brief() == retry.brief() == (play.status, b"".join(play.chunks))
    assert (first.replayed, retry.replayed, service.runs) == (False, True, 1)


@pytest.mark.row(41)
@pytest.mark.parametrize("status", [400, 404, 409, 422, 429, 500, 503, 599])
async def test_an_error_status_frees_the_key(surface, store, status):
    service = surface(store, Play(status))
    assert (await service.request()).ok().brief() == (status, b"done")
    assert store.calls == ["acquire", "release"]
    assert await arecord_of(store) is None
    retry = (await service.request()).ok()
    assert (retry.status, retry.replayed, service.runs) == (status, False, 2)


@pytest.mark.row(41)
@pytest.mark.parametrize("status", [404, 500])
async def test_with_stored_errors_an_error_status_is_replayed(surface, store, status):
    service = surface(store, Play(status), config=STORE_ERRORS)
    await service.request()
    retry = (await service.request()).ok()
    assert (retry.brief(), retry.replayed, service.runs) == ((status, b"done"), True, 1)


@pytest.mark.row(42)
@pytest.mark.fault(9)
async def test_an_exception_before_the_response_frees_the_key_and_is_raised_unchanged(surface, store):
    service = surface(store, Play(raises=BROKEN))
    answer = await service.request()
    assert answer.raised is BROKEN
    assert answer.messages == []
    assert store.calls == ["acquire", "release"]
    assert await arecord_of(store) is None
    await service.request()
    assert service.runs == 2


@pytest.mark.row(42)
@pytest.mark.fault(9)
async def test_with_stored_errors_an_exception_is_replayed_as_a_failure(surface, store):
    service = surface(store, Play(raises=BROKEN), config=STORE_ERRORS)
    answer = await service.request()
    assert answer.raised is BROKEN
    assert answer.messages == []
    retry = (await service.request()).ok()
    assert (retry.status, retry.slug, retry.replayed, service.runs) == (500, "execution-failed", True, 1)
    assert b"broke" not in retry.body


@pytest.mark.row(42, 44)
@pytest.mark.fault(10)
@pytest.mark.parametrize("kind", [KeyError, ExceptionGroup])
async def test_an_exception_right_after_the_start_frees_the_key(surface, store, kind):
    error = kind("several", [BROKEN]) if kind is ExceptionGroup else kind("x")
    service = surface(store, Play(raises=error, raises_after=0))
    answer = await service.request()
    assert answer.raised is error
    assert answer.messages == []
    assert await arecord_of(store) is None


WHOLE_BEFORE = [
    Play(200, ((b"content-length", b"4"),), (b"do", b"ne"), BROKEN, 2),
    Play(200, ((b"content-length", b"4"),), (b"do", b"ne", b""), BROKEN, 2),
    Play(200, (), (b"done",), BROKEN, 1),
]


@pytest.mark.row(43)
@pytest.mark.parametrize("play", WHOLE_BEFORE, ids=["declared", "declared, end not sent", "one message"])
async def test_an_exception_after_a_whole_response_keeps_the_record_and_is_raised(surface, store, play):
    service = surface(store, play)
    answer = await service.request()
    assert answer.raised is BROKEN
    assert answer.brief() == (200, b"done")
    retry = (await service.request()).ok()
    assert (retry.brief(), retry.replayed, service.runs) == ((200, b"done"), True, 1)


PARTS = [
    Play(200, (), (b"do", b"ne"), BROKEN, 1),
    Play(200, ((b"content-length", b"4"),), (b"do", b"ne"), BROKEN, 1),
    Play(200, ((b"content-length", b"4"),), (b"", b"done"), BROKEN, 1),
]


@pytest.mark.row(44)
@pytest.mark.fault(10)
@pytest.mark.parametrize("play", PARTS, ids=["undeclared", "declared", "declared, empty"])
async def test_an_exception_in_mid_body_stores_no_part(surface, store, play):
    service = surface(store, play)
    answer = await service.request()
    assert answer.raised is BROKEN
    assert answer.brief() == surface.broken_off_after_one(play)
    assert not answer.ended
    assert await arecord_of(store) is None


@pytest.mark.row(44)
@pytest.mark.fault(10)
@pytest.mark.parametrize("play", PARTS, ids=["undeclared", "declared", "declared, empty"])
async def test_with_stored_errors_an_exception_in_mid_body_is_replayed_as_a_failure(surface, store, play):
    service = surface(store, play, config=STORE_ERRORS)
    assert (await service.request()).brief() == surface.broken_off_after_one(play)
    retry = (await service.request()).ok()
    assert (retry.status, retry.slug, retry.replayed, service.runs) == (500, "execution-failed", True, 1)


def returning(chunks: tuple[bytes, ...], headers: tuple[tuple[bytes, bytes], ...] = ()) -> Any:
    """An app that sends these chunks, without a last one, and returns."""

    async def app(scope, receive, send):
        await receive()
        app.runs += 1
        await send({"type": "http.response.start", "status": 200, "headers": list(headers)})
        for chunk in chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})

    app.runs = 0
    return app


@pytest.mark.row(44)
@pytest.mark.fault(10)
@pytest.mark.parametrize("on_error", ["release", "store"])
@pytest.mark.parametrize(
    ("chunks", "headers"), [((b"do",), ()), ((b"do",), ((b"content-length", b"4"),)), ((), ())], ids=str
)
async def test_a_return_in_mid_body_stores_no_part(asgi_surface, store, chunks, headers, on_error):
    service = asgi_surface(store, config=IdempotencyConfig(on_error=on_error))
    service.app.app = returning(chunks, headers)
    answer = await service.request()
    assert (answer.status, answer.body, answer.ended) == (200, b"".join(chunks), False)
    record = await arecord_of(store)
    if on_error == "release":
        assert record is None
    else:
        assert (await service.request()).slug == "execution-failed"


@pytest.mark.row(44, 45)
async def test_a_body_shorter_than_declared_is_not_stored(asgi_surface, store):
    service = asgi_surface(store, Play(200, ((b"content-length", b"9"),), (b"do", b"ne")))
    answer = await service.request()
    assert "less body" in str(answer.raised)
    assert await arecord_of(store) is None


@pytest.mark.row(44)
async def test_a_body_longer_than_declared_is_not_stored(asgi_surface, store):
    service = asgi_surface(store, Play(200, ((b"content-length", b"3"),), (b"done",)))
    assert "more body" in str((await service.request()).raised)
    assert await arecord_of(store) is None


@pytest.mark.row(46)
@pytest.mark.parametrize("on_error", ["release", "store"])
async def test_a_return_without_a_response_is_a_failure(asgi_surface, store, on_error):
    async def silent(scope, receive, send):
        silent.runs += 1

    silent.runs = 0
    service = asgi_surface(store, config=IdempotencyConfig(on_error=on_error))
    service.app.app = silent
    answer = await service.request()
    assert (answer.raised, answer.messages) == (None, [])
    retry = await service.request()
    if on_error == "release":
        assert (retry.messages, silent.runs) == ([], 2)
    else:
        assert (retry.status, retry.slug, silent.runs) == (500, "execution-failed", 1)


# Answers too large to keep.


@pytest.mark.row(53)
@pytest.mark.fault(17)
@pytest.mark.parametrize("headers", [(), ((b"content-length", b"60"),)], ids=["undeclared", "declared"])
async def test_an_answer_over_the_limit_is_sent_whole_and_leaves_a_tombstone(surface, store, headers, caplog):
    service = surface(store, Play(200, headers, (b"x" * 30, b"y" * 30)), http=HTTPConfig(max_response_body=50))
    assert (await service.request()).ok().brief() == (200, b"x" * 30 + b"y" * 30)
    assert (await arecord_of(store)).status is Status.NOT_KEPT
    assert "too large" in caplog.text
    retry = (await service.request()).ok()
    assert (retry.status, retry.slug, service.runs) == (409, "response-not-kept", 1)
    assert (await service.request(b'{"other":1}')).slug == "key-reused"


@pytest.mark.row(53)
async def test_an_answer_of_exactly_the_limit_is_stored(surface, store):
    service = surface(store, Play(200, (), (b"x" * 50,)), http=HTTPConfig(max_response_body=50))
    await service.request()
    assert (await service.request()).replayed


@pytest.mark.row(53)
async def test_an_error_answer_over_the_limit_frees_the_key(surface, store):
    service = surface(store, Play(500, (), (b"x" * 60,)), http=HTTPConfig(max_response_body=50))
    await service.request()
    assert await arecord_of(store) is None
