"""What JMESPath selects from a payload: functions, options, and errors that don't quote the payload."""

from typing import Any

import jmespath
import pytest
from jmespath import functions
from jmespath.exceptions import UnknownFunctionError

from idempotency_mw.core.digests import canonical
from idempotency_mw.core.selection import Selection
from idempotency_mw.errors import IdempotencyKeyError
from tests.core.tracebacks import SECRET, shown


@pytest.mark.parametrize(
    ("expression", "data", "expected"),
    [
        ("id", {"id": "a"}, "a"),
        ("id", {}, None),
        ("id", [], None),
        ("id", "text", None),
        ("[tenant, order.id]", {"tenant": "t", "order": {"id": 7}}, ["t", 7]),
        ("[tenant, order.id]", {"tenant": "t"}, ["t", None]),
        ("@", None, None),
    ],
)
def test_a_selection_is_the_result_of_jmespath(expression: str, data: Any, expected: Any) -> None:
    assert Selection(expression).select(data) == expected


@pytest.mark.row(31, 59)
@pytest.mark.parametrize(
    ("expression", "data"),
    [
        ("abs(card)", {"card": SECRET}),
        ("sort(cards)", {"cards": [1, SECRET]}),
        ("sum(cards)", {"cards": [SECRET]}),
        ("join(',', cards)", {"cards": [{"number": SECRET}]}),
        ("max_by(@, &card)", [{"card": SECRET}, {"card": 1}]),
    ],
)
def test_the_error_of_a_failing_expression_does_not_quote_the_payload(expression: str, data: Any) -> None:
    with pytest.raises(IdempotencyKeyError, match="fails on this payload") as caught:
        Selection(expression).select(data)
    assert SECRET not in shown(caught.value)


class OwnFunctions(functions.Functions):
    @functions.signature({"types": ["string"]})
    def _func_shout(self, value: str) -> str:
        return value.upper()

    @functions.signature({"types": ["object"]})
    def _func_card(self, value: dict[str, Any]) -> Any:
        return value[SECRET]


OPTIONS = jmespath.Options(custom_functions=OwnFunctions())


def test_custom_functions_are_added_to_those_of_jmespath() -> None:
    assert Selection("shout(to_string(id))", OPTIONS).select({"id": "a"}) == "A"


def test_an_unknown_function_is_refused_when_the_expression_is_compiled() -> None:
    for options in (None, jmespath.Options(), jmespath.Options(dict_cls=dict)):
        with pytest.raises(UnknownFunctionError, match=r"there is no function shout\(\)"):
            Selection("a.b || [c, shout(d)]", options)
    with pytest.raises(UnknownFunctionError):
        Selection("whisper(id)", OPTIONS)


class AnyFunction:
    def call_function(self, name: str, arguments: list[Any]) -> str:
        return f"{name} {arguments}"


def test_a_custom_functions_object_without_a_table_is_left_to_jmespath() -> None:
    assert (
        Selection("shout(id)", jmespath.Options(custom_functions=AnyFunction())).select({"id": 1}) == "shout [1]"
    )


def test_the_error_of_a_failing_custom_function_does_not_quote_the_payload() -> None:
    with pytest.raises(IdempotencyKeyError, match="KeyError") as caught:
        Selection("card(@)", OPTIONS).select({})
    assert SECRET not in shown(caught.value)


def test_a_selected_value_without_a_canonical_form_is_refused() -> None:
    reference = Selection("&card").select({"card": SECRET})
    with pytest.raises(IdempotencyKeyError):
        canonical(reference)
