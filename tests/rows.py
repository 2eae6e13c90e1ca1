"""The rows of the conformance table, read from `docs/conformance.md`: what each is about, by its number.

A test names its row with `@pytest.mark.row(35)`. With `--conformance`, the run ends with a table of rows and
tests, and fails if a row has no test. `tests/test_conformance_rows.py` checks in every run that the file and the
tests agree.
"""

import re
from pathlib import Path

__all__ = ["CONFORMANCE", "ROWS", "rows_in"]

CONFORMANCE = Path(__file__).resolve().parents[1] / "docs/conformance.md"

_HEAD = ["row", "given", "expected"]
_RULE = ["---", "---", "---"]
_NUMBER = re.compile(r"[1-9][0-9]*[a-z]?")


def rows_in(text: str) -> dict[str, str]:
    """Return what is given in each row, by its number.

    Every table must have the columns row, given and expected; the numbers must rise from one table to the next.
    Raises `ValueError`, which names the line.
    """
    rows: dict[str, str] = {}
    tables = re.findall(r"(?m)(?:^\|.*\n)+", text)
    for lines in (table.splitlines() for table in tables):
        if [_cells(line) for line in lines[:2]] != [_HEAD, _RULE]:
            raise ValueError(f"not the head of a table of rows: {lines[0]}")
        for line in lines[2:]:
            number, given = _row(line)
            if rows and _order(number) <= _order(list(rows)[-1]):
                raise ValueError(f"row {number} does not come after row {list(rows)[-1]}")
            rows[number] = given
    return rows


def _row(line: str) -> tuple[str, str]:
    cells = _cells(line)
    if len(cells) != len(_HEAD) or not all(cells) or not _NUMBER.fullmatch(cells[0]):
        raise ValueError(f"not a row: {line}")
    return cells[0], cells[1]


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def _order(number: str) -> tuple[int, str]:
    digits = number.rstrip("abcdefghijklmnopqrstuvwxyz")
    return int(digits), number[len(digits) :]


ROWS = rows_in(CONFORMANCE.read_text("utf-8"))
