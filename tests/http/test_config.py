"""Every option of `HTTPConfig`: its default, the edges that it accepts, and what it refuses by name."""

from dataclasses import FrozenInstanceError, dataclass, fields
from typing import Any

import pytest

from idempotency_mw.errors import IdempotencyConfigurationError
from idempotency_mw.http.config import DROPPED_HEADERS, HTTPConfig

DEFAULTS = {
    "methods": {"POST", "PATCH"},
    "header": "Idempotency-Key",
    "key_syntax": "lenient",
    "min_key_length": 1,
    "max_key_length": 255,
    "required": False,
    "caller": None,
    "bound_headers": {"authorization", "cookie", "x-api-key", "host"},
    "dropped_headers": set(DROPPED_HEADERS),
    "replay_header": "Idempotent-Replayed",
    "max_request_body": 10 * 1024 * 1024,
    "max_response_body": 1024 * 1024,
    "max_wait_seconds": 0,
}

# Row 64, name by name; the headers of row 63 can't be configured.
DROPPED = (
    "Date Server Age Set-Cookie WWW-Authenticate Authentication-Info Retry-After RateLimit* X-RateLimit-* "
    "Server-Timing traceparent tracestate X-Request-ID X-Correlation-ID"
)

ACCEPTED = {
    "methods": [(), ["post"], {"DELETE", "post"}, frozenset(("M-SEARCH",))],
    "header": [None, "x", "PayPal-Request-Id", "!#$%&'*+-.^_`|~09"],
    "key_syntax": ["lenient", "strict", "opaque"],
    "min_key_length": [1, 16, 255],
    "max_key_length": [1, 255, 10_000],
    "required": [True, False],
    "caller": [None, str, lambda request: "a"],
    "bound_headers": [(), ["Authorization"], {"a", "b"}],
    "storable": [lambda status: True],
    "dropped_headers": [(), ["X-*"], ["*"], DROPPED_HEADERS],
    "replay_header": ["X-Replayed", "r"],
    "max_request_body": [0, 1, 2**40],
    "max_response_body": [0, 1, 2**40],
    "max_wait_seconds": [0, 0.5, 3600],
}

NO_NAME = ["", "a b", "a:b", "a\n", "\u00fc", 7, b"a"]
NO_NAMES = ["POST", b"POST", None, 7, iter(("POST",)), *([name] for name in NO_NAME), [None]]
NO_COUNT = [-1, 1.0, True, None, "1"]


@dataclass
class Unhashable:
    tenant: str = "a"

    def __call__(self, of: object) -> str:
        return self.tenant


REFUSED = {
    "methods": NO_NAMES,
    "header": NO_NAME,
    "key_syntax": [None, "", "Lenient", "any"],
    "min_key_length": [0, *NO_COUNT],
    "max_key_length": [0, *NO_COUNT],
    "required": [None, 0, 1, "yes"],
    "caller": ["x-tenant", 7, Unhashable()],
    "bound_headers": NO_NAMES,
    "storable": [None, 200, (200, 201), Unhashable()],
    "dropped_headers": NO_NAMES,
    "replay_header": [None, *NO_NAME],
    "max_request_body": NO_COUNT,
    "max_response_body": NO_COUNT,
    "max_wait_seconds": [-1, 3600.1, float("nan"), float("inf"), True, None, "5"],
}


def cases(table: dict[str, list[Any]]) -> list[Any]:
    return [
        pytest.param(name, value, id=f"{name}-{at}")
        for name, values in table.items()
        for at, value in enumerate(values)
    ]


def test_the_tables_have_every_option() -> None:
    options = {field.name for field in fields(HTTPConfig)}
    assert set(ACCEPTED) == set(REFUSED) == options == {*DEFAULTS, "storable"}


def test_the_defaults_are_the_documented_ones() -> None:
    http = HTTPConfig()
    found = {name: getattr(http, name) for name in DEFAULTS}
    assert {name: set(value) if isinstance(value, tuple) else value for name, value in found.items()} == DEFAULTS


@pytest.mark.row(64)
def test_the_dropped_headers_are_the_documented_ones() -> None:
    assert set(HTTPConfig().dropped_headers) == set(DROPPED.lower().split())


@pytest.mark.row(40, 41)
def test_by_default_successes_and_redirections_are_storable() -> None:
    http = HTTPConfig()
    assert [status for status in range(100, 600) if http.storable(status)] == list(range(200, 400))


@pytest.mark.parametrize(("name", "value"), cases(ACCEPTED))
def test_an_option_accepts_the_edges_of_its_range(name: str, value: Any) -> None:
    HTTPConfig(**{name: value})


@pytest.mark.parametrize(("name", "value"), cases(REFUSED))
def test_an_invalid_value_is_refused_with_the_name_of_the_option(name: str, value: Any) -> None:
    with pytest.raises(IdempotencyConfigurationError, match=rf"^{name} "):
        HTTPConfig(**{name: value})


def test_max_key_length_is_at_least_min_key_length() -> None:
    assert HTTPConfig(min_key_length=16, max_key_length=16).max_key_length == 16
    with pytest.raises(IdempotencyConfigurationError, match="max_key_length must be a whole number from 16"):
        HTTPConfig(min_key_length=16, max_key_length=15)


@pytest.mark.row(7)
def test_configured_names_are_case_insensitive() -> None:
    http = HTTPConfig(methods=["post", "Put"], bound_headers=["X-B", "x-a"], dropped_headers=["X-Y*"])
    assert (http.methods, http.bound_headers, http.dropped_headers) == (("POST", "PUT"), ("x-a", "x-b"), ("x-y*",))


@pytest.mark.parametrize("option", ["methods", "bound_headers", "dropped_headers"])
def test_names_given_in_another_order_are_the_same_configuration(option: str) -> None:
    # The order of a set differs between processes, and the order of the bound headers goes into the fingerprint.
    names = ["d", "a", "c", "b", "A"]
    configured = [HTTPConfig(**{option: given}) for given in (names, names[::-1], set(names), frozenset(names))]
    assert len(set(configured)) == 1
    assert [name.lower() for name in getattr(configured[0], option)] == ["a", "b", "c", "d"]


def test_a_configuration_is_immutable() -> None:
    http = HTTPConfig()
    for field in fields(http):
        with pytest.raises(FrozenInstanceError):
            setattr(http, field.name, getattr(http, field.name))


def test_equal_configurations_have_equal_hashes() -> None:
    assert len({HTTPConfig(methods=["post"]), HTTPConfig(methods={"POST"})}) == 1
    assert len({HTTPConfig(required=True), HTTPConfig(required=False)}) == 2
