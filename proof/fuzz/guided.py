"""Fuzzes one reader with inputs guided by coverage (atheris), for the long run.

    python -m proof.fuzz.guided NAME SECONDS FOLDER

Each reader gets a process of its own: atheris ends its process, and a crash is one of its findings. The folder
receives the inputs that reached new code, and the input that broke the reader.
"""

import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from proof.fuzz.inputs import inputs

__all__ = ["explored", "is_there"]

SEEDS = 200
"""Inputs that atheris begins with."""
LONGEST_INPUT = 4096
"""Bytes; chosen to keep each try fast."""


def is_there() -> bool:
    """Tell whether atheris is installed. It has wheels for some systems only."""
    return find_spec("atheris") is not None


def explored(name: str, seconds: int) -> tuple[int, str | None]:
    """Fuzz a reader for that long; return the number of inputs, and the output of the run if the reader failed."""
    with tempfile.TemporaryDirectory(prefix="idempotency-fuzz-") as folder:
        for number, data in enumerate(inputs(name, 1, SEEDS)):
            (Path(folder) / f"seed-{number}").write_bytes(data)
        command = [sys.executable, "-m", "proof.fuzz.guided", name, str(seconds), folder]
        made = subprocess.run(command, capture_output=True, timeout=seconds + 300, check=False)
        said = made.stderr.decode("utf-8", "replace")
        tried = [int(line.split()[-1]) for line in said.splitlines() if "number_of_executed_units" in line]
        broken = None if made.returncode == 0 else "\n".join(said.splitlines()[-30:])
        return sum(tried), broken


def _main(name: str, seconds: str, folder: str) -> None:
    import atheris

    with atheris.instrument_imports(include=["idempotency_mw", "jmespath", "json"]):
        from proof.fuzz.readers import READERS
    options = [
        f"-max_total_time={seconds}",
        f"-max_len={LONGEST_INPUT}",
        "-timeout=10",
        "-print_final_stats=1",
        f"-artifact_prefix={folder}/broken-",
    ]
    atheris.Setup([sys.argv[0], *options, folder], READERS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    _main(*sys.argv[1:])
