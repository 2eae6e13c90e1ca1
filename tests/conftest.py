"""Servers for the whole run, and the table of conformance rows at its end."""

import os
from collections import defaultdict
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.rows import ROWS
from tests.servers import RedisServer, binaries

# The machines that run this are slow at times; what has to be fast is measured where it matters.
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")

_outcomes: dict[str, dict[str, str]] = defaultdict(dict)


@pytest.fixture(scope="session", params=sorted(binaries()) or [pytest.param("none", marks=pytest.mark.skip)])
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """Every real server that was found, in turn."""
    with RedisServer(binaries()[request.param]) as started:
        yield started


@pytest.fixture(scope="session")
def any_server() -> Iterator[RedisServer]:
    """One real server: for what does not depend on which."""
    found = binaries()
    if not found:
        pytest.skip("no Redis or Valkey server was found")
    with RedisServer(next(iter(found.values()))) as started:
        yield started


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--conformance", action="store_true", help="print every conformance row with its tests")


def pytest_collection_finish(session: pytest.Session) -> None:
    if os.environ.get("CI") == "true" and not binaries():
        pytest.exit("CI without a real Redis or Valkey server proves nothing", returncode=1)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    # On the report, because that is what comes back from the process that ran the test.
    report.rows = [str(row) for mark in item.iter_markers("row") for row in mark.args]


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" or not report.passed:
        for row in getattr(report, "rows", ()):
            _outcomes[row][report.nodeid] = report.outcome


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if not config.getoption("--conformance"):
        return
    terminalreporter.section("conformance")
    for row, about in ROWS.items():
        results = list(_outcomes[row].values())
        passed = results.count("passed")
        verdict = "FAILED" if "failed" in results else "ok" if passed else "MISSING"
        names = sorted({nodeid.rsplit("::", 1)[-1].split("[")[0] for nodeid in _outcomes[row]})
        terminalreporter.write_line(f"{row:>4}  {verdict:<7} {passed:>3} passed  {about}: {', '.join(names)}")


def pytest_sessionfinish(session: pytest.Session) -> None:
    is_whole = not hasattr(session.config, "workerinput")
    if is_whole and session.config.getoption("--conformance") and any(not _outcomes[row] for row in ROWS):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
