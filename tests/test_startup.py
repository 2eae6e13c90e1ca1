"""What a surface says when it is built: one line, and a warning beside it where senders or services may meet."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from idempotency_mw import IdempotencyConfig, idempotent, idempotent_function
from idempotency_mw.asgi import IdempotencyMiddleware as ASGIMiddleware
from idempotency_mw.handler import AsyncIdempotencyHandler, IdempotencyHandler
from idempotency_mw.http.config import HTTPConfig
from idempotency_mw.persistence.memory import MemoryPersistenceLayer
from idempotency_mw.persistence.redis import AsyncRedisPersistenceLayer, RedisPersistenceLayer
from idempotency_mw.persistence.sqlite import SQLitePersistenceLayer
from idempotency_mw.wsgi import IdempotencyMiddleware as WSGIMiddleware

URL = "redis://:dontsay@dontsay.internal:6379/0"
BY_DEFAULT = "senders told apart by the headers authorization, cookie, host, x-api-key"
PREFIXED = IdempotencyConfig(key_prefix="shop")

Build = Callable[..., Any]


def app(*_: Any) -> Any:
    raise AssertionError


@pytest.fixture(params=["ASGI", "WSGI"])
def build(request: pytest.FixtureRequest) -> Build:
    """Builds one of the middlewares."""
    middleware: Any = {"ASGI": ASGIMiddleware, "WSGI": WSGIMiddleware}[request.param]

    def built(store: Any = None, **options: Any) -> Any:
        return middleware(app, persistence_store=store or MemoryPersistenceLayer(), **options)

    return built


def said(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == level]


@pytest.mark.parametrize(
    ("http", "config", "line"),
    [
        (None, None, f"PATCH, POST; key in the header Idempotency-Key; {BY_DEFAULT}; no namespace"),
        (
            HTTPConfig(methods=["PUT"], header="X-Key", caller=lambda request: "a"),
            IdempotencyConfig(key_prefix="shop", event_key_jmespath="order.id"),
            "PUT; key in the header X-Key or the body at order.id; senders told apart by caller; namespace 'shop'",
        ),
        (
            HTTPConfig(methods=(), header=None, bound_headers=()),
            IdempotencyConfig(event_key_jmespath="id"),
            "no methods; key in the body at id; senders not told apart; no namespace",
        ),
        (
            HTTPConfig(methods=["PUT"], bound_headers=["X-Tenant"]),
            None,
            "PUT; key in the header Idempotency-Key; senders told apart by the headers x-tenant; no namespace",
        ),
        (lambda request: None, None, "options chosen for each request; no namespace"),
    ],
    ids=["defaults", "caller", "nothing", "bound", "resolver"],
)
def test_a_middleware_says_in_one_line_what_it_protects(
    build: Build, caplog: pytest.LogCaptureFixture, http: Any, config: Any, line: str
) -> None:
    build(http=http, config=config)
    (message,) = said(caplog, logging.INFO)
    assert message[4:] == f" middleware: {line}; store MemoryPersistenceLayer"
    assert message.startswith(("ASGI", "WSGI"))


def stores(folder: Path) -> dict[str, Any]:
    return {
        "RedisPersistenceLayer 'shop:'": RedisPersistenceLayer.from_url(URL, key_prefix="shop:"),
        "SQLitePersistenceLayer 'records.db'": SQLitePersistenceLayer(folder / "records.db"),
        "MemoryPersistenceLayer": MemoryPersistenceLayer(),
    }


def test_a_store_is_named_without_its_address(
    build: Build, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    for name, store in stores(tmp_path).items():
        build(store)
        assert said(caplog, logging.INFO)[-1].endswith(f"; store {name}")
    assert "dontsay" not in caplog.text
    assert str(tmp_path) not in caplog.text


@pytest.mark.row("57c")
@pytest.mark.parametrize("http", [None, HTTPConfig(), HTTPConfig(methods=["PUT"])], ids=["none", "empty", "other"])
def test_without_caller_and_bound_headers_a_middleware_warns_once(
    build: Build, caplog: pytest.LogCaptureFixture, http: HTTPConfig | None
) -> None:
    build(http=http)
    (warning,) = said(caplog, logging.WARNING)
    assert f"no caller is given: {BY_DEFAULT}. Set `caller`" in warning


@pytest.mark.row("57c")
@pytest.mark.parametrize(
    "http",
    [
        HTTPConfig(caller=lambda request: "a"),
        HTTPConfig(bound_headers=()),
        HTTPConfig(bound_headers=("authorization", "cookie", "host", "x-api-key")),
        lambda request: HTTPConfig(),
    ],
    ids=["caller", "nothing bound", "the same names", "resolver"],
)
def test_what_is_given_by_hand_is_not_warned_about(
    build: Build, caplog: pytest.LogCaptureFixture, http: Any
) -> None:
    build(http=http)
    assert said(caplog, logging.WARNING) == []


SHARED = [
    (RedisPersistenceLayer.from_url(URL), None, True),
    (RedisPersistenceLayer.from_url(URL), PREFIXED, False),
    (RedisPersistenceLayer.from_url(URL, key_prefix="shop:"), None, False),
    (MemoryPersistenceLayer(), None, False),
]


@pytest.mark.parametrize(("store", "config", "warns"), SHARED, ids=["default", "config", "layer", "memory"])
def test_a_middleware_over_a_redis_without_a_prefix_warns(
    build: Build, caplog: pytest.LogCaptureFixture, store: Any, config: Any, warns: bool
) -> None:
    build(store, config=config, http=HTTPConfig(bound_headers=()))
    warnings = said(caplog, logging.WARNING)
    assert [("key_prefix" in each, "'idempotency:'" in each) for each in warnings] == [(True, True)] * warns
    assert "dontsay" not in caplog.text


@pytest.mark.parametrize("handler", [IdempotencyHandler, AsyncIdempotencyHandler])
@pytest.mark.parametrize(("store", "config", "warns"), SHARED, ids=["default", "config", "layer", "memory"])
def test_a_handler_says_the_same(
    caplog: pytest.LogCaptureFixture, handler: Any, store: Any, config: Any, warns: bool
) -> None:
    handler(store, config or IdempotencyConfig())
    (message,) = said(caplog, logging.INFO)
    assert message.startswith(f"{handler.__name__}: key given with each call; ")
    assert len(said(caplog, logging.WARNING)) == warns


async def charge(order: Any) -> Any:
    return order


def refund(order: Any, context: Any) -> Any:
    return order


def test_a_decorated_function_says_it_for_debugging_only(caplog: pytest.LogCaptureFixture) -> None:
    config = IdempotencyConfig(event_key_jmespath="id", key_prefix="shop")
    idempotent_function(charge, persistence_store=AsyncRedisPersistenceLayer.from_url(URL))
    idempotent(refund, persistence_store=MemoryPersistenceLayer(), config=config, key_prefix="refunds")
    assert said(caplog, logging.DEBUG) == [
        f"{__name__}.charge: key is the payload; no namespace; store AsyncRedisPersistenceLayer 'idempotency:'",
        "refunds: key in the payload at id; namespace 'shop'; store MemoryPersistenceLayer",
    ]
    assert len(caplog.records) == 2
