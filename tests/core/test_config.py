"""Every option of `IdempotencyConfig`: its default, the edges that it accepts, and what it refuses by name."""

import re
from dataclasses import FrozenInstanceError, fields
from typing import Any

import jmespath
import pytest

from idempotency_mw.core.config import MAX_SECONDS, IdempotencyConfig
from idempotency_mw.errors import IdempotencyConfigurationError

DEFAULTS = {
    "expires_after_seconds": 86400,
    "lease_seconds": 30,
    "heartbeat": True,
    "max_execution_seconds": 3600,
    "wait_seconds": 0,
    "max_waiters": 100,
    "on_error": "release",
    "after_crash": "retry",
    "on_store_failure": "refuse",
    "event_key_jmespath": None,
    "payload_validation_jmespath": None,
    "jmespath_options": None,
    "raise_on_no_idempotency_key": False,
    "response_hook": None,
    "key_prefix": "",
    "use_local_cache": False,
    "local_cache_max_items": 256,
    "local_cache_max_bytes": 64 * 2**20,
}

NAN, INFINITY = float("nan"), float("inf")


def hook(response: Any, record: Any) -> Any:
    return response


ACCEPTED = {
    "expires_after_seconds": [0.001, 1, 86400.5, MAX_SECONDS],
    "lease_seconds": [0.001, 1, 0.25, MAX_SECONDS],
    "heartbeat": [True, False],
    "max_execution_seconds": [0.001, 900, MAX_SECONDS],
    "wait_seconds": [0, 0.5, 30, MAX_SECONDS],
    "max_waiters": [0, 1, 10**6],
    "on_error": ["release", "store"],
    "after_crash": ["retry", "refuse"],
    "on_store_failure": ["refuse", "pass"],
    "event_key_jmespath": [None, "id", "[tenant, order.id]", "sort_by(items, &length(id))[0:2:1].id"],
    "payload_validation_jmespath": [None, "@", "{a: a, b: b[0]}", "&name"],
    "jmespath_options": [None, jmespath.Options()],
    "raise_on_no_idempotency_key": [True, False],
    "response_hook": [None, hook],
    "key_prefix": ["", "orders", "\u00fc:*{}\x00"],
    "use_local_cache": [True, False],
    "local_cache_max_items": [1, 256, 10**6],
    "local_cache_max_bytes": [1, 10**12],
}

NO_SECONDS = [-1, -0.001, MAX_SECONDS + 1, NAN, INFINITY, -INFINITY, True, None, "30", 1j]
NO_FLAG = [None, 0, 1, "yes"]
NO_CHOICE = [None, "", "RELEASE", "no", True, 0, ["release"]]
NO_EXPRESSION = ["", "a..b", "[", "a b", "f(", "lenght(id)", "[a, b[?c == abs(x(d))] | {e: e}]", 7, b"id", ["id"]]

REFUSED = {
    "expires_after_seconds": [0, 0.0009, *NO_SECONDS],
    "lease_seconds": [0, 0.0009, *NO_SECONDS],
    "heartbeat": NO_FLAG,
    "max_execution_seconds": [0, 0.0009, *NO_SECONDS],
    "wait_seconds": NO_SECONDS,
    "max_waiters": [-1, 1.0, True, None, "100"],
    "on_error": [*NO_CHOICE, "retry", "pass"],
    "after_crash": [*NO_CHOICE, "store", "release"],
    "on_store_failure": [*NO_CHOICE, "retry", "store"],
    "event_key_jmespath": NO_EXPRESSION,
    "payload_validation_jmespath": NO_EXPRESSION,
    "jmespath_options": [{}, "dict", jmespath.Options],
    "raise_on_no_idempotency_key": NO_FLAG,
    "response_hook": ["hook", 0, {}],
    "key_prefix": [None, b"orders", 1],
    "use_local_cache": NO_FLAG,
    "local_cache_max_items": [0, -1, 1.0, True, None, "256"],
    "local_cache_max_bytes": [0, -1, 1.0, True, None, "256"],
}


def cases(table: dict[str, list[Any]]) -> list[Any]:
    return [
        pytest.param(name, value, id=f"{name}={re.sub(' at 0x[0-9a-f]+', '', repr(value))}")
        for name, values in table.items()
        for value in values
    ]


def test_the_tables_have_every_option() -> None:
    options = {field.name for field in fields(IdempotencyConfig)}
    assert set(DEFAULTS) == set(ACCEPTED) == set(REFUSED) == options


def test_the_defaults_are_the_documented_ones() -> None:
    config = IdempotencyConfig()
    assert {name: getattr(config, name) for name in DEFAULTS} == DEFAULTS


@pytest.mark.parametrize(("name", "value"), cases(ACCEPTED))
def test_an_option_accepts_the_edges_of_its_range(name: str, value: Any) -> None:
    assert getattr(IdempotencyConfig(**{name: value}), name) is value


@pytest.mark.parametrize(("name", "value"), cases(REFUSED))
def test_an_invalid_value_is_refused_with_the_name_of_the_option(name: str, value: Any) -> None:
    with pytest.raises(IdempotencyConfigurationError, match=rf"^{name} "):
        IdempotencyConfig(**{name: value})


def test_options_are_keyword_only() -> None:
    with pytest.raises(TypeError):
        IdempotencyConfig(86400)  # type: ignore[misc]


def test_a_configuration_is_immutable() -> None:
    config = IdempotencyConfig()
    for name in DEFAULTS:
        with pytest.raises(FrozenInstanceError):
            setattr(config, name, getattr(config, name))


def test_equal_configurations_have_equal_hashes() -> None:
    assert len({IdempotencyConfig(lease_seconds=5), IdempotencyConfig(lease_seconds=5)}) == 1
    assert len({IdempotencyConfig(lease_seconds=5), IdempotencyConfig(lease_seconds=6)}) == 2


@pytest.mark.parametrize(
    ("seconds", "milliseconds"),
    [(0.001, 1), (0.0011, 2), (1, 1000), (2.5, 2500), (MAX_SECONDS, MAX_SECONDS * 1000)],
)
def test_milliseconds_are_rounded_up(seconds: float, milliseconds: int) -> None:
    config = IdempotencyConfig(lease_seconds=seconds, expires_after_seconds=seconds)
    assert (config.lease_ms, config.retention_ms) == (milliseconds, milliseconds)
