"""A decorated function, plain and async, over each store: duplicates, failures, payloads and keys."""

import pytest

from idempotency_mw import IdempotencyConfig, idempotent_function
from idempotency_mw.errors import (
    IdempotencyAlreadyInProgressError,
    IdempotencyExecutionFailedError,
    IdempotencyKeyError,
    IdempotencyPersistenceConnectionError,
    IdempotencyRecordError,
    IdempotencyValidationError,
)
from tests.functions.bodies import SECRET, DeclinedError, decline

PAYLOAD = {"order": 7, "to": {"name": "Ada"}}


async def test_a_duplicate_gets_the_first_result_and_does_not_run(surface):
    function = surface.function()
    first = await surface.call(function, PAYLOAD)
    assert await surface.call(function, PAYLOAD) == first == PAYLOAD
    assert await surface.call(function, payload={"to": {"name": "Ada"}, "order": 7}) == PAYLOAD
    assert len(surface.runs) == 1
    await surface.call(function, {"order": 8})
    assert len(surface.runs) == 2


@pytest.mark.fault(9)
async def test_an_exception_frees_the_key_and_is_raised_unchanged(surface):
    function = surface.function(decline)
    for _ in range(2):
        with pytest.raises(DeclinedError, match=SECRET):
            await surface.call(function, PAYLOAD)
    assert len(surface.runs) == 2


@pytest.mark.fault(9)
async def test_a_stored_failure_names_the_exceptions_class_and_not_its_arguments(surface):
    function = surface.function(decline, config=IdempotencyConfig(on_error="store"))
    with pytest.raises(DeclinedError):
        await surface.call(function, PAYLOAD)
    with pytest.raises(IdempotencyExecutionFailedError, match=r"bodies\.DeclinedError") as caught:
        await surface.call(function, PAYLOAD)
    assert SECRET not in str(caught.value)
    assert len(surface.runs) == 1


@pytest.mark.fault(23)
async def test_another_validated_payload_is_refused_also_while_the_first_call_runs(surface):
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


async def test_the_key_is_that_of_the_payload_before_the_run(surface):
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


async def test_selected_falsy_values_are_different_keys(surface):
    function = surface.function(config=IdempotencyConfig(event_key_jmespath="id"))
    for value in (0, 0.0, False):
        for trace in (1, 2):
            await surface.call(function, {"id": value, "trace": trace})
    assert repr([payload["id"] for payload in surface.runs]) == "[0, 0.0, False]"


async def test_an_expression_that_selects_nothing_gives_no_key_and_one_that_fails_is_an_error(surface, caplog):
    function = surface.function(config=IdempotencyConfig(event_key_jmespath="[a, b]"))
    assert await surface.call(function, {"c": 1}) == {"c": 1}
    assert "has no idempotency key" in caplog.text
    fails = surface.function(config=IdempotencyConfig(event_key_jmespath="powertools_json(body)"))
    with pytest.raises(IdempotencyKeyError) as caught:
        await surface.call(fails, {"body": SECRET})
    assert SECRET not in str(caught.value)
    assert len(surface.runs) == 1


async def test_a_payload_without_a_plain_form_is_refused_before_the_run_and_not_quoted(surface):
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


# Hooks, switches and caches.


async def test_the_response_hook_changes_replays_only(surface):
    def hook(value, record):
        assert record.attempt == 1
        return {**value, "replayed": True}

    function = surface.function(config=IdempotencyConfig(response_hook=hook))
    assert await surface.call(function, PAYLOAD) == PAYLOAD
    assert await surface.call(function, PAYLOAD) == PAYLOAD | {"replayed": True}


async def test_the_environment_variable_that_disables_protection_is_read_at_each_call(
    surface, monkeypatch, caplog
):
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
async def test_a_call_is_refused_or_runs_unprotected_if_the_store_fails(surface):
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
