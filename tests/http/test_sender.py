"""The sender of a request: bound headers and callers, section E of the table."""

import json

import pytest

from idempotency_mw.core.machine import Reason, Reject
from idempotency_mw.errors import IdempotencyConfigurationError
from idempotency_mw.http.config import HTTPConfig
from idempotency_mw.http.exchange import Keyed, Refuse, Wanted
from idempotency_mw.http.message import Response
from tests.http.exchanges import BASE, FIRST, JSON, KEY, SECRETS, exchange, operation, reached, request

# Bound headers.


@pytest.mark.row(57)
def test_moving_a_boundary_between_bound_headers_or_the_body_changes_the_fingerprint() -> None:
    ours = exchange(HTTPConfig(bound_headers=["x-a", "x-b"]))

    def of(*headers: tuple[bytes, bytes], body: bytes = b"") -> str:
        return operation(ours, request(KEY, *headers), body).fingerprint

    found = [
        of((b"x-a", b"1")),
        of((b"x-b", b"1")),
        of((b"x-a", b"1"), (b"x-b", b"1")),
        of((b"x-a", b"1"), (b"x-a", b"1")),
        of((b"x-a", b"11")),
        of((b"x-a", b"")),
        of((b"x-a", b""), (b"x-b", b"")),
        of(),
        of(body=b"1"),
    ]
    assert len(set(found)) == len(found)


@pytest.mark.row(57)
def test_the_bound_headers_are_configurable() -> None:
    ours = exchange(HTTPConfig(bound_headers=["X-Tenant"]))
    assert operation(ours, request(KEY, (b"x-tenant", b"a"))) != operation(ours, request(KEY, (b"x-tenant", b"b")))
    assert operation(ours, request(KEY, (b"cookie", b"a"))) == operation(ours, request(KEY, (b"cookie", b"b")))


# Section E: callers.

CALLERS = exchange(HTTPConfig(caller=str))


@pytest.mark.row(56)
def test_two_callers_have_two_records() -> None:
    def of(caller: str) -> str:
        return operation(CALLERS, BASE, caller=caller).storage_key

    callers = ["a", "b", "A", "a ", "\u00e9", "e\u0301", "a\x00", "None", "\ud800", FIRST.storage_key]
    assert len({FIRST.storage_key, *map(of, callers)}) == len(callers) + 1


def test_a_caller_of_a_subclass_of_str_is_its_text_and_not_its_str() -> None:
    class Masked(str):
        __slots__ = ()

        def __str__(self) -> str:
            return "***"

    keys = [operation(CALLERS, BASE, caller=kind(name)).storage_key for kind in (str, Masked) for name in "ab"]
    assert keys[:2] == keys[2:]
    assert keys[0] != keys[1]


@pytest.mark.row(56)
def test_a_caller_may_change_its_credentials() -> None:
    asked = [
        request(KEY),
        request(KEY, (b"authorization", b"a")),
        request(KEY, (b"cookie", b"b"), (b"host", b"c")),
    ]
    assert len({operation(CALLERS, each, caller="alice") for each in asked}) == 1


@pytest.mark.row(58)
@pytest.mark.parametrize("caller", [None, ""])
def test_a_request_without_a_caller_is_refused(caller: object) -> None:
    assert reached(CALLERS, BASE, caller=caller) == "caller-missing"


@pytest.mark.row(58)
@pytest.mark.parametrize("caller", [7, 0, False, b"alice", ["alice"], object()])
def test_a_caller_that_is_not_text_is_a_configuration_error(caller: object) -> None:
    with pytest.raises(IdempotencyConfigurationError, match="caller must return str") as caught:
        reached(CALLERS, BASE, caller=caller)
    assert "alice" not in str(caught.value)


@pytest.mark.row(56)
def test_a_request_with_a_caller_and_one_without_callers_have_two_records() -> None:
    assert operation(CALLERS, BASE, caller="x").storage_key != FIRST.storage_key


@pytest.mark.row(59)
def test_a_repr_shows_no_key_credential_or_body() -> None:
    asked = request(
        JSON, (b"idempotency-key", b"s3cr3t-key"), (b"authorization", b"s3cr3t"), query=b"card=4111"
    )  # fmt: skip
    ours = exchange(event_key_jmespath="id", payload_validation_jmespath="card")
    wanted = ours.head(asked)
    assert isinstance(wanted, Wanted)
    keyed = ours.keyed(wanted, b'{"card": "4111"}')
    assert isinstance(keyed, Keyed)
    shown = repr(
        (
            asked,
            wanted,
            keyed,
            ours.operation(asked, keyed, None),
            Response(200, ((b"x-secret", b"s3cr3t"),), b"4111"),
        )
    )
    assert not any(secret in shown for secret in SECRETS)


@pytest.mark.row(59)
@pytest.mark.parametrize(
    ("header", "body"),
    [
        (b's3cr3t"', b"{}"),
        (b"s3cr3t", b'{"id": "4111"}'),
        (b"s3cr3t", b'{"id": {"4111": 1}}'),
        (b"s3cr3t", b'{"4111": 1, "4111": 2}'),
        (b"s3cr3t", b'{"id": "s3cr3t", "n": "4111"}'),
    ],
)
def test_a_refusal_quotes_no_key_or_body(header: bytes, body: bytes) -> None:
    ours = exchange(event_key_jmespath="id", payload_validation_jmespath="abs(n)")
    asked = request(JSON, (b"idempotency-key", header))
    found = ours.head(asked)
    refused = ours.keyed(found, body) if isinstance(found, Wanted) else found
    assert isinstance(refused, Refuse)
    answer = ours.replies.refusal(asked, refused.refusal)
    assert not any(secret in repr(refused) + answer.body.decode() + str(answer.headers) for secret in SECRETS)


# A mismatch.


@pytest.mark.row(36, 57)
@pytest.mark.parametrize(
    ("http", "is_named"),
    [(HTTPConfig(), True), (HTTPConfig(caller=str), False), (HTTPConfig(bound_headers=()), False)],
)
def test_the_refusal_of_a_mismatch_recommends_callers_if_headers_are_bound(
    http: HTTPConfig, is_named: bool
) -> None:
    refusal = exchange(http).replies.rejection(BASE, Reject(Reason.REUSED))
    assert refusal.status == 422
    assert ("`caller`" in json.loads(refusal.body)["detail"]) is is_named
