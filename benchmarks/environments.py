"""A virtual environment for each peer, under `.venv-bench`. It is made again when its requirements change.

This library runs in such an environment too. All have the same versions of redis-py and uvicorn as this process,
except where a peer does not allow them.
"""

import os
import shutil
import subprocess
import sys
import tomllib
import venv
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

__all__ = ["ENVIRONMENTS", "Environment", "environment_of", "make", "variables"]

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / ".venv-bench"

_REDIS = f"redis=={version('redis')}"
_SERVER = (f"uvicorn=={version('uvicorn')}", "httptools>=0.6")


@dataclass(frozen=True, slots=True)
class Environment:
    """The packages for some contestants."""

    name: str
    requirements: tuple[str, ...]
    contestants: tuple[str, ...]

    @property
    def python(self) -> Path:
        """The path of its interpreter."""
        return FOLDER / self.name / "bin" / "python"


def _own_requirements() -> tuple[str, ...]:
    project: dict[str, list[str]] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return tuple(project["dependencies"])


ENVIRONMENTS = (
    Environment(
        "idempotency_mw",
        (*_own_requirements(), _REDIS, *_SERVER),
        (
            "ours",
            "ours-stream",
            "ours-wsgi",
            "ours-function",
            "ours-function-validated",
            "calls",
            "calls-blocking",
        ),
    ),
    Environment("idemkit", ("idemkit==1.0.2", _REDIS, *_SERVER), ("idemkit", "idemkit-wsgi")),
    Environment("idemgate", ("idemgate==0.1.0", *_SERVER), ("idemgate",)),
    Environment(
        "fastapi-idempotency-key",
        ("fastapi-idempotency-key==0.1.1", _REDIS, *_SERVER),
        ("fastapi-idempotency-key",),
    ),
    Environment("ichido", ("ichido==0.1.0", _REDIS, *_SERVER), ("ichido",)),
    # Powertools imports boto3 for its DynamoDB layer, whichever layer is used.
    Environment("powertools", ("aws-lambda-powertools[redis]==3.37.0", "boto3", _REDIS), ("powertools",)),
)


def make(environment: Environment) -> str | None:
    """Make the environment unless it exists; return the reason if it can't be made."""
    stamp = environment.python.parent.parent / "requirements.txt"
    wanted = "\n".join((sys.version, *environment.requirements))
    if stamp.exists() and stamp.read_text() == wanted:
        return None
    shutil.rmtree(stamp.parent, ignore_errors=True)
    venv.create(stamp.parent, with_pip=True)
    install = [os.fspath(environment.python), *"-m pip install --quiet --disable-pip-version-check".split()]
    done = subprocess.run([*install, *environment.requirements], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        return lines[-1] if lines else "pip failed"
    stamp.write_text(wanted)
    return None


def environment_of(contestant: str) -> Environment:
    """Return the environment in which the contestant runs."""
    return next(each for each in ENVIRONMENTS if contestant in each.contestants)


def variables() -> dict[str, str]:
    """Return a contestant's environment variables: this repository on the path, and nothing of this Python's."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    return {**kept, "PYTHONPATH": os.fspath(ROOT), "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}
