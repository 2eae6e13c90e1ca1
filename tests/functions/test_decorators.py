"""What can be decorated: functions, methods, callable objects, and async functions that don't look async."""

import asyncio
import functools
import subprocess
import sys
from pathlib import Path

import pytest

import idempotency_mw
from idempotency_mw import IdempotencyConfig, idempotent, idempotent_function
from idempotency_mw.calls import Call
from idempotency_mw.errors import IdempotencyConfigurationError
from idempotency_mw.handler import IdempotencyHandler
from idempotency_mw.persistence.memory import MemoryPersistenceLayer
from idempotency_mw.persistence.threaded import as_async
from tests.functions.bodies import AsyncWork, work_async
from tests.functions.conftest import closed


def test_methods_of_every_kind_can_be_decorated():
    layer = MemoryPersistenceLayer()
    guarded = functools.partial(idempotent_function, persistence_store=layer, data_keyword_argument="data")

    class Shop:
        runs = 0

        @idempotent_function(persistence_store=layer, data_keyword_argument="data")
        def method(self, data, other=0):
            """Sells."""
            Shop.runs += 1
            return [Shop.runs, other]

        @guarded
        @classmethod
        def of_class(cls, data):
            Shop.runs += 1
            return cls.__name__

        @classmethod
        @guarded
        def of_class_outside(cls, data):
            Shop.runs += 1
            return cls.__name__

        @guarded
        @staticmethod
        def static(data):
            Shop.runs += 1
            return data

        @idempotent(persistence_store=layer)
        def handle(self, event, context):
            Shop.runs += 1
            return event

    shop = Shop()
    assert shop.method(1, 2) == shop.method(other=3, data=1) == [1, 2]
    assert Shop.method.__doc__ == "Sells."
    assert [Shop.of_class(1), shop.of_class(data=1), shop.of_class_outside(1)] == ["Shop"] * 3
    assert [Shop.static(1), shop.static(1)] == [1, 1]
    assert [shop.handle({"a": 1}, None), shop.handle({"a": 1}, None)] == [{"a": 1}] * 2
    assert Shop.runs == 5


def test_the_payload_can_be_a_default_or_a_keyword_argument():
    layer = MemoryPersistenceLayer()
    runs = []

    @idempotent_function(persistence_store=layer)
    def defaulted(size=3):
        runs.append(size)

    @idempotent_function(persistence_store=layer, data_keyword_argument="data")
    def free(**given):
        runs.append(given)

    defaulted()
    defaulted(3)
    free(data=1, trace=1)
    free(data=1, trace=2)
    assert runs == [3, {"data": 1, "trace": 1}]
    free(trace=1)
    free(trace=1)
    assert len(runs) == 4
    with pytest.raises(TypeError):
        defaulted(1, 2)


async def test_a_callable_object_can_be_decorated():
    layer = MemoryPersistenceLayer()
    work = idempotent_function(AsyncWork(), persistence_store=layer, key_prefix="work")
    assert await work(1) == await work(payload=1) == 1


def generator(payload):
    yield payload


async def async_generator(payload):
    yield payload


def plain(payload):
    return payload


def nothing():
    return None


def two(one, other):
    return one, other


@pytest.mark.parametrize(
    ("function", "options", "told"),
    [
        (generator, {}, "generator"),
        (async_generator, {}, "generator"),
        (plain, {"persistence_store": as_async(MemoryPersistenceLayer())}, "async"),
        (plain, {"persistence_store": object()}, "persistence layer"),
        (plain, {"persistence_store": None}, "persistence layer"),
        (plain, {"config": {}}, "config"),
        (plain, {"key_prefix": 3}, "key_prefix"),
        (plain, {"data_keyword_argument": "date"}, "'date'"),
        (nothing, {}, "no argument"),
        (two, {}, "data_keyword_argument"),
        (AsyncWork(), {}, "key_prefix"),
        ("text", {}, "only functions"),
    ],
)
def test_a_function_that_can_not_be_protected_is_refused_when_it_is_decorated(function, options, told):
    with pytest.raises(IdempotencyConfigurationError, match=told):
        idempotent_function(function, **{"persistence_store": MemoryPersistenceLayer()} | options)


def test_functions_import_neither_http_nor_a_framework():
    code = (
        "import sys, types\n"
        "package = types.ModuleType('idempotency_mw'); package.__path__ = [sys.argv[1]]\n"
        "sys.modules['idempotency_mw'] = package\n"
        "import idempotency_mw.functions, idempotency_mw.persistence.memory\n"
        "heavy = ('idempotency_mw.http', 'starlette', 'werkzeug', 'pydantic', 'redis')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    package = str(Path(idempotency_mw.__file__).parent)
    done = subprocess.run([sys.executable, "-c", code, package], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# Async functions that don't look async.


@pytest.mark.parametrize("function", [functools.partial(work_async), functools.partial(AsyncWork())])
async def test_a_partial_of_an_async_function_is_async(store, function):
    layer = store.open("async")
    work = idempotent_function(function, persistence_store=layer, key_prefix="work")
    assert [await work(1), await work(1)] == [1, 1]
    await closed(layer)


async def later():
    raise AssertionError("it must not run")


@pytest.mark.parametrize("on_error", ["release", "store"])
@pytest.mark.parametrize("how", ["decorated", "handled"])
async def test_a_plain_function_that_returns_a_coroutine_is_refused_and_frees_its_key(store, on_error, how):
    layer = store.open("plain")
    config, runs = IdempotencyConfig(on_error=on_error), []

    def disguised(payload):
        runs.append(payload)
        return later()

    def call():
        if how == "decorated":
            return idempotent_function(disguised, persistence_store=layer, config=config)(1)
        return IdempotencyHandler(layer, config).handle(Call("one"), lambda: disguised(1))

    for _ in range(2):
        with pytest.raises(IdempotencyConfigurationError, match="make it async"):
            call()
    # A coroutine that is dropped without await causes a warning, and the suite turns warnings into errors.
    assert runs == [1, 1]
    assert store.lifetimes() == []
    await closed(layer)


async def test_a_plain_function_that_returns_a_future_is_refused_and_the_future_is_not_cancelled(in_memory):
    if in_memory.is_async:
        return
    future = asyncio.get_running_loop().create_future()
    work = idempotent_function(lambda payload: future, persistence_store=in_memory.layer, key_prefix="futures")
    with pytest.raises(IdempotencyConfigurationError, match="make it async"):
        work(1)
    assert not future.cancelled()
