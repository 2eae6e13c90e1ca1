"""Rows 54 and 54a: the execution that the app sees, and discarding its answer."""

from dataclasses import replace

import pytest

from idempotency_mw import HTTPConfig, IdempotencyConfig, current_execution
from tests.asgi.driver import Play, perform
from tests.asgi.scenario import BROKEN, arecord_of

# Discarding.


@pytest.mark.row(54)
@pytest.mark.parametrize("on_error", ["release", "store"])
@pytest.mark.parametrize(
    "play",
    [Play(), Play(503), Play(200, (), (b"do", b"ne")), Play(chunks=(b"x" * 99,)), Play(raises=BROKEN)],
    ids=["kept", "error", "stream", "large", "exception"],
)
async def test_a_discarded_answer_is_delivered_and_its_key_released(surface, store, on_error, play):
    said = []
    playing = replace(play, seen=lambda _: said.append(current_execution().discard()))
    service = surface(
        store, playing, config=IdempotencyConfig(on_error=on_error), http=HTTPConfig(max_response_body=50)
    )
    answer = await service.request()
    assert answer.raised is play.raises
    if play.raises is None:
        assert answer.ok().brief() == (play.status, b"".join(play.chunks))
    assert said == [True]
    assert await arecord_of(store) is None


@pytest.mark.row(54)
async def test_discard_returns_false_after_the_settling(asgi_surface, store):
    said = []

    async def app(scope, receive, send):
        await perform(send, Play(200, ((b"content-length", b"4"),)))
        said.append(current_execution().discard())

    service = asgi_surface(store)
    service.app.app = app
    await service.request()
    assert said == [False]
    assert (await service.request()).replayed


@pytest.mark.row("54a")
async def test_a_middleware_inside_another_one_passes_the_request_on(surface, store):
    inner = surface(store)
    outer = surface(store)
    outer.app.app = inner.app
    assert (await outer.request()).ok().brief() == (200, b"done")
    assert store.calls == ["acquire", "complete"]
    assert (await outer.request()).replayed
    assert inner.runs == 1


@pytest.mark.row("54a")
async def test_a_foreign_value_in_the_scope_does_not_disable_the_protection(surface, store):
    service = surface(store)
    await service.request(idempotency="somebody else's")
    assert (await service.request(idempotency="somebody else's")).replayed


# The execution that the app sees.


async def test_only_the_app_sees_its_execution(asgi_surface, store):
    seen = []

    async def app(scope, receive, send):
        seen.append((scope.get("idempotency"), current_execution()))
        await perform(send, Play())

    service = asgi_surface(store)
    service.app.app = app
    await service.request(key='"quoted key"')
    await service.request(key=None)
    (execution, current), unkeyed = seen
    assert execution is current
    assert unkeyed == (None, None)
    assert execution.key == "quoted key"
    assert execution.storage_key == store.claims[0].storage_key
    assert (execution.attempt, execution.previous_unfinished) == (1, False)
    assert current_execution() is None
