"""JMESPath functions that unpack text: embedded JSON, base64 and gzip, within bounds."""

import gzip
import json
from base64 import b64encode

import jmespath
import pytest
from jmespath import functions

from idempotency_mw import HTTPConfig, IdempotencyConfig
from idempotency_mw.core.selection import Selection
from idempotency_mw.core.unpacking import MAX_UNPACKED_BYTES
from idempotency_mw.errors import IdempotencyConfigurationError, IdempotencyKeyError
from idempotency_mw.http.exchange import Exchange, Keyed
from idempotency_mw.http.message import Request

NAMES = ["", "powertools_"]


def packed(data: bytes) -> str:
    return b64encode(gzip.compress(data, mtime=0)).decode()


@pytest.mark.parametrize("prefix", NAMES)
def test_each_function_has_two_names(prefix):
    inner = json.dumps({"order": {"id": 7}})
    event = {
        "json": inner,
        "base64": b64encode(inner.encode()).decode(),
        "base64_gzip": packed(inner.encode()),
    }
    assert Selection(f"{prefix}json(json).order.id").select(event) == 7
    assert Selection(f"{prefix}json({prefix}base64(base64)).order.id").select(event) == 7
    assert Selection(f"{prefix}json({prefix}base64_gzip(base64_gzip)).order.id").select(event) == 7


@pytest.mark.parametrize(
    ("expression", "event"),
    [
        ("json(body)", {"body": '{"secret-4111": '}),
        ("json(body)", {"body": '{"a": 1, "a": 2}'}),
        ("json(body)", {"body": None}),
        ("json(body)", {"body": 3}),
        ("json(body, body)", {"body": "1"}),
        ("json(body)", {"body": "[" * 100_000}),
        ("base64(body)", {"body": "secret-4111!"}),
        ("base64(body)", {"body": b64encode(b"\xff").decode()}),
        ("base64_gzip(body)", {"body": b64encode(b"secret-4111").decode()}),
        ("base64_gzip(body)", {"body": b64encode(gzip.compress(b"secret-4111")[:-9]).decode()}),
    ],
)
def test_text_that_can_not_be_unpacked_is_a_key_error_that_does_not_quote_it(expression, event):
    with pytest.raises(IdempotencyKeyError) as caught:
        Selection(expression).select(event)
    assert "4111" not in str(caught.value)


def test_one_search_unpacks_a_bounded_number_of_bytes_in_total():
    at_the_edge, over = packed(b"a" * MAX_UNPACKED_BYTES), packed(b"a" * (MAX_UNPACKED_BYTES + 1))
    selection = Selection("length(base64_gzip(@))")
    for _ in range(2):
        assert selection.select(at_the_edge) == MAX_UNPACKED_BYTES
    with pytest.raises(IdempotencyKeyError):
        selection.select(over)
    halves = [packed(b"a" * (MAX_UNPACKED_BYTES // 2))] * 3
    total = Selection("[].length(base64_gzip(@))")
    assert total.select(halves[:2]) == [MAX_UNPACKED_BYTES // 2] * 2
    with pytest.raises(IdempotencyKeyError):
        total.select(halves)


class Own(functions.Functions):
    @functions.signature({"types": ["string"]})
    def _func_shout(self, value):
        return value.upper()

    @functions.signature({"types": ["string"]})
    def _func_base64(self, value):
        return f"own {value}"


def test_custom_functions_are_added_and_take_precedence():
    options = jmespath.Options(custom_functions=Own())
    assert Selection("shout(json(@).a)", options).select('{"a": "x"}') == "X"
    assert Selection("base64(json(@).a)", options).select('{"a": "x"}') == "own x"
    assert Selection("length(powertools_base64(@))", options).select("YWE=") == 2
    with pytest.raises(IdempotencyConfigurationError, match="whisper"):
        IdempotencyConfig(event_key_jmespath="whisper(json(@))", jmespath_options=options)


def test_http_keys_can_be_unpacked_too():
    config = IdempotencyConfig(event_key_jmespath="powertools_json(detail).id")
    exchange = Exchange(config, HTTPConfig(header=None))
    request = Request(method="POST", path="/", query=b"", lines={b"content-type": [b"application/json"]})
    keyed = exchange.keyed(exchange.head(request), b'{"detail": "{\\"id\\": \\"payment-17\\"}"}')
    assert isinstance(keyed, Keyed)
    assert keyed.key == "payment-17"
