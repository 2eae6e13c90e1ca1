"""The conformance table of `docs/conformance.md` and the tests that name its rows agree."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from idempotency_mw.http.problem import TYPE_PREFIX, Problem
from tests.rows import CONFORMANCE, ROWS, rows_in

TESTS = Path(__file__).resolve().parent

HEAD = "| row | given | expected |\n|---|---|---|\n"


def named_rows(source: str) -> Iterator[str]:
    """Yield the rows that the decorators of a module's tests name.

    Rows that parameters name are left out; `pytest_collection_modifyitems` in conftest.py checks that they exist.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            for decorator in node.decorator_list:
                if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.row":
                    yield from (str(each.value) for each in decorator.args if isinstance(each, ast.Constant))


def test_every_row_is_named_by_a_test_and_every_named_row_exists() -> None:
    named = Counter(row for module in TESTS.rglob("test_*.py") for row in named_rows(module.read_text("utf-8")))
    assert {row for row in ROWS if not named[row]} == set(), "rows of docs/conformance.md that no test names"
    assert {row for row in named if row not in ROWS} == set(), "rows that docs/conformance.md does not have"


def test_the_decorators_of_plain_async_and_nested_tests_are_read() -> None:
    source = """
@pytest.mark.row(1, "54a")
@pytest.mark.fault(9)
def test_plain(): ...

class Group:
    @pytest.mark.row(2)
    async def test_in_a_class(self): ...

@pytest.mark.row(3)
def not_a_test(): ...
"""
    assert list(named_rows(source)) == ["1", "54a", "2"]


def test_the_table_is_read_row_by_row() -> None:
    text = f"# Rows\n\n## A\n\n{HEAD}| 1 | a `GET` | runs |\n| 1a | b | c |\n\n## B\n\n{HEAD}| 20 | d | e |\n"
    assert rows_in(text) == {"1": "a `GET`", "1a": "b", "20": "d"}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("| row | expected |\n|---|---|\n| 1 | a |\n", "head"),
        ("| row | given | expected |\n| 1 | a | b |\n", "head"),
        (f"{HEAD}| 1 | a |\n", "not a row"),
        (f"{HEAD}| 1 | a | b | c |\n", "not a row"),
        (f"{HEAD}| 1 | | b |\n", "not a row"),
        (f"{HEAD}| one | a | b |\n", "not a row"),
        (f"{HEAD}| 1 | a | b |\n| 1 | a | b |\n", "does not come after"),
        (f"{HEAD}| 10 | a | b |\n\n{HEAD}| 9a | a | b |\n", "does not come after"),
    ],
)
def test_a_table_that_is_not_as_agreed_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        rows_in(text)


def test_the_slugs_and_statuses_are_those_of_the_code() -> None:
    text = CONFORMANCE.read_text("utf-8")
    listed = text.partition("The `type` of a problem is ")[2]
    assert f"`{TYPE_PREFIX}`" in listed
    written = {slug: int(status) for slug, status in re.findall(r"`([a-z-]+)` (\d{3})", listed)}
    assert written == {problem.slug: problem.status for problem in Problem}
