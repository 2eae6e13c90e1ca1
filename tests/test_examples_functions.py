"""The examples of functions run, as a user starts them."""

import os
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def run(name, folder):
    done = subprocess.run(
        [sys.executable, EXAMPLES / name],
        env=os.environ | {"DATA_FOLDER": str(folder), "PYTHONPATH": str(EXAMPLES.parent)},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_delivery_is_processed_once_also_across_processes(tmp_path):
    first = run("plain_function.py", tmp_path)
    assert first.count("working on") == 1
    assert first.count("Receipt(order='delivery-1', paid=Decimal('12.50'), attempt=1)") == 2
    assert "IdempotencyValidationError" in first
    again = run("plain_function.py", tmp_path)
    assert "working on" not in again
    assert again.count("Receipt(order='delivery-1', paid=Decimal('12.50'), attempt=1)") == 2


def test_one_of_three_workers_renders_and_all_get_the_result(tmp_path):
    said = run("async_function.py", tmp_path)
    assert "['invoice-17.pdf', 'invoice-17.pdf', 'invoice-17.pdf']" in said
    assert said.count("sent to ada@example.org") == 2
    assert "runs: ['render, by worker 0', 'send']" in said
