"""Headers as lines: the values of a name, and lists."""

import pytest

from idempotency_mw.http.message import split_list, values
from tests.http.exchanges import lines


@pytest.mark.parametrize(
    ("given_lines", "members"),
    [
        ([], []),
        ([b""], []),
        ([b"a"], [b"a"]),
        ([b" a\t, b,,c ,"], [b"a", b"b", b"c"]),
        ([b"a", b"b, c"], [b"a", b"b", b"c"]),
    ],
)
def test_a_list_header_is_split_into_its_members(given_lines: list[bytes], members: list[bytes]) -> None:
    assert split_list(given_lines) == members


@pytest.mark.row(62)
def test_the_values_of_a_header_come_from_all_its_lines() -> None:
    assert values(lines("a: 1\nb: 2\na: 3"), b"a") == [b"1", b"3"]
