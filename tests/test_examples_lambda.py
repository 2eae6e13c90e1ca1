"""The Lambda example runs: its handler with its event file, and its story as a user starts it."""

import asyncio
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import pytest

from tests.aws.invoking import Answer, Context

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def example(any_server, monkeypatch):
    """The example's module on a real server, imported as in a cold start."""
    monkeypatch.setenv("REDIS_URL", any_server.url)
    monkeypatch.delenv("CARD_NETWORK_SECONDS", raising=False)
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    spec = importlib.util.spec_from_file_location("lambda_mangum", ROOT / "examples" / "lambda_mangum.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "lambda_mangum", module)
    spec.loader.exec_module(module)
    yield module
    loop.run_until_complete(module.store.aclose())
    asyncio.set_event_loop(None)
    loop.close()


@pytest.fixture
def event():
    """The event of the file, with a new key."""
    event = json.loads((ROOT / "examples" / "lambda_event.json").read_text())
    event["headers"]["idempotency-key"] = f'"{uuid4()}"'
    return event


def subject_of(event: dict, subject: str) -> dict:
    event = json.loads(json.dumps(event))
    event["requestContext"]["authorizer"]["jwt"]["claims"]["sub"] = subject
    return event


def test_a_charge_is_made_once_and_its_answer_is_replayed(example, event) -> None:
    first, again = (Answer(example.handler(event, Context())) for _ in range(2))
    assert (first.status, json.loads(first.body)["attempt"], first.is_replay) == (201, 1, False)
    assert (again.status, again.body, again.is_replay) == (201, first.body, True)


def test_two_customers_may_choose_the_same_key(example, event) -> None:
    mine, yours = (Answer(example.handler(subject_of(event, who), Context())) for who in ("me", "you"))
    assert not mine.is_replay
    assert not yours.is_replay
    assert json.loads(mine.body)["reference"] != json.loads(yours.body)["reference"]


def test_a_customer_with_a_new_token_gets_the_replay(example, event) -> None:
    Answer(example.handler(event, Context()))
    event["headers"]["authorization"] = "Bearer another"
    assert Answer(example.handler(event, Context())).is_replay


def test_a_charge_without_a_key_is_refused(example, event) -> None:
    del event["headers"]["idempotency-key"]
    refused = Answer(example.handler(event, Context()))
    assert (refused.status, refused.problem) == (400, "key-missing")


@pytest.mark.fault(7)
@pytest.mark.row(112)
def test_every_promise_holds_on_processes_that_are_killed_at_their_time_out() -> None:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "tools/run_lambda.py"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=55,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "10 of 10 as promised" in done.stdout
    assert "\x1b" not in done.stdout
