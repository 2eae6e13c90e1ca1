"""Makes a broken build, a copy of the package with a few lines replaced, and runs tests on it.

The copy is imported in a process of its own, in which its folder comes first on `sys.path`. This module imports
nothing of the package, so the process imports only the copy.
"""

import contextlib
import json
import multiprocessing
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Build", "Seen", "run"]

ROOT = Path(__file__).parents[2]
PACKAGE = "idempotency_mw"

WITHIN_SECONDS = 50
"""How long the tests of one build may run. A build that hangs is killed before the `timeout` of pyproject.toml, 60
seconds, so that its output is shown."""

TEST_SECONDS = 20
"""How long one test may run on a build. A fault can make a test hang, which counts as a failure."""


@dataclass(frozen=True)
class Build:
    """A copy of the package with one fault, and the tests that have to fail on it."""

    fault: int
    """The number of the fault: the tests marked `reference_fault` with it are run."""
    what: str
    """What the build does wrong, for the name of the test."""
    changes: tuple[tuple[str, str, str], ...]
    """File in the package, a text in it, and the text that replaces it everywhere in this file."""
    tests: str = ""
    """Only tests with this in their names are run: for a fault that has several builds or tests."""

    def make(self, folder: Path) -> None:
        """Write the copy into the folder.

        Raises LookupError if a text to be replaced is not in its file: whoever changes such a line of the package
        changes it here too.
        """
        copy = folder / PACKAGE
        shutil.copytree(ROOT / PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
        for name, old, new in self.changes:
            text = (copy / name).read_text("utf-8")
            if old not in text:
                raise LookupError(f"{name} has changed: it has no {old!r}")
            (copy / name).write_text(text.replace(old, new), "utf-8")


@dataclass(frozen=True)
class Seen:
    """What the tests of a fault showed on a build."""

    over: set[str]
    """The kinds of functions and the stores that tests ran with; `once` for a test that has neither."""
    by: set[str]
    """Those of them with which a test failed. If the tests see the fault everywhere, `by` equals `over`."""
    output: str
    """What pytest printed."""


class _Watching:
    """A pytest plugin that selects the tests of one fault, and notes which of them fail."""

    def __init__(self, fault: int, tests: str) -> None:
        self.fault = fault
        self.tests = tests
        self.over: dict[str, list[str]] = {}
        self.by: set[str] = set()

    def pytest_collection_modifyitems(self, items):
        items[:] = [
            item
            for item in items
            if self.tests in item.name
            and any(self.fault in mark.args for mark in item.iter_markers("reference_fault"))
        ]
        for item in items:
            parameters = item.callspec.params.items() if hasattr(item, "callspec") else ()
            self.over[item.nodeid] = [
                value for name, value in parameters if name in ("kind", "store", "file_or_server", "server_store")
            ] or ["once"]

    def pytest_runtest_logreport(self, report):
        if report.when == "call" and report.failed:
            self.by.update(self.over[report.nodeid])


def run(build: Build, folder: Path) -> Seen:
    """Make the build in the folder, and run the tests of its fault on it in a new process."""
    build.make(folder)
    context = multiprocessing.get_context("forkserver")
    # Slow imports happen once, in the server that forks. Each process imports the copy and the tests anew.
    context.set_forkserver_preload(
        ["pytest", "pytest_asyncio.plugin", "pytest_timeout", "hypothesis", "redis.asyncio"]
    )
    process = context.Process(target=_run_tests, args=(build.fault, build.tests, folder))
    process.start()
    process.join(WITHIN_SECONDS)
    if process.is_alive():
        process.kill()
        process.join()
    output = (folder / "output").read_text("utf-8", "replace")
    seen = folder / "seen.json"
    over, by = json.loads(seen.read_text()) if seen.exists() else ([], [])
    return Seen(set(over), set(by), output)


def _run_tests(fault: int, tests: str, folder: Path) -> None:
    sys.path.insert(0, str(folder))
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    import pytest
    import pytest_asyncio.plugin
    import pytest_timeout

    with (
        (folder / "output").open("w") as output,
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(output),
    ):
        package = __import__(PACKAGE)
        watching = _Watching(fault, tests)
        if Path(package.__file__).is_relative_to(folder):  # otherwise the tests would run on the package itself
            options = [
                "-q",
                "--tb=short",
                "--assert=plain",
                "-p",
                "no:cacheprovider",
                "-p",
                "no:unraisableexception",
                f"--timeout={TEST_SECONDS}",
            ]
            module = Path(__file__).with_name("test_reference_faults.py")
            plugins = [pytest_asyncio.plugin, pytest_timeout, watching]
            pytest.main([*options, f"--rootdir={ROOT}", str(module)], plugins=plugins)
    over = sorted({value for values in watching.over.values() for value in values})
    (folder / "seen.json").write_text(json.dumps([over, sorted(watching.by)]))
