"""Runs examples/fastapi_app.py on real processes, tells a story of requests, and checks each promise.

Two workers share one store: SQLite in a temporary folder or, with `--redis`, a Valkey server from its wheel. Each
row shows the request, the answer, and how often the handler has run for that key so far, by the service's own
ledger. Exits 0 if every row is as promised; otherwise 1, with the differences.
"""

import argparse
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
from processes import Worker, valkey, wait_until
from table import Answer, Table, against, tally

LEASE_SECONDS = 2.0
CHARGE_SECONDS = 3.0  # longer than the lease: a live worker has to extend its claim
PAGES = 10
DUPLICATES = 50


class Story:
    """The story, one chapter a method. `_subject` is what the chapter's requests are about."""

    def __init__(self, table: Table, a: Worker, b: Worker) -> None:
        self._table = table
        self._a, self._b = a, b
        self._subject = ""

    def tell(self) -> None:
        key = str(uuid4())
        first = self.payments(key)
        self.refunds()
        self.duplicates()
        self.export()
        self.takeover()
        self.restart(key, first)

    def payments(self, key: str) -> Answer:
        body = {"order": "order-1", "amount": 1250}
        self._subject = "order-1"
        first = self._first("A  POST /payments", "/payments", body, key)
        self._replay("B  the same again", self._b.post("/payments", body, key), first)
        other = self._b.post("/payments", {**body, "amount": 9900}, key)
        kept = (other.status, other.problem) == (422, "key-reused")
        self._row("B  the same key, another amount", str(other), 1, "422 and not run", kept=kept)
        self._subject = "order-2"
        keyless = self._a.post("/payments", {"order": "order-2", "amount": 1250})
        kept = (keyless.status, keyless.problem) == (400, "key-missing")
        self._row("A  POST /payments without a key", str(keyless), 0, "400 and not run", kept=kept)
        return first

    def refunds(self) -> None:
        body = {"order": "refund-1", "amount": 1250, "idempotency_key": str(uuid4())}
        self._subject = "refund-1"
        first = self._first("A  POST /refunds, the key in its body", "/refunds", body)
        self._replay("B  the same again", self._b.post("/refunds", body), first)

    def duplicates(self) -> None:
        key = str(uuid4())
        self._subject = "order-3"
        self._table.waiting(f"a charge takes {CHARGE_SECONDS:g} s, with a lease of {LEASE_SECONDS:g} s")
        answers = self._all_at_once(key)
        firsts = [answer for answer in answers if answer.is_first()]
        # On a slow machine one of the fifty may arrive after the charge; it gets a replay.
        kept = len(firsts) == 1 and all(
            answer.is_first() or answer.problem == "in-progress" or answer.replays(firsts[0]) for answer in answers
        )
        sent = f"AB {DUPLICATES} times POST /charges at once"
        self._row(sent, tally(answers), 1, "one 201, one run, the others 409", kept=kept)

        answers = self._all_at_once(key)
        kept = bool(firsts) and all(answer.replays(firsts[0]) for answer in answers)
        sent = f"AB all {DUPLICATES} again, after the charge"
        self._row(sent, tally(answers), 1, "the first answer for each, not run", kept=kept)

    def _all_at_once(self, key: str) -> list[Answer]:
        body, workers = {"order": self._subject, "amount": 800}, (self._a, self._b)
        with ThreadPoolExecutor(DUPLICATES) as threads:
            sent = [threads.submit(workers[i % 2].post, "/charges", body, key) for i in range(DUPLICATES)]
            return [each.result() for each in sent]

    def export(self) -> None:
        body, key = {"name": "report-1", "pages": PAGES}, str(uuid4())
        self._subject = "report-1"
        with self._a.client.stream("POST", "/exports", json=body, headers={"Idempotency-Key": key}) as response:
            got = next(response.iter_raw())
        kept = response.status_code == 200 and 0 < page_count(got) < PAGES
        came_back = f"{response.status_code}, {page_count(got)} of {PAGES} pages, then hung up"
        self._row("A  POST /exports, streamed; we hang up", came_back, 1, "its first page", kept=kept)
        self._table.waiting("the export continues without a client")
        whole = self._until_answered("/exports", body, key, within=10)
        kept = whole.is_replay and page_count(whole.body) == PAGES and whole.body.startswith(got)
        came_back = f"{whole}, {page_count(whole.body)} of {PAGES} pages"
        self._row("B  the same again", came_back, 1, "a replay of all pages, not run", kept=kept)

    def takeover(self) -> None:
        body, key = {"order": "order-4", "amount": 4000}, str(uuid4())
        self._subject = "order-4"
        killed_at = self._kill_in_mid_request(body, key)
        refused = self._b.post("/charges", body, key)
        kept = refused.problem == "in-progress" and refused.retry_after in ("1", "2")
        came_back = f"{refused}, Retry-After: {refused.retry_after}"
        self._row("B  the same again, at once", came_back, 1, "409 while the lease is valid", kept=kept)

        self._table.waiting(f"the lease of {LEASE_SECONDS:g} s lapses, then the charge takes {CHARGE_SECONDS:g} s")
        second = self._until_answered("/charges", body, key, within=LEASE_SECONDS + CHARGE_SECONDS + 10)
        took = time.monotonic() - killed_at
        attempt = self._b.entries("order-4")[-1]["attempt"]
        kept = second.is_first() and attempt == 2
        came_back = f"{second.status} by attempt {attempt}, {took:.1f} s after the kill"
        self._row("B  the same again, until it may run", came_back, 2, "201 by attempt 2", kept=kept)
        self._replay("B  the same again", self._b.post("/charges", body, key), second, runs=2)

    def _kill_in_mid_request(self, body: dict[str, Any], key: str) -> float:
        """Kill worker A while it makes the charge; return when."""
        with ThreadPoolExecutor(1) as threads:
            request = threads.submit(self._a.post, "/charges", body, key)
            self._table.waiting("worker A begins a charge")
            wait_until(lambda: self._b.runs(self._subject) == 1, within=10)
            self._a.kill()
            killed_at = time.monotonic()
            failure = request.exception()
        kept = isinstance(failure, httpx.TransportError)
        came_back = f"no answer: {type(failure).__name__}" if failure else str(request.result())
        self._row("A  POST /charges; kill -9 in mid-request", came_back, 1, "a broken connection", kept=kept)
        return killed_at

    def restart(self, key: str, first: Answer) -> None:
        self._table.waiting("worker A starts again")
        self._a.start()
        self._a.wait_until_ready()
        body = {"order": "order-1", "amount": 1250}
        self._subject = "order-1"
        self._replay("A  row 1 again, after the restart", self._a.post("/payments", body, key), first)

    # What the chapters share

    def _first(self, sent: str, path: str, body: dict[str, Any], key: str | None = None) -> Answer:
        first = self._a.post(path, body, key)
        self._row(sent, str(first), 1, "201 and one run", kept=first.is_first())
        return first

    def _replay(self, sent: str, again: Answer, first: Answer, *, runs: int = 1) -> None:
        self._row(sent, against(again, first), runs, "the first answer, not run again", kept=again.replays(first))

    def _until_answered(self, path: str, body: dict[str, Any], key: str, *, within: float) -> Answer:
        answers: list[Answer] = []

        def is_over() -> bool:
            answers.append(self._b.post(path, body, key))
            return answers[-1].problem != "in-progress"

        wait_until(is_over, within=within)
        return answers[-1]

    def _row(self, sent: str, came_back: str, runs: int, promised: str, *, kept: bool) -> None:
        """Show a row; `runs` is how often the handler may have run for the subject by now."""
        found = self._b.runs(self._subject)
        self._table.row(sent, came_back, found, promised=promised, kept=kept and found == runs)


def page_count(csv: bytes) -> int:
    return csv.count(b",100\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--redis", action="store_true", help="keep the records in a Valkey server, not in SQLite")
    redis = parser.parse_args().redis
    began = time.monotonic()
    table = Table()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="idempotency-demo-")))
        redis_url = stack.enter_context(valkey(folder)) if redis else None
        settings = {"lease_seconds": LEASE_SECONDS, "card_network_seconds": CHARGE_SECONDS}
        workers = [Worker(name, folder, redis_url, **settings) for name in "AB"]
        print(f"Two workers, A and B, and one store: {'Valkey' if redis else 'SQLite'}.")
        table.waiting("they start")
        for worker in workers:
            worker.start()
            stack.callback(worker.stop)
        for worker in workers:
            worker.wait_until_ready()
        table.head()
        Story(table, *workers).tell()
    return table.end(began)


if __name__ == "__main__":
    sys.exit(main())
