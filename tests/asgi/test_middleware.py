"""The middleware's construction: invalid options, missing packages, and trio."""

import pytest

from idempotency_mw import HTTPConfig
from idempotency_mw.asgi import IdempotencyMiddleware
from tests.asgi.driver import ASGISurface


def test_a_keyed_request_under_trio_is_a_configuration_error(memory):
    import trio

    from idempotency_mw.errors import IdempotencyConfigurationError

    async def app(scope, receive, send):
        seen.append(scope)

    seen = []
    middleware = IdempotencyMiddleware(app, persistence_store=memory)
    scope = {"type": "http", "method": "POST", "path": "/", "headers": [(b"idempotency-key", b"k")]}
    with pytest.raises(IdempotencyConfigurationError, match="asyncio"):
        trio.run(middleware, scope, None, None)
    assert seen == []
    trio.run(middleware, {**scope, "headers": []}, None, None)
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"persistence_store": object()}, "persistence_store"),
        ({"persistence_store": None}, "persistence_store"),
        ({"config": {}}, "config"),
        ({"http": "no"}, "http"),
        ({"http": HTTPConfig(header=None)}, "event_key_jmespath"),
    ],
)
def test_an_invalid_option_is_a_configuration_error_at_construction(memory, options, match):
    from idempotency_mw.errors import IdempotencyConfigurationError

    with pytest.raises(IdempotencyConfigurationError, match=match):
        IdempotencyMiddleware(None, **{"persistence_store": memory, **options})


def test_hooks_without_starlette_are_a_configuration_error(memory, monkeypatch):
    import sys

    from idempotency_mw.errors import IdempotencyConfigurationError

    monkeypatch.setitem(sys.modules, "starlette.requests", None)
    IdempotencyMiddleware(None, persistence_store=memory)
    for http in (HTTPConfig(caller=str), lambda request: None):
        with pytest.raises(IdempotencyConfigurationError, match="asgi"):
            IdempotencyMiddleware(None, persistence_store=memory, http=http)


async def test_a_resolver_that_returns_no_configuration_is_a_configuration_error(memory):
    from idempotency_mw.errors import IdempotencyConfigurationError

    service = ASGISurface(memory, http=lambda request: "no")
    answer = await service.request()
    assert isinstance(answer.raised, IdempotencyConfigurationError)
    assert service.runs == 0
