"""The parts of the benchmark that decide: counting commands, comparing rounds, holding budgets, drawing."""

import json
import math
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

import benchmarks
from benchmarks import pictures, tables
from benchmarks.budgets import BUDGETS, Budget
from benchmarks.completing import ALIKE, IN_USE, measures
from benchmarks.counting import command_names
from benchmarks.driving import FailedError, interleaved, median_ratio
from tests.servers import binaries

RESULTS = Path(tables.__file__).parent / "results.json"


def test_the_package_names_each_of_its_modules() -> None:
    folder = Path(benchmarks.__file__).parent
    modules = {path.stem for path in folder.glob("*.py")} - {"__init__", "__main__"}
    assert set(re.findall(r"^    (\w+)  +\S", benchmarks.__doc__, re.MULTILINE)) - {"python"} == modules


def test_each_command_of_a_pipeline_is_counted() -> None:
    message = b"*2\r\n$3\r\nget\r\n$5\r\n*1\r\n$\r\n*1\r\n$4\r\nPING\r\n"
    assert command_names(message) == ["GET", "PING"]


def test_each_round_begins_with_the_next_case() -> None:
    order: list[str] = []
    cases = {name: lambda name=name: float(order.append(name) or 1) for name in "abc"}
    interleaved(cases, 3, lambda _: None)
    assert "".join(order) == "abcbcacab"


def test_a_ratio_is_taken_within_a_round() -> None:
    rounds = [{"a": 1.0, "b": 2.0}, {"a": 10.0, "b": 20.0}, {"a": 9.0, "b": 3.0}]
    assert median_ratio(rounds, lambda took: took["b"] / took["a"]) == 2


def test_a_case_that_fails_in_one_round_has_no_ratio() -> None:
    def fails() -> float:
        raise FailedError

    rounds = interleaved({"a": lambda: 1.0, "b": fails}, 2, lambda _: None)
    assert math.isnan(rounds[0]["b"])
    assert median_ratio(rounds, lambda took: took["b"] / took["a"]) is None


@pytest.mark.parametrize(("at_least", "within", "beyond"), [(False, 1.2, 1.3), (True, 1.3, 1.2)])
def test_a_budget_is_a_maximum_or_a_minimum(at_least: bool, within: float, beyond: float) -> None:
    budget = Budget("what", 1.25, lambda results: results["value"], at_least=at_least)
    assert budget.holds(within)
    assert not budget.holds(beyond)
    assert budget.value({"value": within}) == within
    assert budget.value({}) is None


def test_each_way_to_complete_settles_a_claim_on_each_server() -> None:
    if not binaries():
        pytest.skip("no server was found")
    for binary in binaries().values():
        with measures(binary, (200,), lambda _: (*IN_USE, *ALIKE)) as cases:
            assert [way for way, _ in cases] == ["redis-py's SET", "complete", "SET", "script", "renamed"]
            assert all(0 < take() < 10_000 for take in cases.values())


def test_the_servers_cpu_is_judged_on_the_most_expensive_server() -> None:
    one, other = {"200": 1.2, "10000": 1.3}, {"200": 1.4, "10000": 1.1}
    results = {"server": {"one": {"in use": one}, "other": {"in use": other}}}
    found = {budget.limit: budget.value(results) for budget in BUDGETS if budget.what.startswith("Redis CPU")}
    assert found == {1.5: 1.4, 1.25: 1.3}


def test_pictures_are_well_formed_and_have_a_title() -> None:
    bars = pictures.bars("Bars & more", {"ours": {"first": 1.5, "replay": 0.5}}, floor="calls")
    lines = pictures.lines("Lines", {"ours": {1.0: 1.0, 1000.0: 1.1}}, across="keys", up="CPU")
    for svg, title in ((bars, "Bars & more"), (lines, "Lines")):
        assert ET.fromstring(svg)[0].text == title


def test_the_page_is_made_from_the_results() -> None:
    results = json.loads(RESULTS.read_text("utf-8"))
    assert (tables.DOCS / "performance.md").read_text("utf-8") == tables.page(results)
    assert all(budget.what in tables.page(results) for budget in BUDGETS)
