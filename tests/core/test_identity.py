"""Storage keys and fingerprints: equal only for what is equal, and the same in every process and release."""

import json
import traceback
from hashlib import sha256
from typing import Any

import jmespath
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from jmespath import functions
from jmespath.exceptions import UnknownFunctionError

from idempotency_mw.core.digests import LARGE, canonical, digest, text
from idempotency_mw.core.selection import Selection
from idempotency_mw.errors import IdempotencyKeyError

SECRET = "4111-1111"

parts = st.lists(
    st.binary(max_size=12) | st.sampled_from([b"", b":", b"0:", b"1:a", b"2:ab", b"a", b"b"]), max_size=5
)
json_data = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


# The storage key of every record in every store depends on these: a change here orphans them all.
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
        ([b""], "ba768b331fd86cec803be04e56ab2b3d4c0e98ef4ee4fcd4e72ad7cce61a1d1f"),
        ([b"a", b"bc"], "5310a58788781ab25d5ad7c3f85035824b4eb7bdfa394e0ac2186271472b5492"),
        ([b"ab", b"c"], "430fb1b4ac43316eca81fab27a1930ab8eff8fef6a1dc7903dce44bbc2790dc5"),
    ],
)
def test_a_digest_stays_what_it_was(given: list[bytes], expected: str) -> None:
    assert digest(given) == expected


def test_a_digest_is_that_of_the_parts_with_their_lengths_in_front() -> None:
    assert digest([b"a", b"bc"]) == sha256(b"1:a2:bc").hexdigest()
    assert digest(iter([b"a", b"bc"])) == digest([b"a", b"bc"])


@pytest.mark.parametrize("sizes", [(1, LARGE, 1), (LARGE,), (LARGE - 1, LARGE + 1), (LARGE, LARGE)])
def test_a_large_part_is_hashed_as_a_small_one_is(sizes: tuple[int, ...]) -> None:
    whole = b"".join(b"%d:%b" % (size, b"p" * size) for size in sizes)
    assert digest(b"p" * size for size in sizes) == sha256(whole).hexdigest()


@pytest.mark.row(56, 21)
@given(parts, parts)
def test_only_equal_parts_have_equal_digests(one: list[bytes], other: list[bytes]) -> None:
    assert (digest(one) == digest(other)) is (one == other)


@pytest.mark.row(56)
@given(parts.filter(lambda given: len(given) > 1), st.data())
def test_moving_a_delimiter_changes_the_digest(given: list[bytes], data: st.DataObject) -> None:
    whole = b"".join(given)
    at = data.draw(st.integers(0, len(whole)))
    assume([whole[:at], whole[at:]] != given)
    assert digest([whole[:at], whole[at:]]) != digest(given)


@given(st.text(st.characters(), max_size=5), st.text(st.characters(), max_size=5))
def test_only_equal_text_has_equal_bytes(one: str, other: str) -> None:
    assert (text(one) == text(other)) is (one == other)


def test_half_of_a_surrogate_pair_has_bytes_of_its_own() -> None:
    texts = ["\ud83d", "\ude00", "\ud83d\ude00", "\U0001f600", "\ufffd", "?"]
    assert len({text(each) for each in texts}) == len(texts)


def test_unicode_forms_are_told_apart() -> None:
    assert text("\u00e9") != text("e\u0301")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (None, b"null"),
        ({"b": 1, "a": [True, None, "x"]}, b'{"a":[true,null,"x"],"b":1}'),
        ({"\u00e9": "\ud800"}, rb'{"\u00e9":"\ud800"}'),
        ([1, 1.0, -0.0, 1e100], b"[1,1.0,-0.0,1e+100]"),
    ],
)
def test_the_canonical_form_stays_what_it_was(data: Any, expected: bytes) -> None:
    assert canonical(data) == expected


@given(json_data)
def test_the_order_of_members_does_not_matter(data: Any) -> None:
    def reversed_members(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: reversed_members(value[name]) for name in reversed(value)}
        return [reversed_members(each) for each in value] if isinstance(value, list) else value

    assert canonical(data) == canonical(reversed_members(data))
    assert json.loads(canonical(data)) == data


@given(json_data, json_data)
def test_other_data_has_another_canonical_form(one: Any, other: Any) -> None:
    assume(repr(one) != repr(other) and one != other)
    assert canonical(one) != canonical(other)


def deep() -> list[Any]:
    data: list[Any] = []
    for _ in range(100_000):
        data = [data]
    return data


def circle() -> list[Any]:
    data: list[Any] = [SECRET]
    data.append(data)
    return data


def shown(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


@pytest.mark.row(31, 59)
@pytest.mark.parametrize(
    "make",
    [
        lambda: {SECRET},
        lambda: {(SECRET,): 1},
        lambda: {SECRET: 1, 2: 2},
        lambda: [SECRET, float("nan")],
        lambda: [SECRET, float("inf")],
        lambda: [SECRET, 10**5000],
        deep,
        circle,
    ],
)
def test_what_is_not_json_has_no_canonical_form_and_is_not_quoted(make: Any) -> None:
    data = make()
    with pytest.raises(IdempotencyKeyError) as caught:
        canonical(data)
    assert SECRET not in shown(caught.value)


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
def test_a_selection_is_what_jmespath_selects(expression: str, data: Any, expected: Any) -> None:
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
def test_an_expression_that_fails_on_a_payload_does_not_quote_it(expression: str, data: Any) -> None:
    with pytest.raises(IdempotencyKeyError, match="fails on this payload") as caught:
        Selection(expression).select(data)
    assert SECRET not in shown(caught.value)


class Shouting(functions.Functions):
    @functions.signature({"types": ["string"]})
    def _func_shout(self, value: str) -> str:
        return value.upper()

    @functions.signature({"types": ["object"]})
    def _func_card(self, value: dict[str, Any]) -> Any:
        return value[SECRET]


OPTIONS = jmespath.Options(custom_functions=Shouting())


def test_custom_functions_are_added_to_those_of_jmespath() -> None:
    assert Selection("shout(to_string(id))", OPTIONS).select({"id": "a"}) == "A"


def test_a_function_that_there_is_not_is_found_before_it_is_called() -> None:
    for options in (None, jmespath.Options(), jmespath.Options(dict_cls=dict)):
        with pytest.raises(UnknownFunctionError, match=r"there is no function shout\(\)"):
            Selection("a.b || [c, shout(d)]", options)
    with pytest.raises(UnknownFunctionError):
        Selection("whisper(id)", OPTIONS)


class Answering:
    def call_function(self, name: str, arguments: list[Any]) -> str:
        return f"{name} {arguments}"


def test_functions_that_are_in_no_table_are_left_to_jmespath() -> None:
    assert Selection("shout(id)", jmespath.Options(custom_functions=Answering())).select({"id": 1}) == "shout [1]"


def test_a_custom_function_that_fails_does_not_quote_the_payload() -> None:
    with pytest.raises(IdempotencyKeyError, match="KeyError") as caught:
        Selection("card(@)", OPTIONS).select({})
    assert SECRET not in shown(caught.value)


def test_what_a_custom_function_returns_may_have_no_canonical_form() -> None:
    reference = Selection("&card").select({"card": SECRET})
    with pytest.raises(IdempotencyKeyError):
        canonical(reference)
