"""gunicorn with four workers, forked from a process that used the store: duplicates, killed workers, long runs.

`--preload` creates the app and its store before the fork, so each test here also shows that a layer works in every
child.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from secrets import token_hex

import httpx
import pytest

from tests.asgi.serving import complaints, is_replay, post, slug
from tests.wsgi.serving import WSGIServer

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")

LEASE = 0.9


@pytest.fixture(scope="module", params=["sqlite", "redis"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    if request.param == "sqlite":
        return str(tmp_path_factory.mktemp("records") / "records")
    url: str = request.getfixturevalue("any_server").url
    return url


@pytest.fixture(scope="module")
def server(store: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WSGIServer]:
    kind = "gunicorn-sync" if store.startswith("redis:") else "gunicorn-gthread"
    options = {"app": "tests.wsgi.apps:app", "workers": 4, "config": {"lease_seconds": LEASE}}
    with WSGIServer(kind, tmp_path_factory.mktemp(kind), store=store, **options) as server:
        yield server


@pytest.fixture
async def client(server: WSGIServer) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=server.url, timeout=20, trust_env=False) as client:
        yield client
    # gunicorn itself reports the worker that a test has killed.
    assert [line for line in complaints(server.new_log()) if "was sent SIGKILL" not in line] == []


@pytest.fixture
def run() -> str:
    return token_hex(6)


async def wait_for(server: WSGIServer, run: str, what: str) -> None:
    await asyncio.to_thread(server.marks.wait_for, run, what)


@pytest.mark.row(39, 100)
@pytest.mark.fault(24)
async def test_one_of_fifty_parallel_duplicates_runs_and_all_get_its_answer(server, client, run):
    target = f"/plain/whole?run={run}&seconds=0.1"
    answers = await asyncio.gather(*(post(client, target, run) for _ in range(50)))
    assert [mark.attempt for mark in server.marks.begun(run)] == [1]
    done = [answer for answer in answers if answer.status_code == 201]
    assert len({answer.content for answer in done}) == 1
    assert sum(not is_replay(answer) for answer in done) == 1
    assert {slug(answer) for answer in answers if answer.status_code != 201} <= {"in-progress"}
    assert is_replay(await post(client, target, run))


async def test_every_worker_replays_the_answers_of_the_others(server, client):
    keys = [token_hex(6) for _ in range(40)]
    for _ in range(2):
        await asyncio.gather(*(post(client, f"/plain/whole?run={key}&seconds=0.02", key) for key in keys))
    begun = [mark for key in keys for mark in server.marks.begun(key)]
    assert len(begun) == 40
    assert len({mark.pid for mark in begun}) > 1


@pytest.mark.row(48)
@pytest.mark.fault(7)
async def test_after_a_worker_was_killed_one_retry_takes_over(server, client, run):
    target = f"/plain/whole?run={run}&hold=0"
    first = asyncio.ensure_future(post(client, target, run))
    await wait_for(server, run, "begun.1")
    os.kill(server.marks.begun(run)[0].pid, signal.SIGKILL)
    with contextlib.suppress(httpx.TransportError):
        await first
    assert slug(await post(client, target, run)) == "in-progress"
    await asyncio.sleep(LEASE + 0.1)
    retries = [asyncio.ensure_future(post(client, target, run)) for _ in range(3)]
    await wait_for(server, run, "begun.2")
    _, unfinished = await asyncio.wait(retries, return_when=asyncio.FIRST_COMPLETED)
    server.marks.open_gate(run)
    answers = [await each for each in retries]
    assert unfinished
    assert [mark.attempt for mark in server.marks.begun(run)] == [1, 2]
    assert sum(answer.status_code == 201 and not is_replay(answer) for answer in answers) == 1
    assert is_replay(await post(client, target, run))


@pytest.mark.row(51)
async def test_a_run_three_times_as_long_as_its_lease_is_the_only_one(server, client, run):
    target = f"/flask/stream?run={run}&chunks=4&seconds={LEASE}"
    first = asyncio.ensure_future(post(client, target, run))
    await wait_for(server, run, "begun.1")
    ends = time.monotonic() + 3 * LEASE
    while time.monotonic() < ends:
        assert slug(await post(client, target, run)) == "in-progress"
        await asyncio.sleep(0.05)
    assert not first.done()
    answer = await first
    assert answer.content.count(b"data: ") == 4
    assert [mark.attempt for mark in server.marks.begun(run)] == [1]
    assert is_replay(await post(client, target, run))


# Forks and exits without a server.

FORKING = """
import os, sys
from threading import active_count
from idempotency_mw.core.record import Acquired, Claim, Operation, Settled
from idempotency_mw.persistence.redis import RedisPersistenceLayer
from idempotency_mw.persistence.sqlite import SQLitePersistenceLayer

def claim(key, token):
    return Claim(Operation(key, "f" * 64), token, 60_000, 60_000)

where = sys.argv[1]
layer = RedisPersistenceLayer.from_url(where) if where.startswith("redis:") else SQLitePersistenceLayer(where)
own = claim(sys.argv[2] + "parent", "0" * 32)
assert layer.acquire(own) == Acquired(1)
children = []
for number in range(1, 5):
    pid = os.fork()
    if pid == 0:
        token = str(number) * 32
        for turn in range(20):
            mine = claim(f"{sys.argv[2]}{number}-{turn}", token)
            assert layer.acquire(mine) == Acquired(1)
            assert layer.complete(mine, b"done") == Settled()
        won = layer.acquire(claim(sys.argv[2] + "shared", token)) == Acquired(1)
        layer.close()
        os._exit(10 + won)
    children.append(pid)
codes = sorted(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children)
assert codes == [10, 10, 10, 11], codes
assert layer.complete(own, b"the parent's") == Settled()
layer.close()
"""


def run_python(script: str, *arguments: str) -> None:
    """Run the script in a process; it must exit with 0 and print nothing."""
    environment = {**os.environ, "PYTHONPATH": os.fspath(Path(__file__).parents[2])}
    command = [sys.executable, "-W", "error", "-c", script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_layer_that_was_in_use_before_the_fork_works_in_every_child(store):
    run_python(FORKING, store, token_hex(8))


ENDING = """
import threading
from idempotency_mw import HTTPConfig, IdempotencyConfig
from idempotency_mw.persistence.memory import MemoryPersistenceLayer
from tests.wsgi.driver import environ_of
from idempotency_mw.wsgi import IdempotencyMiddleware

def app(environ, start_response):
    start_response("200 OK", [])
    yield b"never read"

config = IdempotencyConfig(lease_seconds=0.003)
http = HTTPConfig(bound_headers=())
middleware = IdempotencyMiddleware(app, persistence_store=MemoryPersistenceLayer(), config=config, http=http)
assert threading.active_count() == 1, "no thread before the first claim"
bodies = [middleware(environ_of(key=f"k-{number}"), lambda *_: None) for number in range(50)]
assert threading.active_count() == 2, "one thread for all claims"
"""


def test_one_heartbeat_thread_serves_all_requests_and_does_not_delay_the_exit():
    run_python(ENDING)


UNDER_GEVENT = """
import sys
if sys.argv[1] == "late":  # as with gunicorn --preload: gevent patches in the worker
    import idempotency_mw.wsgi
from gevent import monkey
monkey.patch_all()
import gevent
from idempotency_mw import HTTPConfig, IdempotencyConfig
from idempotency_mw.persistence.memory import MemoryPersistenceLayer
from idempotency_mw.wsgi import IdempotencyMiddleware
from tests.wsgi.driver import NotingLayer, environ_of, serve

def app(environ, start_response):
    while store.calls.count("extend") < 5 * 4:
        gevent.sleep(0.01)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [environ["HTTP_IDEMPOTENCY_KEY"].encode()]

store = NotingLayer(MemoryPersistenceLayer())
config, http = IdempotencyConfig(lease_seconds=0.15), HTTPConfig(bound_headers=())
middleware = IdempotencyMiddleware(app, persistence_store=store, config=config, http=http)
jobs = [gevent.spawn(serve, middleware, key=f"k-{number % 5}") for number in range(10)]
gevent.joinall(jobs)
answers = [job.value.ok() for job in jobs]
assert [answer.status for answer in answers] == [200] * 5 + [409] * 5, answers
assert store.calls.count("complete") == 5, store.calls
assert serve(middleware, key="k-1").replayed
"""


@pytest.mark.parametrize("patched", ["early", "late"])
def test_under_gevent_leases_are_extended_and_the_process_exits(patched):
    run_python(UNDER_GEVENT, patched)
