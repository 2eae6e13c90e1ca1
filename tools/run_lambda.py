"""Runs examples/lambda_mangum.py as Lambda would, tells a story of requests, and checks each promise.

An execution environment is a process that imports the handler once and serves one event at a time. Between events
it is stopped, and at its time-out it is killed. Three environments, A, B and C, share one Valkey server from its
wheel. Each row shows the request (made from examples/lambda_event.json), the answer, and how often the handler has
run for that order so far, by its log. Exits 0 if every row is as promised; otherwise 1, with the differences.
"""

import argparse
import base64
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from threading import Timer
from typing import Any
from uuid import uuid4

from processes import EXAMPLES, valkey, wait_until
from table import Answer, Table, against

EVENT = EXAMPLES / "lambda_event.json"
TIME_OUT = 2.5
"""Seconds after which an environment is killed; longer than two charges."""
CHARGE_SECONDS = 1.0
HANGS = 60.0  # seconds that the card network of environment C takes


def an_event(key: str, order: str, amount: int = 1250) -> dict[str, Any]:
    """Return the event of the file with this key and body."""
    event: dict[str, Any] = json.loads(EVENT.read_text())
    event["headers"]["idempotency-key"] = f'"{key}"'
    event["body"] = json.dumps({"order": order, "amount": amount})
    event["headers"]["content-length"] = str(len(event["body"]))
    return event


# Inside an environment


class Context:
    """The context that Lambda gives to a handler."""

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline
        self.function_name = "charges"
        self.aws_request_id = str(uuid4())

    def get_remaining_time_in_millis(self) -> int:
        return max(int((self._deadline - time.time()) * 1000), 0)


def serve() -> None:
    """Serve events, one a line, until the environment ends."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    sys.path.insert(0, str(EXAMPLES))
    from lambda_mangum import handler

    say({"ready": True})
    for line in sys.stdin:
        call = json.loads(line)
        say(handler(call["event"], Context(call["deadline"])))


def say(answer: object) -> None:
    print(json.dumps(answer), flush=True)


# Environments, seen from outside


class Environment:
    """One execution environment, from its cold start to its death."""

    def __init__(self, name: str, folder: Path, redis_url: str, charge_seconds: float) -> None:
        self._folder = folder
        settings = {"REDIS_URL": redis_url, "CARD_NETWORK_SECONDS": str(charge_seconds)}
        with (folder / f"environment-{name}.log").open("wb") as file:
            self._process = subprocess.Popen(
                [sys.executable, __file__, "--environment"],
                env={**os.environ, **settings},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
            )

    def wait_until_ready(self) -> None:
        if not self._read():
            sys.exit(f"An environment did not start:\n{log_of(self._folder)}")
        self._process.send_signal(signal.SIGSTOP)

    def invoke(self, event: dict[str, Any]) -> Answer | None:
        """Return the answer, or None if the time-out came first."""
        self._process.send_signal(signal.SIGCONT)
        call = {"event": event, "deadline": time.time() + TIME_OUT}
        killer = Timer(TIME_OUT, self._process.kill)
        killer.start()
        try:
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(call) + "\n")
            self._process.stdin.flush()
            line = self._read()
        finally:
            killer.cancel()
            self._process.send_signal(signal.SIGSTOP)
        return answer_of(json.loads(line)) if line else None

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def stop(self) -> None:
        self._process.kill()
        self._process.communicate()


def answer_of(response: dict[str, Any]) -> Answer:
    text, headers = response["body"], response["headers"]
    body = base64.b64decode(text) if response["isBase64Encoded"] else text.encode()
    is_problem = headers.get("content-type") == "application/problem+json"
    return Answer(
        status=response["statusCode"],
        body=body,
        is_replay=headers.get("idempotent-replayed") == "true",
        problem=json.loads(body)["type"].rsplit(":", 1)[-1] if is_problem else "",
        retry_after=headers.get("retry-after", ""),
    )


def log_of(folder: Path) -> str:
    return "".join(path.read_text() for path in sorted(folder.glob("*.log")))


# The story


class Story:
    """The story, one chapter a method."""

    def __init__(self, table: Table, folder: Path, environments: dict[str, Environment]) -> None:
        self._table = table
        self._folder = folder
        self._environments = environments
        self._order = ""

    def runs(self) -> int:
        return log_of(self._folder).count(f"charging {self._order},")

    def invoke(self, name: str, event: dict[str, Any]) -> Answer | None:
        return self._environments[name].invoke(event)

    def row(self, sent: str, came_back: str, *, runs: int, promised: str, kept: bool) -> None:
        found = self.runs()
        self._table.row(sent, came_back, found, promised=promised, kept=kept and found == runs)

    def first_and_replay(self) -> None:
        key = str(uuid4())
        self._order = "order-1"
        event = an_event(key, self._order)
        first = self.invoke("A", event)
        kept = first is not None and first.is_first()
        self.row("A  POST /charges", str(first), runs=1, promised="201", kept=kept)
        assert first is not None
        for sent in ("A  the same again, warm", "B  the same again, elsewhere"):
            again = self.invoke(sent[0], event)
            kept = again is not None and again.replays(first)
            came_back = against(again, first) if again else "nothing"
            self.row(sent, came_back, runs=1, promised="the first answer, not run again", kept=kept)
        other = self.invoke("B", an_event(key, self._order, 9900))
        kept = other is not None and other.problem == "key-reused"
        self.row("B  the same key, another amount", str(other), runs=1, promised="422", kept=kept)

    def in_progress(self) -> None:
        self._order = "order-2"
        event = an_event(str(uuid4()), self._order)
        with ThreadPoolExecutor(1) as threads:
            running = threads.submit(self.invoke, "A", event)
            self._table.waiting(f"A makes a charge, which takes {CHARGE_SECONDS:g} s")
            wait_until(lambda: self.runs() == 1, within=10)
            self._meanwhile(event)
            first = running.result()
        kept = first is not None and first.is_first()
        self.row("A  the answer", str(first), runs=1, promised="201", kept=kept)

    def time_out(self) -> None:
        self._order = "order-3"
        event = an_event(str(uuid4()), self._order)
        with ThreadPoolExecutor(1) as threads:
            began = time.monotonic()
            killed = threads.submit(self.invoke, "C", event)
            self._table.waiting(f"C makes a charge that hangs, until its time-out of {TIME_OUT:g} s")
            wait_until(lambda: self.runs() == 1, within=10)
            self._meanwhile(event)
            kept = killed.result() is None
        came_back = f"no answer: killed after {time.monotonic() - began:.1f} s"
        self.row("C  POST /charges, hangs", came_back, runs=1, promised="no answer", kept=kept)
        second = self._taken_over(event)
        after = time.monotonic() - began - TIME_OUT - CHARGE_SECONDS
        attempt = json.loads(second.body).get("attempt")
        came_back = f"{second.status} by attempt {attempt}, begun {max(after, 0):.1f} s after the kill"
        kept = second.is_first() and attempt == 2 and after < 2
        sent = "B  the same again, until it may run"
        self.row(sent, came_back, runs=2, promised="201 by attempt 2 at once", kept=kept)
        again = self.invoke("A", event)
        kept = again is not None and again.replays(second)
        came_back = against(again, second) if again else "nothing"
        self.row("A  the same again", came_back, runs=2, promised="a replay of attempt 2", kept=kept)

    def _meanwhile(self, event: dict[str, Any]) -> None:
        refused = self.invoke("B", event)
        kept = refused is not None and refused.problem == "in-progress" and refused.retry_after == "1"
        came_back = f"{refused}, Retry-After: {refused.retry_after}" if refused else "nothing"
        self.row("B  the same, during the charge", came_back, runs=1, promised="409", kept=kept)

    def _taken_over(self, event: dict[str, Any]) -> Answer:
        answers: list[Answer] = []

        def is_over() -> bool:
            answer = self.invoke("B", event)
            answers.extend([answer] if answer else [])
            return answer is None or answer.problem != "in-progress"

        wait_until(is_over, within=TIME_OUT + 5)
        return answers[-1]


def main() -> int:
    began = time.monotonic()
    table = Table()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="idempotency-lambda-")))
        redis_url = stack.enter_context(valkey(folder))
        speeds = {"A": CHARGE_SECONDS, "B": CHARGE_SECONDS, "C": HANGS}
        print("Three execution environments, A, B and C, and one Valkey.")
        table.waiting("they start, cold")
        environments = {name: Environment(name, folder, redis_url, speed) for name, speed in speeds.items()}
        for environment in environments.values():
            stack.callback(environment.stop)
        for environment in environments.values():
            environment.wait_until_ready()
        table.head()
        story = Story(table, folder, environments)
        chapters: list[Callable[[], None]] = [story.first_and_replay, story.in_progress, story.time_out]
        for chapter in chapters:
            chapter()
    return table.end(began)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environment", action="store_true", help="be one of the environments (used internally)")
    sys.exit(serve() if parser.parse_args().environment else main())
