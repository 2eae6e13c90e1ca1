"""The runner of `make proof`, on small runs that hold, fail, die, hang, and leave processes behind."""

import os
import pty
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import proof.stage
from proof.__main__ import RUNS as RUNS_OF_PROOF
from tests.asgi.driver import until

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="/proc tells whether a process lives")

HEAD = """
import subprocess, sys, time
from pathlib import Path

from proof.figures import Figure

def leave_behind():
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"], stdout=subprocess.DEVNULL)
    Path("left").write_text(str(child.pid))

def figure(what, holds):
    return Figure("I1", what, "0", "0" if holds else "1", holds)

def run(size, progress):
"""
RUNS = {
    "herd": """
    progress(1, 3)
    leave_behind()
    yield figure("what holds", True)
    time.sleep(1.2)
""",
    "fuzz": """
    print("said in passing")
    yield figure("what does not", size.value == "long")
""",
    "matrix": """
    yield figure("what was seen before", True)
    raise RuntimeError("the run broke")
""",
    "servers": """
    progress(2, 5)
    leave_behind()
    yield figure("what was seen in time", True)
    time.sleep(100)
""",
}
SHORT = "import sys, proof.__main__ as it; it.LONGEST_SECONDS[it.Size.CI] = 2; sys.exit(it.main())"
# The caller may ignore these signals, for example in the background or under nohup.
HEEDING = """
import signal, sys
import proof.__main__ as it
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGTERM, signal.SIG_DFL)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
sys.exit(it.main())
"""


@pytest.fixture
def folder(tmp_path):
    """A package `proof` with these runs and the real runner."""
    package = tmp_path / "proof"
    package.mkdir()
    for name in ("__init__", "__main__", "figures"):
        shutil.copy(Path(proof.__file__).parent / f"{name}.py", package)
    for name, body in RUNS.items():
        (package / f"{name}.py").write_text(HEAD + body)
    return tmp_path


@pytest.mark.parametrize("package", [proof, proof.stage], ids=lambda package: package.__name__)
def test_a_package_names_each_of_its_modules(package):
    found = {path.stem for path in Path(package.__file__).parent.iterdir() if not path.name.startswith("__")}
    named = set(re.findall(r"^(\w+)  +\S", package.__doc__, re.MULTILINE))
    assert named | ({"figures", "stage"} if package is proof else set()) == found


def test_every_run_is_in_the_list_of_runs():
    assert set(RUNS_OF_PROOF) == set(re.findall(r"^(\w+)  +\S", proof.__doc__, re.MULTILINE))


def made(folder, *arguments, how=("-m", "proof"), **options):
    return subprocess.run(
        [sys.executable, *how, *arguments], cwd=folder, capture_output=True, text=True, timeout=50, **options
    )


def table(result):
    """Return what each figure tried, and whether it holds."""
    lines = result.stdout.splitlines()
    begins, ends = next(match.span(2) for line in lines if (match := re.fullmatch(r"(-+  )(-+).*", line)))
    rows = [line for line in lines if line.endswith((" yes", " NO"))]
    return {row[begins:ends].strip(): row.endswith("yes") for row in rows}


def left_behind(folder):
    """Tell whether the process that a run has started still lives."""
    pid = int((folder / "left").read_text())
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_when_all_figures_hold_the_exit_status_is_0(folder):
    result = made(folder, "herd", "fuzz", "--size", "long")
    assert (table(result), result.returncode) == ({"what holds": True, "what does not": True}, 0)
    assert "2 figures, 0 do not hold" in result.stdout
    assert "said in passing" in result.stderr


async def test_a_process_that_a_run_leaves_behind_is_killed(folder):
    made(folder, "herd")
    await until(lambda: not left_behind(folder))


def test_when_a_figure_does_not_hold_the_exit_status_is_1(folder):
    result = made(folder, "fuzz", "herd")
    assert (table(result), result.returncode) == ({"what holds": True, "what does not": False}, 1)


def test_a_run_that_dies_is_a_figure_that_does_not_hold(folder):
    result = made(folder, "matrix")
    assert table(result) == {"what was seen before": True, "matrix: the run finishes": False}
    assert result.returncode == 1
    assert "the run broke" in result.stderr


async def test_a_hanging_run_is_killed_at_its_limit_with_all_its_processes(folder):
    result = made(folder, "servers", how=("-c", SHORT))
    assert table(result) == {"what was seen in time": True, "servers: the run finishes": False}
    assert "exit status -9" in result.stdout
    assert result.returncode == 1
    await until(lambda: not left_behind(folder))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_an_interruption_kills_the_runs_with_all_their_processes(folder, number):
    with subprocess.Popen([sys.executable, "-c", HEEDING, "servers"], cwd=folder) as process:
        await until(lambda: (folder / "left").exists() and (folder / "left").read_text(), within=20)
        process.send_signal(number)
        assert process.wait(20) == 130
    await until(lambda: not left_behind(folder))


def test_a_terminal_shows_the_progress_of_the_runs(folder):
    ours, its = pty.openpty()
    result = subprocess.run(
        [sys.executable, "-m", "proof", "herd"], cwd=folder, stdout=subprocess.PIPE, stderr=its, timeout=50
    )
    os.close(its)
    assert result.returncode == 0
    assert "0/1 runs  herd 1/3" in os.read(ours, 10_000).decode()
    os.close(ours)


def test_an_unknown_run_is_refused(folder):
    result = made(folder, "nothing")
    assert (result.returncode, result.stdout) == (2, "")
    assert "no such run: nothing" in result.stderr
