"""A release: its version, its sdist, and what the workflows test of what the project names."""

import re
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

import pytest

import idempotency_mw

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def test_the_changelog_begins_with_this_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    newest = re.search(r"(?m)^## (\S+)", changelog)
    assert newest is not None
    assert newest[1] == idempotency_mw.__version__


def test_an_sdist_has_all_that_its_tests_need(tmp_path: Path) -> None:
    pytest.importorskip("hatchling", reason="hatchling is not installed")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (sdist,) = tmp_path.glob("*.tar.gz")
    assert sdist.name == f"idempotency_mw-{idempotency_mw.__version__}.tar.gz"
    with tarfile.open(sdist) as opened:
        packed = {Path(*Path(name).parts[1:]) for name in opened.getnames()}
    folders = ("idempotency_mw", "benchmarks", "docs", "examples", "proof", "tests", "tools")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    wanted = [*files, *ROOT.glob("*.md"), *(ROOT / name for name in ("LICENSE", "Makefile", "pyproject.toml"))]
    missing = {path.relative_to(ROOT) for path in wanted} - packed
    assert {path.as_posix() for path in missing if not _is_left_by_a_run(path)} == set()


def _is_left_by_a_run(path: Path) -> bool:
    return any(part.startswith((".", "__pycache__")) for part in path.parts) or ".sqlite3" in path.name


WORKFLOW = ROOT / ".github/workflows/ci.yml"
needs_the_workflow = pytest.mark.skipif(not WORKFLOW.is_file(), reason="an sdist has no workflows")


@needs_the_workflow
def test_the_workflow_tests_every_python_that_the_project_names() -> None:
    named = [each.rpartition(" ")[2] for each in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", each)]
    (tested,) = re.findall(r"python: \[(.*)\]", WORKFLOW.read_text("utf-8"))
    assert [version.strip('" ') for version in tested.split(",")] == named
    assert PROJECT["requires-python"] == f">={named[0]}"


@needs_the_workflow
def test_the_workflow_tests_the_oldest_version_of_every_package_that_the_project_needs() -> None:
    needed = [
        *PROJECT["dependencies"],
        *(each for extra in PROJECT["optional-dependencies"].values() for each in extra),
    ]
    floors = {name: f"{floor}.0" for name, _, floor in (each.partition(">=") for each in needed)}
    (pinned,) = re.findall(r'WITH="([^"]*starlette[^"]*)"', WORKFLOW.read_text("utf-8"))
    assert dict(each.split("==") for each in pinned.split()) == floors
