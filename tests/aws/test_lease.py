"""The lease of an invocation is its remaining time; waiting and releases in doubt stay within it."""

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path
from uuid import uuid4

import pytest

from idempotency_mw import HTTPConfig, IdempotencyConfig
from idempotency_mw.aws import lifetime
from idempotency_mw.core.record import Claim, Existing, Operation
from idempotency_mw.lifecycle.claims import ClaimLifecycle
from idempotency_mw.persistence.memory import MemoryPersistenceLayer
from idempotency_mw.persistence.redis import AsyncRedisPersistenceLayer
from idempotency_mw.persistence.threaded import as_async
from idempotency_mw.testing import ManualClock
from tests.aws.invoking import Context, Orders, invoke, keyed, mangum
from tests.proxy import Proxy

ROOT = Path(__file__).resolve().parent.parent.parent


async def lease_left(store, storage_key) -> int:
    """Return the milliseconds until the end of the record's lease, as another claim sees them."""
    rival = Claim(Operation(storage_key, "0" * 64), token="f" * 32, lease_ms=1000, retention_ms=1000)
    found = await as_async(store).acquire(rival)
    assert isinstance(found, Existing)
    return found.record.remaining_ms


def leases_of(store, app) -> list[int]:
    """Let the app note the rest of its lease in each run; return the list of notes."""
    leases = []

    async def during():
        leases.append(await lease_left(store, app.runs[-1]["storage_key"]))

    app.during = during
    return leases


@pytest.mark.row(111)
@pytest.mark.parametrize("lease_seconds", [0.5, 30, 600])
@pytest.mark.parametrize(("left_ms", "lease_ms"), [(2_999, 2_999), (1_001, 1_001), (999, 1_000), (0, 1_000)])
def test_the_lease_is_the_remaining_time_and_at_least_one_second(lease_seconds, left_ms, lease_ms):
    store, app = MemoryPersistenceLayer(clock=ManualClock()), Orders()
    leases = leases_of(store, app)
    handler = mangum(app, store, config=IdempotencyConfig(lease_seconds=lease_seconds))
    assert invoke(handler, keyed("a"), Context(left_ms)).status == 201
    assert leases == [lease_ms]


@pytest.mark.row(111)
def test_the_lease_ends_with_the_invocation_in_every_store(store):
    app = Orders()
    leases = leases_of(store, app)
    invoke(mangum(app, store), keyed("a"), Context(2_999))
    assert 2_000 < leases[0] <= 2_999


@pytest.mark.row(111)
def test_each_call_has_its_own_lease():
    store, app = MemoryPersistenceLayer(clock=ManualClock()), Orders()
    leases = leases_of(store, app)
    handler = mangum(app, store)
    for key, left_ms in (("a", 5_000), ("b", 2_000), ("c", 9_000)):
        invoke(handler, keyed(key), Context(left_ms))
    assert leases == [5_000, 2_000, 9_000]


class CountsExtensions(MemoryPersistenceLayer):
    """Counts extensions."""

    extensions = 0

    def extend(self, claim):
        self.extensions += 1
        return super().extend(claim)


def slow(seconds: float) -> Orders:
    return Orders(during=lambda: asyncio.sleep(seconds))


@pytest.mark.row(111)
def test_the_lease_of_an_invocation_is_not_extended():
    store = CountsExtensions()
    handler = mangum(slow(0.2), store, config=IdempotencyConfig(lease_seconds=0.15))
    assert invoke(handler, keyed("a")).status == 201
    assert store.extensions == 0


@pytest.mark.row(111)
@pytest.mark.parametrize("context", [{}, object()], ids=["dict", "object"])
def test_with_a_context_without_remaining_time_the_lease_is_extended(context):
    store, app = CountsExtensions(), slow(0.2)
    handler = mangum(app, store, config=IdempotencyConfig(lease_seconds=0.15))
    assert invoke(handler, keyed("a"), context).status == 201
    assert store.extensions > 0


@pytest.mark.row(111)
@pytest.mark.parametrize("context", [{}, object()], ids=["dict", "object"])
def test_a_call_with_a_context_without_remaining_time_leaves_no_timer(context):
    assert invoke(mangum(Orders(), MemoryPersistenceLayer()), keyed("a"), context).status == 201


def test_a_remaining_time_below_zero_counts_as_zero():
    assert lifetime(Context(-5))() == 0
    assert lifetime(Context(2_999))() == 2.999
    assert lifetime(None) is None


def test_the_blocking_handler_stays_within_the_remaining_time_too():
    store = CountsExtensions(clock=ManualClock())
    lifecycle = ClaimLifecycle(store, IdempotencyConfig(wait_seconds=60, lease_seconds=0.15))
    within = lifecycle.within(lambda: 0.2)
    operation = Operation("a" * 64, "b" * 64)
    claim = within.begin(operation).claim
    assert claim.lease_ms == 1_000
    heartbeat = within.heartbeat(claim)
    heartbeat.start()
    time.sleep(0.1)
    heartbeat.stop()
    assert store.extensions == 0
    began = time.monotonic()
    within.begin(operation)
    assert time.monotonic() - began < 2
    assert lifecycle.waitable(60) == 60
    assert lifecycle.begin(Operation("c" * 64, "b" * 64)).claim.lease_ms == 150


def held(store, loop, storage_key, fingerprint, lease_ms):
    claim = Claim(Operation(storage_key, fingerprint), token="e" * 32, lease_ms=lease_ms, retention_ms=60_000)
    loop.run_until_complete(as_async(store).acquire(claim))


class RecordsClaims(MemoryPersistenceLayer):
    """Records the claims, so that a test can acquire the same key."""

    def __init__(self) -> None:
        super().__init__()
        self.claims = []

    def acquire(self, claim):
        self.claims.append(claim)
        return super().acquire(claim)


@pytest.fixture
def operation(loop):
    """The operation of the event with key "a"."""
    store = RecordsClaims()
    invoke(mangum(Orders(), store), keyed("a"))
    return store.claims[0].operation


@pytest.mark.row(111)
def test_a_takeover_after_waiting_has_a_lease_of_the_time_remaining_then(loop, operation):
    store, app, context = RecordsClaims(), Orders(), Context(3_000, runs_out=True)
    held(store, loop, operation.storage_key, operation.fingerprint, lease_ms=300)
    handler = mangum(app, store, config=IdempotencyConfig(wait_seconds=5))
    assert invoke(handler, keyed("a"), context).status == 201
    assert app.runs[0]["attempt"] == 2
    assert 1_000 < store.claims[-1].lease_ms <= 2_700


@pytest.mark.row(111)
def test_a_duplicate_does_not_wait_beyond_its_own_remaining_time(loop, operation):
    store, app, context = MemoryPersistenceLayer(), Orders(), Context(2_000, runs_out=True)
    held(store, loop, operation.storage_key, operation.fingerprint, lease_ms=60_000)
    answer = invoke(mangum(app, store, config=IdempotencyConfig(wait_seconds=30)), keyed("a"), context)
    assert (answer.status, answer.problem) == (409, "in-progress")
    assert 0 < context.get_remaining_time_in_millis() < 1_000
    assert app.runs == []


@pytest.mark.row(111)
def test_a_preferred_wait_is_cut_to_the_remaining_time_and_the_answer_says_so(loop, operation):
    store, context = MemoryPersistenceLayer(), Context(1_400, runs_out=True)
    held(store, loop, operation.storage_key, operation.fingerprint, lease_ms=60_000)
    handler = mangum(Orders(), store, http=HTTPConfig(max_wait_seconds=20))
    event = keyed("a")
    event["headers"]["prefer"] = "wait=10"
    answer = invoke(handler, event, context)
    assert (answer.status, answer.headers["preference-applied"]) == (409, "wait=1")
    assert context.get_remaining_time_in_millis() > 0


@pytest.fixture
def proxied(any_server):
    """A layer whose messages can be lost, and the proxy that loses them."""
    with Proxy(any_server.port) as proxy:
        prefix = f"{uuid4().hex}:"
        layer = AsyncRedisPersistenceLayer.from_url(
            f"redis://127.0.0.1:{proxy.port}/0", key_prefix=prefix, timeout_seconds=1.0
        )
        yield layer, proxy
        asyncio.run(layer.aclose())


@pytest.mark.row(111)
@pytest.mark.parametrize("use_local_cache", [False, True], ids=["plain", "cached"])
def test_a_claim_in_doubt_is_released_before_the_call_ends(proxied, any_server, use_local_cache):
    layer, proxy = proxied
    app = Orders()
    handler = mangum(app, layer, config=IdempotencyConfig(use_local_cache=use_local_cache))
    assert invoke(handler, keyed("first")).status == 201
    proxy.when(b"EVALSHA", "drop reply", times=2)  # the layer tries once more before its deadline
    assert invoke(handler, keyed("a")).status == 503
    with any_server.client() as client:
        assert len(client.keys(layer.key_prefix + "*")) == 1  # of the request "first"
    assert invoke(handler, keyed("a")).status == 201
    assert len(app.runs) == 2


@pytest.mark.row(111)
def test_a_release_in_doubt_does_not_outlast_the_invocation(proxied):
    layer, proxy = proxied
    handler = mangum(Orders(), layer)
    assert invoke(handler, keyed("first")).status == 201
    proxy.when(b"", "hang request", times=None)
    began = time.monotonic()
    assert invoke(handler, keyed("a"), Context(100)).status == 503
    assert time.monotonic() - began < 1.8  # one second for the acquire, and none for the release


@pytest.mark.row(112)
@pytest.mark.fault(7)
def test_after_a_kill_at_the_time_out_a_duplicate_takes_over_when_the_lease_ends(valkey, any_server):
    handler = mangum(Orders(), valkey)
    with Environment(any_server.url, valkey.key_prefix) as environment:
        left_ms = environment.start(keyed("a"), left_ms=2_000)
        ends = time.monotonic() + left_ms / 1000
        refused = invoke(handler, keyed("a"))
        environment.kill()
    assert (refused.status, refused.problem) == (409, "in-progress")
    answers = [invoke(handler, keyed("a"))]
    while answers[-1].status == 409:
        time.sleep(0.02)
        answers.append(invoke(handler, keyed("a")))
    assert ends - 0.1 < time.monotonic() < ends + 1.5
    assert {answer.problem for answer in answers[:-1]} == {"in-progress"}
    assert answers[-1].status == 201
    assert json.loads(answers[-1].body)["attempt"] == 2
    assert invoke(handler, keyed("a")).body == answers[-1].body


class Environment:
    """An execution environment as a process, which can be killed as Lambda kills one at its time-out."""

    def __init__(self, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.aws.environment", *arguments],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def start(self, event: dict, left_ms: int) -> int:
        """Invoke it, and return its remaining milliseconds once its app runs. It never answers."""
        self._process.stdin.write(json.dumps({"event": event, "left_ms": left_ms}).encode() + b"\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *exception) -> None:
        self.kill()
        self._process.stdin.close()
        self._process.stdout.close()
