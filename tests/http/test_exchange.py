"""Which requests are protected, and where their key comes from: sections B and C of the table."""

import json
from typing import Any

import jmespath
import pytest
from jmespath import functions

from idempotency_mw.core.record import Operation
from idempotency_mw.errors import IdempotencyConfigurationError
from idempotency_mw.http.config import HTTPConfig
from idempotency_mw.http.exchange import Refuse, Wanted
from tests.http.exchanges import JSON, KEY, exchange, key_of, operation, reached, request

# Which requests are protected.


@pytest.mark.row(2, 4, 5, 7)
@pytest.mark.row(2, 7)
@pytest.mark.parametrize(
    ("http", "method", "protected"),
    [
        (HTTPConfig(), "POST", True),
        (HTTPConfig(), "post", True),
        (HTTPConfig(), "PATCH", True),
        *((HTTPConfig(), method, False) for method in ("GET", "HEAD", "OPTIONS", "PUT", "DELETE", "X")),
        (HTTPConfig(methods=["delete"]), "DELETE", True),
        (HTTPConfig(methods=["delete"]), "POST", False),
    ],
)
def test_which_methods_are_protected(http: HTTPConfig, method: str, protected: bool) -> None:
    assert exchange(http).protects(method) is protected


@pytest.mark.row(4)
@pytest.mark.parametrize(
    ("http", "event_key", "sought"),
    [
        (HTTPConfig(), None, b"idempotency-key"),
        (HTTPConfig(header="X-Key"), None, b"x-key"),
        (HTTPConfig(required=True), None, None),
        (HTTPConfig(), "id", None),
        (HTTPConfig(header=None), "id", None),
    ],
)
def test_a_request_without_the_sought_header_can_pass_at_once(
    http: HTTPConfig, event_key: str | None, sought: bytes | None
) -> None:
    assert exchange(http, event_key_jmespath=event_key).sought_header == sought


def test_a_configuration_without_any_place_for_the_key_is_refused() -> None:
    with pytest.raises(IdempotencyConfigurationError, match=r"header is None.*event_key_jmespath"):
        exchange(HTTPConfig(header=None))


@pytest.mark.row(4, 5)
def test_a_request_without_a_key_passes_unless_one_is_required() -> None:
    assert reached(exchange(), request()) == "pass, body unread"
    assert reached(exchange(HTTPConfig(required=True)), request()) == "key-missing"


@pytest.mark.row(5)
@pytest.mark.parametrize(
    ("http", "event_key", "named"),
    [
        (HTTPConfig(header="X-Key", required=True), None, "header X-Key"),
        (HTTPConfig(header=None, required=True), "id", "body"),
    ],
)
def test_the_refusal_of_a_missing_key_says_where_it_belongs(
    http: HTTPConfig, event_key: str | None, named: str
) -> None:
    ours = exchange(http, event_key_jmespath=event_key)
    asked = request(JSON)
    found = ours.head(asked)
    if isinstance(found, Wanted):
        found = ours.keyed(found, b"{}")  # type: ignore[assignment]
    assert isinstance(found, Refuse)
    assert named in found.refusal.detail


# Section B: which keys in a header have which record. All rows of the syntax are in test_key.py.


@pytest.mark.row(9, 10, 18)
def test_a_quoted_and_a_bare_key_have_the_same_record() -> None:
    keys = [b'"8e03"', b"8e03", b"  8e03 ", b' "8e03";p=1']
    assert len({operation(exchange(), request((b"idempotency-key", key))) for key in keys}) == 1


@pytest.mark.row(20, 21)
def test_different_keys_have_different_records_even_if_they_look_like_commands() -> None:
    keys = [b"a", b"A", b"a:b", b"a*", b"*", b"{a}", b'"DEL a"', b"a/b", b'"a b"', b'"a\\"b"']
    found = {operation(exchange(), request((b"idempotency-key", key))).storage_key for key in keys}
    assert len(found) == len(keys)
    assert all(len(key) == 64 and set(key) <= set("0123456789abcdef") for key in found)


@pytest.mark.row(12, 14, 15, 16, 17)
@pytest.mark.parametrize("lines", [[b'"k'], [b"a" * 256], [b"\xe9"], [b"a", b"a"], [b"a,b"], [b"a b"], [b""]])
def test_a_malformed_key_is_refused_before_the_body_is_read(lines: list[bytes]) -> None:
    asked = request(*((b"idempotency-key", line) for line in lines))
    found = exchange().head(asked)
    assert isinstance(found, Refuse)
    assert found.refusal.problem.slug == "key-invalid"


@pytest.mark.row(19)
def test_a_header_with_a_similar_name_is_not_the_key() -> None:
    assert key_of(exchange(), request(KEY, (b"idempotency_key", b"other"))) == "k"
    assert key_of(exchange(), request((b"idempotency_key", b"other"))) == "pass, body unread"


@pytest.mark.row(22)
def test_a_configured_header_with_opaque_keys() -> None:
    ours = exchange(HTTPConfig(header="PayPal-Request-Id", key_syntax="opaque"))
    assert key_of(ours, request((b"paypal-request-id", b'"a" b;c'))) == '"a" b;c'
    assert key_of(ours, request((b"paypal-request-id", b"a,b"))) == "key-invalid"
    assert key_of(ours, request(KEY)) == "pass, body unread"


# Section C: a key in the body.

OPTIONAL, REQUIRED = HTTPConfig(), HTTPConfig(required=True)
DEEP = b"[" * 100_000
#    row  media type             body                                        optional             required
BODIES = [
    (24, "application/json", b'{"id": "a"}',                                 "a",                 "a"),
    (24, "Application/JSON; charset=x", b'{"id": "a"}',                      "a",                 "a"),
    (28, "application/vnd.x+JSON", b'{"id": "a"}',                           "a",                 "a"),
    (26, "application/json", b'{"id": null}',                                "pass",              "key-missing"),
    (26, "application/json", b"{}",                                          "pass",              "key-missing"),
    (26, "application/json", b"[]",                                          "pass",              "key-missing"),
    (26, "application/json", b"null",                                        "pass",              "key-missing"),
    (26, "application/json", b'"id"',                                        "pass",              "key-missing"),
    (27, "application/json", b'{"id": 7}',                                   "7",                 "7"),
    (27, "application/json", b'{"id": -7}',                                  "-7",                "-7"),
    (27, "application/json", b'{"id": true}',                                "key-invalid",       "key-invalid"),
    (27, "application/json", b'{"id": 1.0}',                                 "key-invalid",       "key-invalid"),
    (27, "application/json", b'{"id": {}}',                                  "key-invalid",       "key-invalid"),
    (27, "application/json", b'{"id": ""}',                                  "key-invalid",       "key-invalid"),
    (28, "text/plain", b'{"id": "a"}',                                       "pass, body unread", "body-invalid"),
    (28, "", b'{"id": "a"}',                                                 "pass, body unread", "body-invalid"),
    (28, "multipart/form-data; boundary=a", b"--a--",                        "pass, body unread", "body-invalid"),
    (28, "application/json", b'{"id": "a"',                                  "pass",              "body-invalid"),
    (28, "application/json", b"",                                            "pass",              "body-invalid"),
    (30, "application/json", b'{"id": "a", "id": "a"}',                      "body-invalid",      "body-invalid"),
    (30, "application/json", b'{"id": "a", "x": [{"y": 1, "y": 2}]}',        "body-invalid",      "body-invalid"),
    (31, "application/json", DEEP,                                           "pass",              "body-invalid"),
    (31, "application/json", b'{"id": NaN}',                                 "pass",              "body-invalid"),
    (31, "application/json", b'{"id": 1e999}',                               "key-invalid",       "key-invalid"),
    (31, "application/json", b'{"id": "\\ud800"}',                           "key-invalid",       "key-invalid"),
    (31, "application/json", '{"id": "a"}'.encode("utf-16"),                 "pass",              "body-invalid"),
    (31, "application/json", b'{"id": ' + b"9" * 10_000 + b"}",              "pass",              "body-invalid"),
    (31, "application/json", b'{"id": ' + b"9" * 4_000 + b"}",               "key-invalid",       "key-invalid"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("media", "body", "optional", "required"),
    [
        pytest.param(*cells, marks=pytest.mark.row(row), id=f"{row}-{at}")
        for at, (row, *cells) in enumerate(BODIES)
    ],
)
def test_the_key_in_a_body(media: str, body: bytes, optional: str, required: str) -> None:
    asked = request(*([(b"content-type", media.encode())] if media else []))
    assert key_of(exchange(OPTIONAL, event_key_jmespath="id"), asked, body) == optional
    assert key_of(exchange(REQUIRED, event_key_jmespath="id"), asked, body) == required


@pytest.mark.row(25)
@pytest.mark.parametrize(
    ("body", "key"),
    [
        ({"tenant": "t", "order": {"id": 7}}, '["t","7"]'),
        ({"tenant": "t", "order": {"id": "7"}}, '["t","7"]'),
        ({"tenant": "t", "order": {}}, "pass"),
        ({"tenant": None, "order": {"id": 7}}, "pass"),
        ({"tenant": "t", "order": {"id": [7]}}, "key-invalid"),
        ({"tenant": "t" * 256, "order": {"id": 7}}, "key-invalid"),
    ],
)
def test_several_fields_make_one_key(body: Any, key: str) -> None:
    ours = exchange(event_key_jmespath="[tenant, order.id]")
    assert key_of(ours, request(JSON), json.dumps(body).encode()) == key


@pytest.mark.row(29)
@pytest.mark.parametrize(
    ("header", "body", "key"),
    [
        (b'"k"', b'{"id": "k"}', "k"),
        (b"k", b'{"id": "k"}', "k"),
        (b"7", b'{"id": 7}', "7"),
        (b'"k"', b"{}", "k"),
        (b'"k"', b'{"id": null}', "k"),
        (b'"k"', b"not JSON", "k"),
        (b'"k"', b'{"id": "other"}', "key-conflict"),
        (b'"k"', b'{"id": "K"}', "key-conflict"),
        (b'"k"', b'{"id": "\\"k\\""}', "key-conflict"),
        (b'"k"', b'{"id": true}', "key-invalid"),
        (b'"k"', b'{"id": "k", "id": "k"}', "body-invalid"),
        (b'"k', b'{"id": "k"}', "key-invalid"),
    ],
)
def test_keys_in_both_the_header_and_the_body(header: bytes, body: bytes, key: str) -> None:
    ours = exchange(event_key_jmespath="id")
    assert key_of(ours, request(JSON, (b"idempotency-key", header)), body) == key


@pytest.mark.row(29)
def test_a_header_equals_several_fields_if_it_is_their_text() -> None:
    ours = exchange(event_key_jmespath="[t, id]")
    asked = request(JSON, (b"idempotency-key", b'"[\\"a\\",\\"7\\"]"'))
    assert key_of(ours, asked, b'{"t": "a", "id": 7}') == '["a","7"]'
    assert key_of(ours, asked, b'{"t": "a", "id": 8}') == "key-conflict"


@pytest.mark.row(28)
def test_with_header_none_the_header_is_ignored() -> None:
    ours = exchange(HTTPConfig(header=None), event_key_jmespath="id")
    assert key_of(ours, request(JSON, KEY), b'{"id": "b"}') == "b"
    assert key_of(ours, request(JSON, KEY), b"{}") == "pass"


@pytest.mark.row(28)
def test_a_body_that_is_not_json_may_have_its_key_in_the_header() -> None:
    ours = exchange(REQUIRED, event_key_jmespath="id")
    assert key_of(ours, request((b"content-type", b"text/plain"), KEY), b"x") == "k"


@pytest.mark.row(26, 31)
def test_a_body_on_which_the_expression_fails_is_refused() -> None:
    assert key_of(exchange(event_key_jmespath="abs(id)"), request(JSON), b'{"id": "4111"}') == "body-invalid"


class OrderFunctions(functions.Functions):
    @functions.signature({"types": ["object"]})
    def _func_order(self, value: dict[str, Any]) -> Any:
        return value["order"]


def test_an_expression_can_call_custom_functions() -> None:
    options = jmespath.Options(custom_functions=OrderFunctions())
    ours = exchange(event_key_jmespath="order(@)", jmespath_options=options)
    assert key_of(ours, request(JSON), b'{"order": "a"}') == "a"
    assert key_of(ours, request(JSON), b"{}") == "body-invalid"


@pytest.mark.row(31)
def test_a_key_computed_as_a_sum_of_too_many_digits_is_refused() -> None:
    body = b'{"ids": [%b, %b]}' % (b"9" * 4300, b"9" * 4300)
    assert key_of(exchange(event_key_jmespath="sum(ids)"), request(JSON), body) == "key-invalid"


@pytest.mark.row(26)
def test_the_validation_expression_may_fail_on_a_body_without_a_key() -> None:
    ours = exchange(event_key_jmespath="id", payload_validation_jmespath="sum(prices)")
    assert reached(ours, request(JSON), b'{"prices": ["a"]}') == "pass"
    assert reached(ours, request(JSON), b'{"prices": ["a"], "id": "k"}') == "body-invalid"
    assert isinstance(reached(ours, request(JSON), b'{"prices": [1], "id": "k"}'), Operation)


@pytest.mark.row(33)
@pytest.mark.parametrize(
    ("length", "found"),
    [(b"100", Operation), (b"101", "body-too-large"), (b"x", Operation), (b"9" * 30, Operation)],
)
def test_a_declared_length_over_the_limit_is_refused_at_once(length: bytes, found: Any) -> None:
    asked = request(KEY, (b"content-length", length))
    answer = reached(exchange(HTTPConfig(max_request_body=100)), asked)
    assert answer == found or isinstance(answer, found)


@pytest.mark.row(33)
def test_a_body_without_a_header_key_is_limited_only_if_it_is_read_for_its_key() -> None:
    http = HTTPConfig(max_request_body=100)
    large = (b"content-length", b"101")
    assert reached(exchange(http), request(JSON, large)) == "pass, body unread"
    assert reached(exchange(http, event_key_jmespath="id"), request(JSON, large)) == "body-too-large"
    assert "100 bytes" in exchange(http).body_too_large().refusal.detail


@pytest.mark.row(5, 33)
def test_the_key_is_checked_before_the_size() -> None:
    http = HTTPConfig(max_request_body=0, required=True)
    large = (b"content-length", b"1")
    assert reached(exchange(http), request(large)) == "key-missing"
    assert reached(exchange(http), request(large, (b"idempotency-key", b'"'))) == "key-invalid"
    assert reached(exchange(http), request(large, KEY)) == "body-too-large"
