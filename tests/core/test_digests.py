"""Storage keys and fingerprints: equal only for equal parts, and the same in every process and release."""

import json
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from idempotency_mw.core.digests import LARGE, canonical, digest, text
from idempotency_mw.errors import IdempotencyKeyError
from tests.core.tracebacks import SECRET, shown

parts = st.lists(
    st.binary(max_size=12) | st.sampled_from([b"", b":", b"0:", b"1:a", b"2:ab", b"a", b"b"]), max_size=5
)
json_data = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


# The storage key of every record in every store depends on these: a change here orphans all records.
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
        ([b""], "ba768b331fd86cec803be04e56ab2b3d4c0e98ef4ee4fcd4e72ad7cce61a1d1f"),
        ([b"a", b"bc"], "5310a58788781ab25d5ad7c3f85035824b4eb7bdfa394e0ac2186271472b5492"),
        ([b"ab", b"c"], "430fb1b4ac43316eca81fab27a1930ab8eff8fef6a1dc7903dce44bbc2790dc5"),
    ],
)
def test_the_digests_are_pinned(given: list[bytes], expected: str) -> None:
    assert digest(given) == expected


def test_a_digest_is_sha256_of_the_parts_with_their_lengths_in_front() -> None:
    assert digest([b"a", b"bc"]) == sha256(b"1:a2:bc").hexdigest()
    assert digest(iter([b"a", b"bc"])) == digest([b"a", b"bc"])


@pytest.mark.parametrize("sizes", [(1, LARGE, 1), (LARGE,), (LARGE - 1, LARGE + 1), (LARGE, LARGE)])
def test_a_large_part_is_hashed_like_a_small_one(sizes: tuple[int, ...]) -> None:
    whole = b"".join(b"%d:%b" % (size, b"p" * size) for size in sizes)
    assert digest(b"p" * size for size in sizes) == sha256(whole).hexdigest()


@pytest.mark.row(56, 21)
@given(parts, parts)
def test_only_equal_parts_have_equal_digests(one: list[bytes], other: list[bytes]) -> None:
    assert (digest(one) == digest(other)) is (one == other)


@pytest.mark.row(56)
@given(parts.filter(lambda given: len(given) > 1), st.data())
def test_moving_a_boundary_between_two_parts_changes_the_digest(given: list[bytes], data: st.DataObject) -> None:
    whole = b"".join(given)
    at = data.draw(st.integers(0, len(whole)))
    assume([whole[:at], whole[at:]] != given)
    assert digest([whole[:at], whole[at:]]) != digest(given)


@given(st.text(st.characters(), max_size=5), st.text(st.characters(), max_size=5))
def test_only_equal_text_has_equal_bytes(one: str, other: str) -> None:
    assert (text(one) == text(other)) is (one == other)


def test_a_lone_surrogate_has_bytes_of_its_own() -> None:
    texts = ["\ud83d", "\ude00", "\ud83d\ude00", "\U0001f600", "\ufffd", "?"]
    assert len({text(each) for each in texts}) == len(texts)


def test_unicode_normalization_forms_have_different_bytes() -> None:
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
def test_the_canonical_form_is_pinned(data: Any, expected: bytes) -> None:
    assert canonical(data) == expected


@given(json_data)
def test_the_canonical_form_does_not_depend_on_the_order_of_members(data: Any) -> None:
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
def test_data_that_is_not_json_is_refused_without_quoting_it(make: Any) -> None:
    data = make()
    with pytest.raises(IdempotencyKeyError) as caught:
        canonical(data)
    assert SECRET not in shown(caught.value)
