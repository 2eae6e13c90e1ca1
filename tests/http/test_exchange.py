"""One request's HTTP side as values, from its head to the replay: sections B, C, E and F of the table."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, assert_never

import jmespath
import pytest
from jmespath import functions

from idempotency_mw.core.config import IdempotencyConfig
from idempotency_mw.core.machine import Answered, Discarded, Failed, Kept, Reason, Reject
from idempotency_mw.core.record import Operation, Record, Status
from idempotency_mw.errors import IdempotencyConfigurationError
from idempotency_mw.http.config import HTTPConfig
from idempotency_mw.http.exchange import Exchange, Keyed, Pass, Refuse, Wanted
from idempotency_mw.http.message import Headers, Request, Response, grouped

JSON = (b"content-type", b"application/json")
KEY = (b"idempotency-key", b'"k"')
SECRETS = ("s3cr3t", "4111")


def exchange(http: HTTPConfig | None = None, **options: Any) -> Exchange:
    return Exchange(IdempotencyConfig(**options), http or HTTPConfig())


def request(
    *headers: tuple[bytes, bytes], method: str = "POST", path: str = "/orders", query: bytes = b""
) -> Request:
    return Request(method, path, query, grouped(headers, {name for name, _ in headers}))


def reached(ours: Exchange, asked: Request, body: bytes = b"", caller: object = None) -> Operation | str:
    """Return the operation, or what ended the way to it: `pass`, `pass, body unread`, or the problem's slug."""
    wanted = ours.head(asked)
    match wanted:
        case Pass():
            return "pass, body unread"
        case Refuse(refusal):
            return refusal.problem.slug
        case Wanted():
            keyed = ours.keyed(wanted, body)
        case _:
            assert_never(wanted)
    match keyed:
        case Pass():
            return "pass"
        case Refuse(refusal):
            return refusal.problem.slug
        case Keyed():
            operation = ours.operation(asked, keyed, caller)
        case _:
            assert_never(keyed)
    return operation.refusal.problem.slug if isinstance(operation, Refuse) else operation


def operation(ours: Exchange, asked: Request, body: bytes = b"", caller: object = None) -> Operation:
    found = reached(ours, asked, body, caller)
    assert isinstance(found, Operation), found
    return found


def key_of(ours: Exchange, asked: Request, body: bytes = b"") -> str:
    """Return the key, or what ended the way to it."""
    wanted = ours.head(asked)
    keyed = ours.keyed(wanted, body) if isinstance(wanted, Wanted) else wanted
    if isinstance(keyed, Keyed):
        return keyed.key
    found = reached(ours, asked, body)
    assert isinstance(found, str)
    return found


# Which requests are ours.


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
def test_the_header_without_which_a_request_passes(
    http: HTTPConfig, event_key: str | None, sought: bytes | None
) -> None:
    assert exchange(http, event_key_jmespath=event_key).sought_header == sought


def test_a_key_has_to_be_somewhere() -> None:
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
def test_a_missing_key_learns_where_it_belongs(http: HTTPConfig, event_key: str | None, named: str) -> None:
    ours = exchange(http, event_key_jmespath=event_key)
    asked = request(JSON)
    found = ours.head(asked)
    if isinstance(found, Wanted):
        found = ours.keyed(found, b"{}")  # type: ignore[assignment]
    assert isinstance(found, Refuse)
    assert named in found.refusal.detail


# Section B: what the header's syntax makes of the record. Its rows in full are in test_key.py.


@pytest.mark.row(9, 10, 18)
def test_quoted_and_bare_are_one_record() -> None:
    keys = [b'"8e03"', b"8e03", b"  8e03 ", b' "8e03";p=1']
    assert len({operation(exchange(), request((b"idempotency-key", key))) for key in keys}) == 1


@pytest.mark.row(20, 21)
def test_other_keys_are_other_records_however_they_look() -> None:
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
def test_a_header_of_almost_our_name_is_not_ours() -> None:
    assert key_of(exchange(), request(KEY, (b"idempotency_key", b"other"))) == "k"
    assert key_of(exchange(), request((b"idempotency_key", b"other"))) == "pass, body unread"


@pytest.mark.row(22)
def test_another_header_with_opaque_keys() -> None:
    ours = exchange(HTTPConfig(header="PayPal-Request-Id", key_syntax="opaque"))
    assert key_of(ours, request((b"paypal-request-id", b'"a" b;c'))) == '"a" b;c'
    assert key_of(ours, request((b"paypal-request-id", b"a,b"))) == "key-invalid"
    assert key_of(ours, request(KEY)) == "pass, body unread"


# Section C.

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
def test_what_is_the_key_in_a_body(media: str, body: bytes, optional: str, required: str) -> None:
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
def test_a_key_in_the_header_and_one_in_the_body(header: bytes, body: bytes, key: str) -> None:
    ours = exchange(event_key_jmespath="id")
    assert key_of(ours, request(JSON, (b"idempotency-key", header)), body) == key


@pytest.mark.row(29)
def test_several_fields_equal_the_header_by_their_text() -> None:
    ours = exchange(event_key_jmespath="[t, id]")
    asked = request(JSON, (b"idempotency-key", b'"[\\"a\\",\\"7\\"]"'))
    assert key_of(ours, asked, b'{"t": "a", "id": 7}') == '["a","7"]'
    assert key_of(ours, asked, b'{"t": "a", "id": 8}') == "key-conflict"


@pytest.mark.row(28)
def test_a_key_in_the_body_only_leaves_the_header_alone() -> None:
    ours = exchange(HTTPConfig(header=None), event_key_jmespath="id")
    assert key_of(ours, request(JSON, KEY), b'{"id": "b"}') == "b"
    assert key_of(ours, request(JSON, KEY), b"{}") == "pass"


@pytest.mark.row(28)
def test_a_body_that_is_not_json_may_have_its_key_in_the_header() -> None:
    ours = exchange(REQUIRED, event_key_jmespath="id")
    assert key_of(ours, request((b"content-type", b"text/plain"), KEY), b"x") == "k"


@pytest.mark.row(26, 31)
def test_an_expression_that_fails_is_a_body_that_cannot_be_used() -> None:
    assert key_of(exchange(event_key_jmespath="abs(id)"), request(JSON), b'{"id": "4111"}') == "body-invalid"


class Summing(functions.Functions):
    @functions.signature({"types": ["object"]})
    def _func_order(self, value: dict[str, Any]) -> Any:
        return value["order"]


def test_custom_functions_are_used() -> None:
    options = jmespath.Options(custom_functions=Summing())
    ours = exchange(event_key_jmespath="order(@)", jmespath_options=options)
    assert key_of(ours, request(JSON), b'{"order": "a"}') == "a"
    assert key_of(ours, request(JSON), b"{}") == "body-invalid"


@pytest.mark.row(31)
def test_a_sum_of_too_many_digits_is_refused() -> None:
    body = b'{"ids": [%b, %b]}' % (b"9" * 4300, b"9" * 4300)
    assert key_of(exchange(event_key_jmespath="sum(ids)"), request(JSON), body) == "key-invalid"


@pytest.mark.row(26)
def test_without_a_key_a_payload_need_not_be_selectable() -> None:
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
def test_the_limit_holds_where_a_body_is_read_for_its_key_and_nowhere_else() -> None:
    http = HTTPConfig(max_request_body=100)
    large = (b"content-length", b"101")
    assert reached(exchange(http), request(JSON, large)) == "pass, body unread"
    assert reached(exchange(http, event_key_jmespath="id"), request(JSON, large)) == "body-too-large"
    assert "100 bytes" in exchange(http).body_too_large().refusal.detail


@pytest.mark.row(5, 33)
def test_the_key_is_looked_at_before_the_size() -> None:
    http = HTTPConfig(max_request_body=0, required=True)
    large = (b"content-length", b"1")
    assert reached(exchange(http), request(large)) == "key-missing"
    assert reached(exchange(http), request(large, (b"idempotency-key", b'"'))) == "key-invalid"
    assert reached(exchange(http), request(large, KEY)) == "body-too-large"


# What makes an operation.

BASE = request(KEY, (b"content-type", b"text/plain"), (b"host", b"a.example"), query=b"a=1")
OURS = exchange()
FIRST = operation(OURS, BASE, b"body")


# Every record depends on these: they may change only together with a way to read what is stored.
def test_an_operation_stays_what_it_was() -> None:
    assert operation(OURS, request(KEY), b"body") == Operation(
        storage_key="77023e5e5ab18e2f46f666c3c5fa5ff9a24cde8b731a9fc14722a42e5dfd7b70",
        fingerprint="b976bd89ab0ac9a59d7bbd36a7a83f0a24e782d867807dea3b18fe7a4c5a8de7",
    )


def test_an_operation_with_all_its_parts_stays_what_it_was() -> None:
    http = HTTPConfig(caller=str)
    ours = exchange(http, key_prefix="orders", event_key_jmespath="id", payload_validation_jmespath="{a: a}")
    asked = request((b"content-type", b"application/json"), method="PATCH", path="/\u00fc", query=b"b=%41&a=")
    assert operation(ours, asked, b'{"id": "k", "a": [1, 2.5, "\\u00fc"], "x": 1}', "alice") == Operation(
        storage_key="b3f62244d70a890dd0518940015ce6a53e0fe06c21aedd36031a8b803ff97f97",
        fingerprint="55c92531262de290c8a010509005d89111014bcd08a057001c2627f97ed6201d",
    )


@dataclass(frozen=True)
class Other:
    """What another request has, and whether it names another key, or is another request with this one."""

    asked: Request
    body: bytes = b"body"
    ours: Exchange = OURS


def with_headers(**changed: str) -> Request:
    lines = {name.replace("_", "-").encode(): [value.encode()] for name, value in changed.items()}
    return BASE._replace(lines={**BASE.lines, **lines})


OTHER_KEYS = {
    "key": Other(with_headers(idempotency_key='"k2"')),
    "case of the key": Other(with_headers(idempotency_key='"K"')),
    "method": Other(BASE._replace(method="PATCH")),
    "path": Other(BASE._replace(path="/orders/")),
    "case of the path": Other(BASE._replace(path="/Orders")),
    "prefix": Other(BASE, ours=exchange(key_prefix="b")),
}

OTHER_REQUESTS = {
    "body": Other(BASE, b"Body"),
    "empty body": Other(BASE, b""),
    "query": Other(BASE._replace(query=b"a=2")),
    "no query": Other(BASE._replace(query=b"")),
    "media type": Other(with_headers(content_type="text/html")),
    "authorization": Other(with_headers(authorization="Bearer s3cr3t")),
    "empty authorization": Other(with_headers(authorization="")),
    "cookie": Other(with_headers(cookie="a=s3cr3t")),
    "API key": Other(with_headers(x_api_key="s3cr3t")),
    "host": Other(with_headers(host="b.example")),
}

SAME_REQUESTS = {
    "itself": Other(BASE),
    "bare key": Other(with_headers(idempotency_key="k")),
    "parameters of the media type": Other(with_headers(content_type="Text/PLAIN; charset=utf-8")),
    "another header": Other(with_headers(accept="*/*", user_agent="x", traceparent="y")),
    "form of the query": Other(BASE._replace(query=b"%61=1&")),
}


@pytest.mark.row(20, 55)
@pytest.mark.parametrize("other", OTHER_KEYS.values(), ids=OTHER_KEYS)
def test_another_key_is_another_record(other: Other) -> None:
    assert operation(other.ours, other.asked, other.body).storage_key != FIRST.storage_key


@pytest.mark.row(36, 57)
@pytest.mark.parametrize("other", OTHER_REQUESTS.values(), ids=OTHER_REQUESTS)
def test_another_request_with_the_key_has_another_fingerprint(other: Other) -> None:
    found = operation(other.ours, other.asked, other.body)
    assert found.storage_key == FIRST.storage_key
    assert found.fingerprint != FIRST.fingerprint


@pytest.mark.row(35, 9, 10, 84)
@pytest.mark.parametrize("other", SAME_REQUESTS.values(), ids=SAME_REQUESTS)
def test_a_retry_is_the_same_operation(other: Other) -> None:
    assert operation(other.ours, other.asked, other.body) == FIRST


@pytest.mark.row(84)
def test_the_order_of_a_query_counts_only_within_a_name() -> None:
    def of(query: bytes) -> Operation:
        return operation(OURS, BASE._replace(query=query))

    assert of(b"a=1&b=2") == of(b"b=2&a=1")
    assert of(b"a=1&a=2").fingerprint != of(b"a=2&a=1").fingerprint


@pytest.mark.row(56)
def test_parts_of_an_operation_cannot_run_into_each_other() -> None:
    def of(caller: str, path: str, key: bytes, prefix: str = "") -> str:
        ours = exchange(HTTPConfig(caller=str), key_prefix=prefix)
        return operation(ours, request((b"idempotency-key", key), path=path), caller=caller).storage_key

    found = [
        of("a", "bc", b"d"),
        of("ab", "c", b"d"),
        of("a", "b", b"cd"),
        of("b", "c", b"d", "a"),
        of("a:b", "c", b"d"),
        of("a\x00b", "c", b"d"),
        of("a", "b:c", b"d"),
    ]
    assert len(set(found)) == len(found)


@pytest.mark.row(57)
def test_bound_headers_cannot_run_into_each_other_or_into_the_body() -> None:
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
def test_which_headers_are_bound_is_a_choice() -> None:
    ours = exchange(HTTPConfig(bound_headers=["X-Tenant"]))
    assert operation(ours, request(KEY, (b"x-tenant", b"a"))) != operation(ours, request(KEY, (b"x-tenant", b"b")))
    assert operation(ours, request(KEY, (b"cookie", b"a"))) == operation(ours, request(KEY, (b"cookie", b"b")))


# Section E.

CALLERS = exchange(HTTPConfig(caller=str))


@pytest.mark.row(56)
def test_two_callers_have_two_records() -> None:
    def of(caller: str) -> str:
        return operation(CALLERS, BASE, caller=caller).storage_key

    callers = ["a", "b", "A", "a ", "\u00e9", "e\u0301", "a\x00", "None", "\ud800", FIRST.storage_key]
    assert len({FIRST.storage_key, *map(of, callers)}) == len(callers) + 1


def test_a_caller_is_its_text_and_not_what_it_shows_of_itself() -> None:
    class Masked(str):
        __slots__ = ()

        def __str__(self) -> str:
            return "***"

    keys = [operation(CALLERS, BASE, caller=kind(name)).storage_key for kind in (str, Masked) for name in "ab"]
    assert keys[:2] == keys[2:]
    assert keys[0] != keys[1]


@pytest.mark.row(56)
def test_with_callers_credentials_may_rotate() -> None:
    asked = [
        request(KEY),
        request(KEY, (b"authorization", b"a")),
        request(KEY, (b"cookie", b"b"), (b"host", b"c")),
    ]
    assert len({operation(CALLERS, each, caller="alice") for each in asked}) == 1


@pytest.mark.row(58)
@pytest.mark.parametrize("caller", [None, ""])
def test_a_caller_that_cannot_be_told_is_refused(caller: object) -> None:
    assert reached(CALLERS, BASE, caller=caller) == "caller-missing"


@pytest.mark.row(58)
@pytest.mark.parametrize("caller", [7, 0, False, b"alice", ["alice"], object()])
def test_a_caller_that_is_not_text_is_a_mistake_of_the_configuration(caller: object) -> None:
    with pytest.raises(IdempotencyConfigurationError, match="caller must return str") as caught:
        reached(CALLERS, BASE, caller=caller)
    assert "alice" not in str(caught.value)


@pytest.mark.row(56)
def test_a_request_without_callers_never_meets_one_with() -> None:
    assert operation(CALLERS, BASE, caller="x").storage_key != FIRST.storage_key


@pytest.mark.row(59)
def test_neither_key_nor_credentials_nor_body_are_shown() -> None:
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
def test_a_refusal_quotes_nothing(header: bytes, body: bytes) -> None:
    ours = exchange(event_key_jmespath="id", payload_validation_jmespath="abs(n)")
    asked = request(JSON, (b"idempotency-key", header))
    found = ours.head(asked)
    refused = ours.keyed(found, body) if isinstance(found, Wanted) else found
    assert isinstance(refused, Refuse)
    answer = ours.replies.refusal(asked, refused.refusal)
    assert not any(secret in repr(refused) + answer.body.decode() + str(answer.headers) for secret in SECRETS)


# What of the body counts.


def fingerprint(ours: Exchange, body: bytes, media: bytes = b"application/json") -> str:
    return operation(ours, request(KEY, (b"content-type", media)), body).fingerprint


@pytest.mark.row(36)
def test_the_selected_part_of_a_body_counts_in_any_form() -> None:
    ours = exchange(payload_validation_jmespath="{a: amount, c: currency}")
    first = fingerprint(ours, b'{"amount": 1, "currency": "EUR", "sent": 1}')
    assert fingerprint(ours, b'{"currency":"\\u0045UR","sent":2,"amount":1}') == first
    assert fingerprint(ours, b'{"amount": 2, "currency": "EUR", "sent": 1}') != first
    assert fingerprint(ours, b'{"amount": 1.0, "currency": "EUR"}') != first
    assert fingerprint(ours, b'{"amount": "1", "currency": "EUR"}') != first


@pytest.mark.row(28)
def test_a_body_that_cannot_be_parsed_counts_by_its_bytes() -> None:
    ours = exchange(payload_validation_jmespath="amount")
    found = [
        fingerprint(ours, b'{"amount": 1'),
        fingerprint(ours, b'{"amount": 1 '),
        fingerprint(ours, b"1"),
        fingerprint(ours, b"1", b"text/plain"),
        fingerprint(ours, b'{"amount": 1}'),
    ]
    assert len(set(found)) == len(found)


@pytest.mark.row(31)
@pytest.mark.parametrize("amount", [b"1e999", b"-1e999", b"9" * 400 + b".0", b"[[1e400]]"])
def test_a_number_over_the_range_of_floats_is_not_taken_for_another(amount: bytes) -> None:
    ours = exchange(payload_validation_jmespath="amount")
    assert reached(ours, request(KEY, JSON), b'{"amount": %b}' % amount) == "body-invalid"
    assert isinstance(reached(ours, request(KEY, JSON), b'{"amount": 1, "other": %b}' % amount), Operation)


@pytest.mark.row(30)
def test_a_body_that_need_not_be_read_may_have_what_it_likes() -> None:
    assert fingerprint(exchange(), b'{"a": 1, "a": 2}') != fingerprint(exchange(), b'{"a": 2}')
    assert (
        reached(exchange(payload_validation_jmespath="a"), request(KEY, JSON), b'{"b": 1, "b": 2}')
        == "body-invalid"
    )


@pytest.mark.row(88)
def test_a_multipart_retry_with_another_boundary_is_the_same_request() -> None:
    def of(boundary: bytes, value: bytes) -> str:
        body = b"--%b\r\ncontent-disposition: form-data; name=a\r\n\r\n%b\r\n--%b--\r\n" % (
            boundary,
            value,
            boundary,
        )
        return fingerprint(exchange(), body, b"multipart/form-data; boundary=" + boundary)

    assert of(b"aaa", b"1") == of(b"bbb", b"1")
    assert of(b"aaa", b"1") != of(b"aaa", b"2")
    assert of(b"aaa", b"pay --aaa") != of(b"bbb", b"pay --bbb")


def test_a_selection_and_bytes_never_have_the_same_fingerprint() -> None:
    assert fingerprint(exchange(payload_validation_jmespath="@"), b"[1]") != fingerprint(exchange(), b"[1]")


# Section F: the way of an answer into the store, and out of it.


def answered(ours: Exchange, asked: Request, status: int, headers: Headers, *chunks: bytes) -> bytes:
    """Return what the store is given for a whole answer."""
    capture = ours.replies.capture(asked)
    capture.start(status, headers)
    for chunk in chunks:
        capture.add(chunk)
    capture.finish()
    assert isinstance(ours.replies.verdict(capture, discarded=False), Answered)
    result = ours.replies.encode(Kept.ANSWER, capture)
    assert result is not None
    return result


def replayed(ours: Exchange, asked: Request, result: bytes | None, waited: int | None = None) -> Response:
    record = Record(Status.COMPLETED, 1, FIRST.fingerprint, 1000, result)
    return ours.replies.replay(asked, FIRST, record, waited=waited)


def there_and_back(
    status: int, headers: Headers, *chunks: bytes, method: str = "POST", **options: Any
) -> Response:
    ours = exchange(HTTPConfig(methods=[method], **options))
    asked = BASE._replace(method=method)
    return replayed(ours, asked, answered(ours, asked, status, headers, *chunks))


MARKER = (b"idempotent-replayed", b"true")


def length(of: int) -> tuple[bytes, bytes]:
    return (b"content-length", b"%d" % of)


@pytest.mark.row(35, 62, 65, 67, 68, 69)
def test_a_replay_is_the_answer_marked_and_with_its_length() -> None:
    headers = (
        (b"link", b"<a>"),
        (b"location", b"../a"),
        (b"x-a", b"\xe9"),
        (b"link", b"<b>"),
        (b"content-length", b"256"),
    )
    every_byte = bytes(range(256))
    assert there_and_back(299, headers, every_byte[:100], every_byte[100:]) == Response(
        299, (*headers[:4], length(256), MARKER), every_byte
    )


@pytest.mark.row(65)
def test_a_streamed_answer_is_replayed_with_its_length() -> None:
    headers = ((b"transfer-encoding", b"chunked"), (b"content-type", b"text/plain"))
    assert there_and_back(200, headers, b"a", b"", b"bc").headers == (headers[1], length(3), MARKER)


@pytest.mark.row(60, 63, 64)
def test_what_is_not_of_the_answer_is_not_replayed() -> None:
    headers = (
        (b"date", b"now"),
        (b"set-cookie", b"s3cr3t"),
        (b"connection", b"x-hop"),
        (b"x-hop", b"1"),
        (b"x-ratelimit-limit", b"5"),
        (b"x-a", b"1"),
    )
    assert there_and_back(200, headers).headers == ((b"x-a", b"1"), length(0), MARKER)


@pytest.mark.row(60, 64)
def test_what_is_dropped_is_a_choice() -> None:
    headers = ((b"date", b"now"), (b"x-b", b"1"), (b"te", b"x"))
    replay = there_and_back(200, headers, dropped_headers=["X-*"])
    assert replay.headers == ((b"date", b"now"), length(0), MARKER)


@pytest.mark.row(66)
@pytest.mark.parametrize(
    ("status", "expected"), [(204, (MARKER,)), (205, (MARKER,)), (304, ((b"content-length", b"7"), MARKER))]
)
def test_a_bodiless_status_is_replayed_without_a_body(status: int, expected: Headers) -> None:
    replay = there_and_back(status, ((b"content-length", b"7"),), b"ignored")
    assert replay == Response(status, expected, b"")


@pytest.mark.row(2, 71)
def test_a_head_is_replayed_without_a_body_but_with_its_length() -> None:
    headers = ((b"content-type", b"text/plain"), (b"content-length", b"7"))
    assert there_and_back(200, headers, method="HEAD") == Response(200, (*headers, MARKER), b"")
    assert there_and_back(200, headers[:1], b"ignored", method="HEAD") == Response(200, (headers[0], MARKER), b"")


@pytest.mark.row(70)
def test_a_marker_of_the_app_is_removed() -> None:
    headers = ((b"Idempotent-Replayed", b"false"), (b"x-a", b"1"))
    assert exchange().replies.without_marker(headers) == ((b"x-a", b"1"),)
    assert there_and_back(200, headers).headers == ((b"x-a", b"1"), length(0), MARKER)


@pytest.mark.row(35, 70)
def test_the_name_of_the_marker_is_a_choice() -> None:
    headers = ((b"idempotent-replayed", b"mine"), (b"x-replayed", b"mine"))
    replay = there_and_back(200, headers, replay_header="X-Replayed")
    assert replay.headers == (headers[0], length(0), (b"x-replayed", b"true"))


@pytest.mark.row(72)
@pytest.mark.parametrize("line", [(b"x", b"a\r\nb: c"), (b"x", b"a\x00"), (b"a:b", b"c"), (b"", b"x")])
def test_an_answer_that_cannot_be_sent_is_not_kept(line: tuple[bytes, bytes]) -> None:
    capture = exchange().replies.capture(BASE)
    capture.start(200, (line,))
    capture.finish()
    assert exchange().replies.encode(Kept.ANSWER, capture) is None


@pytest.mark.row(52, 72)
@pytest.mark.parametrize(
    "result", [None, b"", b"x", b"2200000000", b"1200000008a:b\r\nc:\nd", b"1200000005a:\x00\nd"]
)
def test_a_stored_answer_that_cannot_be_read_is_a_refusal_and_reported(
    result: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    refusal = replayed(OURS, BASE, result)
    assert f"{FIRST.storage_key[:12]}: refused" in caplog.text
    assert FIRST.storage_key not in caplog.text
    assert (refusal.status, json.loads(refusal.body)["type"]) == (
        503,
        "urn:idempotency-mw:problem:record-unreadable",
    )
    assert MARKER not in refusal.headers
    assert replayed(OURS, BASE._replace(method="HEAD"), result).body == b""


# How a run ended.


@pytest.mark.row(40, 41)
@pytest.mark.parametrize(
    ("status", "storable"),
    [(200, True), (204, True), (303, True), (399, True), (400, False), (404, False), (500, False)],
)
def test_the_status_says_whether_an_answer_is_storable(status: int, storable: bool) -> None:
    capture = OURS.replies.capture(BASE)
    capture.start(status, ())
    capture.finish()
    assert OURS.replies.verdict(capture, discarded=False) == Answered(storable=storable, captured=True)


@pytest.mark.row(40, 41)
def test_what_is_storable_is_a_choice() -> None:
    ours = exchange(HTTPConfig(storable=lambda status: status == 404))
    capture = ours.replies.capture(BASE)
    capture.start(404, ())
    capture.finish()
    assert ours.replies.verdict(capture, discarded=False) == Answered(storable=True, captured=True)


@pytest.mark.row(44, 46)
@pytest.mark.parametrize("sent", [None, b"", b"ab"])
def test_an_answer_that_is_not_whole_is_a_failure(sent: bytes | None) -> None:
    capture = OURS.replies.capture(BASE)
    if sent is not None:
        capture.start(200, ((b"content-length", b"3"),))
        capture.add(sent)
        capture.finish()
    assert OURS.replies.verdict(capture, discarded=False) == Failed()


@pytest.mark.row(46)
def test_a_body_without_a_start_is_a_failure() -> None:
    capture = OURS.replies.capture(BASE)
    capture.add(b"body")
    capture.finish()
    assert OURS.replies.verdict(capture, discarded=False) == Failed()


@pytest.mark.row(53)
def test_an_answer_over_the_limit_is_not_captured() -> None:
    ours = exchange(HTTPConfig(max_response_body=2))
    capture = ours.replies.capture(BASE)
    capture.start(200, ())
    capture.add(b"abc")
    capture.finish()
    assert ours.replies.verdict(capture, discarded=False) == Answered(storable=True, captured=False)
    assert ours.replies.encode(Kept.NOTHING, capture) is None


@pytest.mark.row(54)
def test_a_discarded_answer_is_discarded_whatever_it_is() -> None:
    assert OURS.replies.verdict(OURS.replies.capture(BASE), discarded=True) == Discarded()


@pytest.mark.row(42, 44)
def test_a_failure_is_kept_as_a_problem() -> None:
    capture = OURS.replies.capture(BASE)
    capture.start(200, ((b"x-part", b"s3cr3t"),))
    capture.add(b"4111")
    replay = replayed(OURS, BASE, OURS.replies.encode(Kept.FAILURE, capture))
    document = json.loads(replay.body)
    assert (replay.status, document["status"], document["type"]) == (
        500, 500, "urn:idempotency-mw:problem:execution-failed"
    )  # fmt: skip
    assert replay.headers == (
        (b"content-type", b"application/problem+json"),
        (b"content-language", b"en"),
        (b"cache-control", b"no-store"),
        length(len(replay.body)),
        MARKER,
    )
    assert not any(secret in str(replay.headers) + replay.body.decode() for secret in SECRETS)


# The hook.


def hooked(hook: Callable[[Response, Record], Any], result: bytes) -> Response:
    return replayed(exchange(response_hook=hook), BASE, result)


@pytest.mark.row(35)
def test_a_hook_changes_a_replay() -> None:
    seen: list[tuple[Response, Record]] = []

    def hook(response: Response, record: Record) -> Response:
        seen.append((response, record))
        return Response(202, (*response.headers, (b"x-hook", b"1"), (b"Content-Length", b"999")), b"longer body")

    replay = hooked(hook, answered(OURS, BASE, 200, ((b"x-a", b"1"),), b"body"))
    assert replay == Response(202, ((b"x-a", b"1"), (b"x-hook", b"1"), length(11), MARKER), b"longer body")
    assert seen[0][0] == Response(200, ((b"x-a", b"1"),), b"body")
    assert seen[0][1].status is Status.COMPLETED


def test_a_hook_may_replace_a_part_of_the_response() -> None:
    replay = hooked(lambda response, record: replace(response, body=b"other"), b"1200000000")
    assert replay == Response(200, (length(5), MARKER), b"other")


def test_a_hook_has_to_return_a_response() -> None:
    with pytest.raises(IdempotencyConfigurationError, match="response_hook must return"):
        hooked(lambda response, record: response.body, b"1200000000")


@pytest.mark.row(52)
def test_a_hook_does_not_see_what_cannot_be_read() -> None:
    def never(response: Response, record: Record) -> Response:
        raise AssertionError

    assert hooked(never, b"mangled").status == 503


# Refusals, and waiting.


@pytest.mark.row(36, 57)
@pytest.mark.parametrize(
    ("http", "is_named"),
    [(HTTPConfig(), True), (HTTPConfig(caller=str), False), (HTTPConfig(bound_headers=()), False)],
)
def test_a_mismatch_names_the_remedy_where_credentials_are_bound(http: HTTPConfig, is_named: bool) -> None:
    refusal = exchange(http).replies.rejection(BASE, Reject(Reason.REUSED))
    assert refusal.status == 422
    assert ("`caller`" in json.loads(refusal.body)["detail"]) is is_named


@pytest.mark.row(2, 119)
@pytest.mark.parametrize("reason", Reason)
def test_a_refusal_bears_no_marker_and_has_no_body_for_a_head(reason: Reason) -> None:
    refusal = OURS.replies.rejection(BASE, Reject(reason, retry_after_ms=1))
    to_head = OURS.replies.rejection(BASE._replace(method="HEAD"), Reject(reason, retry_after_ms=1))
    assert MARKER not in refusal.headers
    assert (to_head.status, to_head.headers, to_head.body) == (refusal.status, refusal.headers, b"")


@pytest.mark.row(114, 116)
@pytest.mark.parametrize(
    ("longest", "prefer", "waited"),
    [
        (0, b"wait=5", None),
        (10, b"wait=5", 5),
        (10, b"wait=50", 10),
        (10, b"wait=0", 0),
        (2.5, b"wait=5", 2),
        (10, b"wait=-1", None),
        (10, b"wait=x", None),
        (10, b"respond-async", None),
        (10, None, None),
    ],
)
def test_how_long_a_preference_is_honoured(longest: float, prefer: bytes | None, waited: int | None) -> None:
    asked = request(KEY, *([(b"prefer", prefer)] if prefer else []))
    assert exchange(HTTPConfig(max_wait_seconds=longest)).wait(asked) == waited


@pytest.mark.row(114, 115)
def test_a_preference_that_was_applied_is_named_on_replays_and_refusals() -> None:
    applied = (b"preference-applied", b"wait=3")
    result = answered(OURS, BASE, 200, ())
    assert replayed(OURS, BASE, result, waited=3).headers[-2:] == (MARKER, applied)
    assert OURS.replies.rejection(BASE, Reject(Reason.IN_PROGRESS, 1), waited=3).headers[-1] == applied
    assert applied not in OURS.replies.rejection(BASE, Reject(Reason.IN_PROGRESS, 1)).headers
