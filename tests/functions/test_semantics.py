"""What a decorated function does, plain and async: over each store where the store has a part in it."""

import asyncio
import functools
import logging
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import idempotency_mw
from idempotency_mw import IdempotencyConfig, current_execution, idempotent, idempotent_function
from idempotency_mw.calls import Call
from idempotency_mw.errors import (
    IdempotencyAlreadyInProgressError,
    IdempotencyConfigurationError,
    IdempotencyExecutionFailedError,
    IdempotencyKeyError,
    IdempotencyOutcomeUnknownError,
    IdempotencyPersistenceConnectionError,
    IdempotencyRecordError,
    IdempotencyResponseNotKeptError,
    IdempotencyValidationError,
)
from idempotency_mw.handler import AsyncIdempotencyHandler, IdempotencyHandler
from idempotency_mw.persistence.memory import MemoryPersistenceLayer
from idempotency_mw.persistence.threaded import as_async
from tests.functions.conftest import Surface, closed

PAYLOAD = {"order": 7, "to": {"name": "Ada"}}
SECRET = "4111-1111"


class DeclinedError(Exception):
    pass


async def decline(payload):
    raise DeclinedError(SECRET)


# Over each store.


async def test_a_duplicate_gets_the_first_result_and_does_not_run(surface):
    function = surface.function()
    first = await surface.call(function, PAYLOAD)
    assert await surface.call(function, PAYLOAD) == first == PAYLOAD
    assert await surface.call(function, payload={"to": {"name": "Ada"}, "order": 7}) == PAYLOAD
    assert len(surface.runs) == 1
    await surface.call(function, {"order": 8})
    assert len(surface.runs) == 2


@pytest.mark.fault(9)
async def test_an_exception_frees_the_key_and_is_raised_as_it_was(surface):
    function = surface.function(decline)
    for _ in range(2):
        with pytest.raises(DeclinedError, match=SECRET):
            await surface.call(function, PAYLOAD)
    assert len(surface.runs) == 2


@pytest.mark.fault(9)
async def test_a_stored_failure_names_the_class_and_no_argument(surface):
    function = surface.function(decline, config=IdempotencyConfig(on_error="store"))
    with pytest.raises(DeclinedError):
        await surface.call(function, PAYLOAD)
    with pytest.raises(IdempotencyExecutionFailedError, match=r"test_semantics\.DeclinedError") as caught:
        await surface.call(function, PAYLOAD)
    assert SECRET not in str(caught.value)
    assert len(surface.runs) == 1


@pytest.mark.fault(23)
async def test_another_validated_payload_is_refused_also_while_the_first_runs(surface):
    config = IdempotencyConfig(event_key_jmespath="order", payload_validation_jmespath="amount")

    async def body(payload):
        with pytest.raises(IdempotencyValidationError):
            await surface.call(function, {"order": 1, "amount": 3})
        with pytest.raises(IdempotencyAlreadyInProgressError) as caught:
            await surface.call(function, {"order": 1, "amount": 2, "trace": 1})
        assert 1 <= caught.value.retry_after_seconds <= 30
        return "paid"

    function = surface.function(body, config=config)
    assert await surface.call(function, {"order": 1, "amount": 2}) == "paid"
    assert await surface.call(function, {"order": 1, "amount": 2, "trace": 2}) == "paid"
    with pytest.raises(IdempotencyValidationError):
        await surface.call(function, {"order": 1, "amount": 3})
    assert len(surface.runs) == 1


async def test_the_payload_before_the_run_is_the_one_that_counts(surface):
    async def body(payload):
        payload["seen"] = True
        return "done"

    function = surface.function(body)
    await surface.call(function, {"order": 1})
    assert await surface.call(function, {"order": 1}) == "done"
    assert len(surface.runs) == 1


# Keys.


@pytest.mark.parametrize("payload", [None, "", {}, [], {"a": None}, [None, None]], ids=repr)
async def test_an_empty_payload_is_no_key(surface, caplog, payload):
    asked = []
    surface.watch(lambda verb, claim, outcome: asked.append(verb))
    function = surface.function()
    for _ in range(2):
        assert await surface.call(function, payload) == payload
    assert len(surface.runs) == 2
    assert "has no idempotency key" in caplog.text
    strict = surface.function(config=IdempotencyConfig(raise_on_no_idempotency_key=True))
    with pytest.raises(IdempotencyKeyError):
        await surface.call(strict, payload)
    assert len(surface.runs) == 2
    assert asked == []


@pytest.mark.parametrize("payload", [0, 0.0, False, " ", {"a": 0, "b": None}], ids=repr)
async def test_falsy_values_are_keys(surface, payload):
    function = surface.function()
    for _ in range(2):
        assert await surface.call(function, payload) == payload
    assert len(surface.runs) == 1


async def test_falsy_values_that_are_selected_are_keys_and_not_one(surface):
    function = surface.function(config=IdempotencyConfig(event_key_jmespath="id"))
    for value in (0, 0.0, False):
        for trace in (1, 2):
            await surface.call(function, {"id": value, "trace": trace})
    assert repr([payload["id"] for payload in surface.runs]) == "[0, 0.0, False]"


async def test_an_expression_that_selects_nothing_is_no_key_and_one_that_fails_is_an_error(surface, caplog):
    function = surface.function(config=IdempotencyConfig(event_key_jmespath="[a, b]"))
    assert await surface.call(function, {"c": 1}) == {"c": 1}
    assert "has no idempotency key" in caplog.text
    fails = surface.function(config=IdempotencyConfig(event_key_jmespath="powertools_json(body)"))
    with pytest.raises(IdempotencyKeyError) as caught:
        await surface.call(fails, {"body": SECRET})
    assert SECRET not in str(caught.value)
    assert len(surface.runs) == 1


async def test_a_payload_without_a_plain_form_fails_before_the_run_and_is_not_quoted(surface):
    class Card:
        def __repr__(self):
            return SECRET

    function = surface.function()
    for payload in (Card(), {"card": Card()}, float("nan"), [b"bytes"]):
        with pytest.raises(IdempotencyKeyError) as caught:
            await surface.call(function, payload)
        assert SECRET not in str(caught.value)
        assert caught.value.__cause__ is None
    assert surface.runs == []


async def test_the_qualified_name_is_part_of_the_key_unless_a_prefix_is_given(surface):
    def named(name, prefix=None):
        async def asynchronous(payload):
            surface.runs.append(name)

        def plain(payload):
            surface.runs.append(name)

        function = asynchronous if surface.is_async else plain
        function.__qualname__ = name
        return idempotent_function(function, persistence_store=surface.layer, key_prefix=prefix)

    for _ in range(2):
        for function in (
            named("Shop.pay"),
            named("Bank.pay"),
            named("Shop.sell", "one"),
            named("Bank.sell", "one"),
        ):
            await surface.call(function, 1)
    assert surface.runs == ["Shop.pay", "Bank.pay", "Shop.sell"]


async def test_the_name_or_the_prefix_is_part_of_the_key(surface):
    one, same, other = (surface.function(key_prefix=prefix) for prefix in ("a", "a", "b"))
    for function in (one, same, other):
        await surface.call(function, 1)
    assert len(surface.runs) == 2
    for _ in range(2):
        spaced = surface.function(key_prefix="a", config=IdempotencyConfig(key_prefix="payments"))
        await surface.call(spaced, 1)
    assert len(surface.runs) == 3


# Runs.


async def test_the_function_can_ask_what_it_runs_under(surface):
    seen = []

    async def body(payload):
        seen.append(current_execution())

    await surface.call(surface.function(body), "payment-17")
    await surface.call(surface.function(body), {"b": 1, "a": 2})
    assert [(each.key, each.attempt) for each in seen] == [("payment-17", 1), ('{"a":2,"b":1}', 1)]
    assert not seen[0].discard()
    assert current_execution() is None


@pytest.mark.parametrize("on_error", ["release", "store"])
async def test_a_discarded_result_is_delivered_and_frees_the_key(surface, on_error):
    async def body(payload):
        assert current_execution().discard()
        return "once"

    function = surface.function(body, config=IdempotencyConfig(on_error=on_error))
    for _ in range(2):
        assert await surface.call(function, 1) == "once"
    assert len(surface.runs) == 2


@pytest.mark.fault(7)
async def test_after_a_crash_the_next_call_knows_that_it_is_the_second_attempt(surface):
    attempts = []

    async def body(payload):
        attempts.append((current_execution().attempt, current_execution().previous_unfinished))
        if len(attempts) == 1:
            raise KeyboardInterrupt

    function = surface.function(body)
    with pytest.raises(KeyboardInterrupt):
        await surface.call(function, 1)
    surface.advance(31)
    await surface.call(function, 1)
    assert attempts == [(1, False), (2, True)]


@pytest.mark.fault(7)
async def test_where_crashes_are_refused_the_outcome_is_unknown(surface):
    async def body(payload):
        raise SystemExit

    function = surface.function(body, config=IdempotencyConfig(after_crash="refuse"))
    with pytest.raises(SystemExit):
        await surface.call(function, 1)
    surface.advance(31)
    with pytest.raises(IdempotencyOutcomeUnknownError):
        await surface.call(function, 1)


@pytest.mark.fault(8)
async def test_a_late_owner_whose_winner_still_runs_is_told_so(surface):
    async def body(payload):
        if len(surface.runs) == 1:
            surface.advance(31)
            with pytest.raises(KeyboardInterrupt):
                await surface.call(function, 1)
            return "late"
        raise KeyboardInterrupt

    function = surface.function(body)
    with pytest.raises(IdempotencyAlreadyInProgressError):
        await surface.call(function, 1)


@pytest.mark.fault(8)
async def test_a_late_owner_that_fails_gets_the_winners_result_where_failures_are_stored(surface):
    async def body(payload):
        if len(surface.runs) == 1:
            surface.advance(31)
            assert await surface.call(function, 1) == "winner"
            raise DeclinedError
        return "winner"

    function = surface.function(body, config=IdempotencyConfig(on_error="store"))
    assert await surface.call(function, 1) == "winner"


async def test_the_hook_changes_replays_only(surface):
    def hook(value, record):
        assert record.attempt == 1
        return {**value, "replayed": True}

    function = surface.function(config=IdempotencyConfig(response_hook=hook))
    assert await surface.call(function, PAYLOAD) == PAYLOAD
    assert await surface.call(function, PAYLOAD) == PAYLOAD | {"replayed": True}


async def test_disabling_is_read_at_each_call(surface, monkeypatch, caplog):
    function = surface.function()
    for value in ("1", "true", "TRUE"):
        monkeypatch.setenv("IDEMPOTENCY_DISABLED", value)
        await surface.call(function, 1)
    assert len(surface.runs) == 3
    assert "IDEMPOTENCY_DISABLED" in caplog.text
    for value in ("", "0", "false"):
        monkeypatch.setenv("IDEMPOTENCY_DISABLED", value)
        await surface.call(function, 1)
    assert len(surface.runs) == 4


@pytest.mark.fault(1)
async def test_a_store_that_fails_refuses_or_is_passed_by(surface):
    layer = surface.failing()
    layer.fail_before("acquire", times=None)
    with pytest.raises(IdempotencyPersistenceConnectionError):
        await surface.call(surface.function(), 1)
    assert surface.runs == []
    passing = surface.function(config=IdempotencyConfig(on_store_failure="pass"))
    assert await surface.call(passing, 1) == 1


@pytest.mark.row(138)
async def test_the_local_cache_answers_without_the_store_and_compares_fingerprints(surface):
    layer = surface.failing()
    config = IdempotencyConfig(use_local_cache=True, event_key_jmespath="id", payload_validation_jmespath="amount")
    function = surface.function(config=config)
    for _ in range(3):
        assert await surface.call(function, {"id": 1, "amount": 2}) == {"id": 1, "amount": 2}
    assert layer.calls == ["acquire", "complete"]
    with pytest.raises(IdempotencyValidationError):
        await surface.call(function, {"id": 1, "amount": 3})
    assert layer.calls == ["acquire", "complete"]
    assert len(surface.runs) == 1


@pytest.mark.fault(12)
async def test_a_cancelled_task_leaves_its_claim_to_the_lease(store):
    layer = store.open("async")
    surface = Surface("async", layer, store)
    running = asyncio.Event()

    async def body(payload):
        running.set()
        await asyncio.sleep(0 if len(surface.runs) > 1 else 60)
        return "done"

    function = surface.function(body, config=IdempotencyConfig(expires_after_seconds=600))
    task = asyncio.ensure_future(function(1))
    await running.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    surface.advance(20)
    with pytest.raises(IdempotencyAlreadyInProgressError):
        await function(1)
    surface.advance(11)
    assert await function(1) == "done"
    await closed(layer)


@pytest.fixture
def interruptible():
    """Have SIGINT raise KeyboardInterrupt: who starts the tests in the background has it ignored."""
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, usual)


@pytest.mark.usefixtures("interruptible")
def test_a_call_interrupted_by_a_signal_leaves_its_claim_to_the_lease(store):
    layer = store.open("plain")
    surface = Surface("plain", layer, store)

    async def body(payload):
        if len(surface.runs) == 1:
            signal.raise_signal(signal.SIGINT)
        return "done"

    function = surface.function(body, config=IdempotencyConfig(expires_after_seconds=600))
    with pytest.raises(KeyboardInterrupt):
        function(1)
    surface.advance(20)
    with pytest.raises(IdempotencyAlreadyInProgressError):
        function(1)
    surface.advance(11)
    assert function(1) == "done"
    layer.close()


@pytest.mark.fault(24)
async def test_a_duplicate_waits_as_long_as_it_may():
    function_runs = []

    @idempotent_function(
        persistence_store=MemoryPersistenceLayer(), config=IdempotencyConfig(wait_seconds=10), key_prefix="w"
    )
    async def work(payload):
        function_runs.append(payload)
        await asyncio.sleep(0.02)
        return "done"

    assert await asyncio.gather(work(1), work(1)) == ["done", "done"]
    assert len(function_runs) == 1


# Handlers, and Lambda.


class Context:
    def __init__(self, seconds):
        self.seconds = seconds

    def get_remaining_time_in_millis(self):
        return int(self.seconds * 1000)


@pytest.mark.parametrize("event", [{"order": 1}, {}], ids=["keyed", "unkeyed"])
async def test_on_lambda_the_lease_is_what_the_invocation_has_left_also_for_functions_inside(surface, event):
    leases = []
    surface.watch(lambda verb, claim, outcome: leases.append(claim.lease_ms) if verb == "acquire" else None)
    inner = surface.function()

    async def body(event, context):
        return await surface.call(inner, 5)

    def plain(event, context):
        return inner(5)

    body = body if surface.is_async else plain
    handler = idempotent(body, persistence_store=surface.layer, key_prefix="handler")
    assert await surface.call(handler, event, Context(7)) == 5
    assert leases == ([7000, 7000] if event else [7000])
    leases.clear()
    await surface.call(surface.function(), 6)
    await surface.call(handler, {"order": 2}, None)
    assert leases == [30000, 30000, 30000]


def test_bare_and_called_decorators_on_methods_of_every_kind():
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


def test_the_payload_may_be_a_default_or_among_keywords():
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


class AsyncWork:
    async def __call__(self, payload):
        return payload


async def test_a_callable_object_runs_as_its_method_does():
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
def test_what_can_not_be_protected_is_refused_when_it_is_decorated(function, options, told):
    with pytest.raises(IdempotencyConfigurationError, match=told):
        idempotent_function(function, **{"persistence_store": MemoryPersistenceLayer()} | options)


# Without a decorator.


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


def test_a_decorated_function_and_a_call_of_its_name_are_one_operation():
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


def test_functions_know_neither_http_nor_a_framework():
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


@pytest.mark.fault(17)
async def test_a_result_that_is_not_kept_is_said_so_and_reported(surface, caplog):
    result = object()

    async def body(payload):
        return result

    function = surface.function(body)
    with caplog.at_level(logging.WARNING, "idempotency_mw"):
        assert await surface.call(function, 1) is result
    assert "can't be stored" in caplog.text
    with pytest.raises(IdempotencyResponseNotKeptError):
        await surface.call(function, 1)
    assert len(surface.runs) == 1


@pytest.mark.fault(22)
async def test_bytes_that_are_no_result_are_a_record_error(surface, caplog):
    function = surface.function()
    await surface.call(function, 1)
    for result in (b"", b"2V1", b"1V{", b"1V\xff", b"1Fclass; drop", b"\x80\x04N."):
        surface.store.rewrite(lambda _, result=result: result)
        with pytest.raises(IdempotencyRecordError):
            await surface.call(function, 1)
        assert "refused: the store failed: IdempotencyRecordError" in caplog.text
        caplog.clear()
    assert len(surface.runs) == 1


# Async functions in disguise.


async def work_async(payload):
    return payload


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
async def test_a_plain_function_that_returns_a_coroutine_is_refused_and_its_key_is_free(store, on_error, how):
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
    # A coroutine that is dropped unawaited would be a warning, and a warning an error.
    assert runs == [1, 1]
    assert store.lifetimes() == []
    await closed(layer)


async def test_another_awaitable_is_refused_too_and_left_to_itself(in_memory):
    if in_memory.is_async:
        return
    future = asyncio.get_running_loop().create_future()
    work = idempotent_function(lambda payload: future, persistence_store=in_memory.layer, key_prefix="futures")
    with pytest.raises(IdempotencyConfigurationError, match="make it async"):
        work(1)
    assert not future.cancelled()


# A late owner whose winner's record can't be read.


def spoiled(surface, then):
    """Decorate what ends late and then does the rest, with a winner's record that is spoiled meanwhile."""

    async def body(payload):
        if len(surface.runs) > 1:
            return "winner"
        surface.advance(31)
        assert await surface.call(function, 1) == "winner"
        surface.store.rewrite(lambda result: b"2" + result[1:])
        return then()

    function = surface.function(body, config=IdempotencyConfig(on_error="store"))
    return function


async def test_a_late_owner_gets_its_own_result_where_the_winners_can_not_be_read(surface, caplog):
    function = spoiled(surface, lambda: "late")
    assert await surface.call(function, 1) == "late"
    assert "the late owner's own answer goes out: IdempotencyRecordError" in caplog.text
    with pytest.raises(IdempotencyRecordError):
        await surface.call(function, 1)
    assert len(surface.runs) == 2


async def test_a_late_owner_gets_its_own_exception_where_the_winners_result_can_not_be_read(surface, caplog):
    def fail():
        raise DeclinedError(SECRET)

    with pytest.raises(DeclinedError, match=SECRET):
        await surface.call(spoiled(surface, fail), 1)
    assert "the late owner's own answer goes out: IdempotencyRecordError" in caplog.text
    assert SECRET not in caplog.text


async def test_a_late_owner_gets_its_own_result_where_the_whole_record_is_spoiled(holding_bytes, caplog):
    async def body(payload):
        holding_bytes.store.plant(b"2" * 130)
        return "own"

    function = holding_bytes.function(body)
    assert await holding_bytes.call(function, 1) == "own"
    assert "complete failed" in caplog.text
    with pytest.raises(IdempotencyRecordError):
        await holding_bytes.call(function, 1)
    assert len(holding_bytes.runs) == 1


@pytest.mark.parametrize("late", ["ends", "fails"])
async def test_a_late_owner_gets_the_winners_failure_where_failures_are_stored(surface, late):
    async def body(payload):
        if len(surface.runs) > 1:
            raise DeclinedError
        surface.advance(31)
        with pytest.raises(DeclinedError):
            await surface.call(function, 1)
        if late == "fails":
            raise KeyError(SECRET)
        return "late"

    function = surface.function(body, config=IdempotencyConfig(on_error="store"))
    with pytest.raises(IdempotencyExecutionFailedError, match="DeclinedError") as caught:
        await surface.call(function, 1)
    # It stands for itself: what the late one failed with is not what it says.
    assert caught.value.__context__ is None


async def test_a_late_owner_gets_its_own_result_where_nothing_is_left(surface, caplog):
    async def body(payload):
        surface.advance(90_000)
        return "own"

    assert await surface.call(surface.function(body), 1) == "own"
    assert "the claim was lost" in caplog.text
    assert surface.store.lifetimes() == []
