"""The type checkers find in `usage.py` exactly the errors that are marked there.

`pyrightconfig.json` makes pyright accept its own marks only, and report each mark that it does not need.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def check(*command: str) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_mypy_agrees_with_every_mark() -> None:
    pytest.importorskip("mypy", reason="mypy is not installed")
    said = check(sys.executable, "-m", "mypy", "--strict", "--warn-unused-ignores", str(HERE / "usage.py"))
    assert "no issues found in 1 source file" in said


@pytest.mark.timeout(180)  # the first run on a machine may download pyright itself
def test_pyright_agrees_with_every_mark() -> None:
    pytest.importorskip("pyright", reason="pyright is not installed")
    said = check(
        sys.executable, "-m", "pyright", "--project", str(HERE), "--pythonpath", sys.executable, "--outputjson"
    )
    assert json.loads(said)["summary"]["filesAnalyzed"] == 1
