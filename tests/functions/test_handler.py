"""The handlers, which protect a call without a decorator."""

import functools

import pytest

from idempotency_mw import IdempotencyConfig, idempotent_function
from idempotency_mw.calls import Call
from idempotency_mw.errors import IdempotencyConfigurationError, IdempotencyKeyError, IdempotencyValidationError
from idempotency_mw.handler import AsyncIdempotencyHandler, IdempotencyHandler
from idempotency_mw.persistence.memory import MemoryPersistenceLayer
from tests.functions.bodies import AsyncWork, work_async


async def test_the_handlers_take_an_explicit_key(surface):
    runs = []

    def charge():
        runs.append(1)
        return {"charged": 17}

    async def acharge():
        return charge()

    if surface.is_async:
        handler, work = AsyncIdempotencyHandler(surface.layer, IdempotencyConfig()), acharge
    else:
        handler, work = IdempotencyHandler(surface.layer, IdempotencyConfig()), charge
    for _ in range(2):
        call = Call("payment-17", name="charge", validated={"amount": 5})
        assert await surface.call(handler.handle, call, work) == {"charged": 17}
    with pytest.raises(IdempotencyValidationError):
        await surface.call(handler.handle, Call("payment-17", name="charge", validated=6), work)
    with pytest.raises(IdempotencyKeyError):
        await surface.call(handler.handle, Call(""), work)
    assert runs == [1]


def test_a_decorated_function_and_a_handlers_call_of_its_name_are_the_same_operation():
    layer = MemoryPersistenceLayer()
    config = IdempotencyConfig(key_prefix="shop", event_key_jmespath="id", payload_validation_jmespath="amount")

    def charge(payload):
        return payload["amount"]

    function = idempotent_function(charge, persistence_store=layer, config=config, key_prefix="charge")
    assert function({"id": "a", "amount": 5}) == 5
    handler = IdempotencyHandler(layer, config)
    assert handler.handle(Call("a", "charge", 5), lambda: 6) == 5
    with pytest.raises(IdempotencyValidationError):
        handler.handle(Call("a", "charge", 6), lambda: 6)


@pytest.mark.parametrize(
    "function",
    [
        work_async,
        functools.partial(work_async, 1),
        AsyncWork(),
        AsyncWork().__call__,
        functools.partial(AsyncWork(), 1),
    ],
    ids=["function", "partial", "object", "method", "partial object"],
)
def test_a_blocking_handler_refuses_an_async_function_before_it_runs(function):
    handler = IdempotencyHandler(MemoryPersistenceLayer(), IdempotencyConfig())
    with pytest.raises(IdempotencyConfigurationError, match="AsyncIdempotencyHandler"):
        handler.handle(Call("payment-17"), function)
