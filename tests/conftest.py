"""Servers for the whole run, and the tables of conformance rows and of the fault matrix at its end."""

import gc
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests import canary_watch
from tests.faults.rows import FAULTS, places
from tests.faults.surfaces import SURFACES
from tests.rows import ROWS
from tests.servers import RedisServer, binaries, binary_named, each_binary

# The machines that run this are slow at times; what has to be fast is measured where it matters.
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")

_outcomes: dict[str, dict[str, str]] = defaultdict(dict)
_faults: dict[int, dict[tuple[str, tuple[str, str] | None], str]] = defaultdict(dict)


@pytest.fixture(scope="session", params=each_binary())
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """Each real server in turn, the oldest one that is supported included."""
    with RedisServer(binary_named(request.param)) as started:
        yield started


@pytest.fixture(scope="session")
def any_server() -> Iterator[RedisServer]:
    """One real server, for tests that would show the same on any other."""
    found = binaries()
    if not found:
        pytest.skip("no Redis or Valkey server was found")
    with RedisServer(next(iter(found.values()))) as started:
        yield started


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(canary_watch)
    if config.getoption("--usual-client"):
        from idempotency_mw.persistence.redis import AsyncRedisPersistenceLayer, RedisPersistenceLayer

        for layer in (AsyncRedisPersistenceLayer, RedisPersistenceLayer):
            layer.__init__.__kwdefaults__["direct"] = False


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--conformance", action="store_true", help="print every conformance row with its tests")
    parser.addoption("--faults", action="store_true", help="print every row of the fault matrix with its tests")
    parser.addoption("--usual-client", action="store_true", help="Redis layers without the direct path")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    named = {str(row) for item in items for mark in item.iter_markers("row") for row in mark.args}
    if unknown := named - ROWS.keys():
        raise pytest.UsageError(f"docs/conformance.md has no row {', '.join(sorted(unknown))}")


def pytest_collection_finish(session: pytest.Session) -> None:
    if os.environ.get("CI") == "true" and not binaries():
        pytest.exit("CI without a real Redis or Valkey server proves nothing", returncode=1)
    # Thousands of tests stay to the end. A test that collects garbage need not look for any among them.
    gc.freeze()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    # On the report, because that is what comes back from the process that ran the test.
    report.rows = [str(row) for mark in item.iter_markers("row") for row in mark.args]
    place = getattr(item, "callspec", None) and item.callspec.params.get("place")
    report.faults = [
        (row, each) for mark in item.iter_markers("fault") for row in mark.args for each in _all(place)
    ]


def _all(place: Any) -> list[Any]:
    """Return the places that a test was at: a layer may stand alone, for all surfaces at once."""
    return [(place, surface) for surface in SURFACES] if isinstance(place, str) else [place]


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" or not report.passed:
        for row in getattr(report, "rows", ()):
            _outcomes[row][report.nodeid] = report.outcome
        for row, place in getattr(report, "faults", ()):
            _faults[row][report.nodeid, None if place is None else tuple(place)] = report.outcome


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if config.getoption("--conformance"):
        _print_conformance(terminalreporter)
    if config.getoption("--faults"):
        _print_faults(terminalreporter)


def _print_conformance(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.section("conformance")
    for row, about in ROWS.items():
        results = list(_outcomes[row].values())
        line = f"{row:>4}  {_verdict(results)}  {about}: {_names(_outcomes[row])}"
        terminalreporter.write_line(line)


def _print_faults(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.section("fault matrix")
    for row, fault in FAULTS.items():
        missing = _missing_places(row)
        results = [*_faults[row].values(), *(["failed"] if missing else [])]
        where = f"{', '.join(fault.layers)} under {', '.join(fault.surfaces)}"
        names = _names(nodeid for nodeid, _ in _faults[row])
        terminalreporter.write_line(f"{row:>4}  {_verdict(results)}  {fault.title}")
        terminalreporter.write_line(f"      on {where}{f' ({fault.why})' if fault.why else ''}")
        terminalreporter.write_line(f"      by {names}")
        if missing:
            terminalreporter.write_line(f"      NOT SHOWN on {', '.join(missing)}")


def _missing_places(row: int) -> list[str]:
    """Return where the row applies and no test passed. A layer whose server is missing was skipped by name."""
    shown = {place for (_, place), outcome in _faults[row].items() if outcome in ("passed", "skipped")}
    return [" under ".join(place) for place in places(row) if place not in shown]


def _verdict(results: list[str]) -> str:
    passed = results.count("passed")
    verdict = "FAILED" if "failed" in results else "ok" if passed else "MISSING"
    return f"{verdict:<7} {passed:>3} passed"


def _names(nodeids: Iterable[str]) -> str:
    return ", ".join(sorted({nodeid.rsplit("::", 1)[-1].split("[")[0] for nodeid in nodeids}))


def pytest_sessionfinish(session: pytest.Session) -> None:
    is_whole = not hasattr(session.config, "workerinput")
    option = session.config.getoption
    if is_whole and (
        (option("--conformance") and any(not _outcomes[row] for row in ROWS))
        or (option("--faults") and any(_missing_places(row) for row in FAULTS))
    ):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
