"""Several processes on one store, and keys whose process or store is killed or frozen."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from secrets import token_hex

import httpx
import pytest

from tests.asgi.serving import KINDS, Caller, Marks, Server, complaints, is_replay, post, post_until_settled, slug
from tests.servers import RedisServer, binaries

LEASE = 1.0
STORE_DEADLINE = 1.0
"""The layer's `timeout_seconds` in these apps."""
SLACK = 2.0
"""The time that an HTTP request itself may take on a busy machine. Without a deadline a frozen store would never
answer; tests/persistence measures that layers keep theirs to a tenth of a second."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def marks(folder: Path) -> Marks:
    return Marks(folder / "marks")


@pytest.fixture(scope="module", params=["sqlite", "redis"])
def store(request: pytest.FixtureRequest, folder: Path) -> str:
    """The path or URL of a store that several processes share."""
    if request.param == "sqlite":
        return str(folder / "records")
    server: RedisServer = request.getfixturevalue("any_server")
    return server.url


@pytest.fixture(scope="module")
def servers(store: str, folder: Path, marks: Marks) -> Iterator[list[Server]]:
    """Two servers of two workers each."""
    with (
        Server("uvicorn", folder, store=store, workers=2, config={"lease_seconds": LEASE}, marks=marks) as one,
        Server("granian", folder, store=store, workers=2, config={"lease_seconds": LEASE}, marks=marks) as other,
    ):
        yield [one, other]
    assert [complaints(server.new_log()) for server in (one, other)] == [[], []]


@pytest.fixture(scope="module")
def lone(store: str, folder: Path, marks: Marks) -> Iterator[Server]:
    """A server of one process on the same store, to be frozen."""
    with Server("uvicorn", folder, store=store, config={"lease_seconds": LEASE}, marks=marks) as server:
        yield server


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=20)
    async with httpx.AsyncClient(timeout=20, trust_env=False, verify=False, limits=limits) as client:
        yield client


@pytest.fixture
def run() -> str:
    return token_hex(6)


async def wait_for(marks: Marks, run: str, what: str) -> None:
    await asyncio.to_thread(marks.wait_for, run, what)


async def kill_the_worker_of(server: Server, client: httpx.AsyncClient, target: str, run: str) -> float:
    """Make a request, kill the worker that runs it, and return the time of that."""
    first = asyncio.ensure_future(post(client, server.url + target, run))
    await wait_for(server.marks, run, "begun.1")
    os.kill(server.marks.begun(run)[0].pid, signal.SIGKILL)
    killed = time.time()
    with pytest.raises(httpx.TransportError):
        await first
    return killed


def begun_at(marks: Marks, run: str, number: int) -> float:
    return (marks.folder / f"{run}.begun.{number}").stat().st_mtime


@pytest.mark.row(35, 39)
@pytest.mark.fault(24)
async def test_one_of_fifty_parallel_duplicates_over_several_workers_runs(
    servers: list[Server], marks: Marks, client: httpx.AsyncClient, run: str
):
    target = f"/starlette-1/whole?run={run}&hold=0"
    duplicates = {
        asyncio.ensure_future(post(client, servers[number % 2].url + target, run)) for number in range(50)
    }
    while len(duplicates) > 1:
        done, duplicates = await asyncio.wait(duplicates, return_when=asyncio.FIRST_COMPLETED)
        assert {(answer.result().status_code, slug(answer.result())) for answer in done} == {(409, "in-progress")}
    marks.open_gate(run)
    first = await duplicates.pop()
    replays = await asyncio.gather(*(post(client, server.url + target, run) for server in servers * 10))
    assert (first.status_code, is_replay(first)) == (201, False)
    assert {(answer.status_code, is_replay(answer), answer.content) for answer in replays} == {
        (201, True, first.content)
    }
    assert [mark.attempt for mark in marks.begun(run)] == [1]


@pytest.mark.row(39)
@pytest.mark.fault(24)
async def test_each_key_has_one_run_and_one_answer_among_many_duplicates_of_short_runs(
    servers: list[Server], marks: Marks, client: httpx.AsyncClient, run: str
):
    async def herd(key: str) -> None:
        target = f"/raw-0/whole?run={key}&seconds=0.02"
        answers = await asyncio.gather(*(post(client, server.url + target, key) for server in servers * 10))
        answers.append(await post_until_settled(client, servers[0].url + target, key))
        kept = [answer for answer in answers if answer.status_code == 201]
        assert {answer.status_code for answer in answers} <= {201, 409}
        assert len({answer.content for answer in kept}) == 1
        assert sum(not is_replay(answer) for answer in kept) == 1
        assert len(marks.begun(key)) == 1

    await asyncio.gather(*(herd(f"{run}-{number}") for number in range(8)))


@pytest.mark.row(37, 51)
async def test_a_run_three_times_as_long_as_its_lease_stays_in_progress(
    servers: list[Server], marks: Marks, client: httpx.AsyncClient, run: str
):
    target = f"/raw-0/whole?run={run}&seconds={3.2 * LEASE}"
    first = asyncio.ensure_future(post(client, servers[0].url + target, run))
    await wait_for(marks, run, "begun.1")
    meanwhile = 0
    while not marks.has(run, "ended"):
        answer = await post(client, servers[meanwhile % 2].url + target, run)
        if not marks.has(run, "ended"):
            assert (answer.status_code, slug(answer)) == (409, "in-progress")
            assert 1 <= int(answer.headers["retry-after"]) <= LEASE
        meanwhile += 1
        await asyncio.sleep(0.05)
    replay = await post_until_settled(client, servers[1].url + target, run)
    assert meanwhile > 20
    assert (replay.status_code, is_replay(replay), replay.content) == (201, True, (await first).content)
    assert [mark.attempt for mark in marks.begun(run)] == [1]
    assert [complaints(server.new_log()) for server in servers] == [[], []]


@pytest.mark.row(37, 48)
@pytest.mark.fault(7)
async def test_after_a_worker_was_killed_one_duplicate_takes_over_when_its_lease_lapses(
    servers: list[Server], marks: Marks, client: httpx.AsyncClient, run: str
):
    target = f"/starlette-1/whole?run={run}&hold=0"
    killed = await kill_the_worker_of(servers[0], client, target, run)

    async def duplicate() -> httpx.Response:
        return await post_until_settled(client, servers[1].url + target, run)

    duplicates = [asyncio.ensure_future(duplicate()) for _ in range(5)]
    await wait_for(marks, run, "begun.2")
    await asyncio.sleep(0.1)
    assert [mark.attempt for mark in marks.begun(run)] == [1, 2]
    assert LEASE / 2 < begun_at(marks, run, 2) - killed < LEASE + 0.25 + SLACK
    marks.open_gate(run)
    answers = await asyncio.gather(*duplicates)
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.content for answer in answers}) == 1
    assert sorted(map(is_replay, answers)) == [False] + [True] * 4
    assert len(marks.begun(run)) == 2


@pytest.mark.row(49)
@pytest.mark.fault(7)
async def test_with_after_crash_refuse_the_outcome_of_a_killed_worker_stays_unknown(
    servers: list[Server], marks: Marks, client: httpx.AsyncClient, run: str
):
    target = f"/starlette-0-refusing/whole?run={run}&hold=0"
    await kill_the_worker_of(servers[0], client, target, run)
    before = await post(client, servers[1].url + target, run)
    await asyncio.sleep(LEASE + 0.1)
    after = [await post(client, servers[1].url + target, run) for _ in range(2)]
    other = await post(client, servers[1].url + target, run, b'{"other": 1}')
    assert (before.status_code, slug(before)) == (409, "in-progress")
    assert [(answer.status_code, slug(answer)) for answer in after] == [(409, "outcome-unknown")] * 2
    assert "retry-after" not in after[0].headers
    assert (other.status_code, slug(other)) == (422, "key-reused")
    assert len(marks.begun(run)) == 1


@pytest.mark.row(50)
@pytest.mark.fault(8)
async def test_the_client_of_a_worker_frozen_past_its_lease_gets_the_winners_answer(
    servers: list[Server], lone: Server, marks: Marks, client: httpx.AsyncClient, run: str
):
    whole, stream = (f"/starlette-1/{each}?run={run}-{each}&hold=1" for each in ("whole", "stream"))
    whole = whole.replace("hold=1", "hold=0")
    unsent = asyncio.ensure_future(post(client, lone.url + whole, f"{run}-whole"))
    async with Caller(lone, stream, f"{run}-stream") as begun:
        await begun.send()
        await begun.read_until(b"data: 0 ")
        await wait_for(marks, f"{run}-whole", "begun.1")
        lone.freeze()
        try:
            for each in ("whole", "stream"):
                marks.open_gate(f"{run}-{each}")
            winners = [
                await post_until_settled(client, servers[1].url + target, f"{run}-{each}")
                for target, each in ((whole, "whole"), (stream, "stream"))
            ]
        finally:
            lone.thaw()
        late = await unsent
        await begun.read_until(b"data: 4 ")
    replays = [
        await post(client, servers[0].url + target, f"{run}-{each}")
        for target, each in ((whole, "whole"), (stream, "stream"))
    ]
    assert [is_replay(winner) for winner in winners] == [False, False]
    assert [[mark.attempt for mark in marks.begun(f"{run}-{each}")] for each in ("whole", "stream")] == [
        [1, 2]
    ] * 2
    # Where nothing was sent yet, the client gets the winner's answer; otherwise its own to the end.
    assert (late.status_code, is_replay(late), late.content) == (201, True, winners[0].content)
    assert begun.received.count(b"data: ") == 5
    assert winners[1].content[:20] not in begun.received
    assert [is_replay(replay) for replay in replays] == [True, True]
    assert [replay.content for replay in replays] == [winner.content for winner in winners]
    reported = complaints(lone.new_log())
    assert all("idempotency_mw" in line and "the claim was lost" in line for line in reported)
    assert reported


@pytest.fixture(scope="module")
def survivor(folder: Path, marks: Marks) -> Iterator[Server]:
    """A server that keeps running while others stop."""
    with Server(
        "uvicorn", folder, store=str(folder / "neighbours"), config={"lease_seconds": LEASE}, marks=marks
    ) as server:
        yield server


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.row(48, 77)
@pytest.mark.fault(12)
async def test_a_stopping_server_stores_runs_that_end_in_time_and_the_others_are_taken_over(
    survivor: Server, folder: Path, marks: Marks, client: httpx.AsyncClient, kind: str, run: str
):
    targets = {name: f"/starlette-1/whole?run={run}-{name}&hold=0" for name in ("short", "long")}
    with Server(
        kind, folder, store=str(folder / "neighbours"), config={"lease_seconds": LEASE}, marks=marks
    ) as stopping:
        runs = {
            name: asyncio.ensure_future(post(client, stopping.url + target, f"{run}-{name}"))
            for name, target in targets.items()
        }
        for name in targets:
            await wait_for(marks, f"{run}-{name}", "begun.1")
        stopping.terminate()
        await asyncio.sleep(0.1)
        marks.open_gate(f"{run}-short")
        short = await runs["short"]
        replay = await post(client, survivor.url + targets["short"], f"{run}-short")
        meanwhile = await post(client, survivor.url + targets["long"], f"{run}-long")
        with contextlib.suppress(httpx.TransportError):  # hypercorn answers a request that it cancels
            assert (await runs["long"]).status_code == 500
        await asyncio.to_thread(stopping.wait, 10)
        log = stopping.new_log()
    marks.open_gate(f"{run}-long")
    later = await post_until_settled(client, survivor.url + targets["long"], f"{run}-long")
    assert (short.status_code, is_replay(short)) == (201, False)
    assert (replay.status_code, is_replay(replay), replay.content) == (201, True, short.content)
    assert (meanwhile.status_code, slug(meanwhile)) == (409, "in-progress")
    assert (later.status_code, is_replay(later)) == (201, False)
    assert [mark.attempt for mark in marks.begun(f"{run}-long")] == [1, 2]
    assert not marks.has(f"{run}-short", "begun.2")
    assert "idempotency_mw" not in log
    assert "was destroyed" not in log


# A store that fails under a running server.


@pytest.fixture(scope="module")
def valkey() -> Iterator[RedisServer]:
    """A server to be frozen and killed; it persists every write that it acknowledges."""
    found = binaries()
    if not found:
        pytest.skip("no Redis or Valkey server was found")
    server = RedisServer(next(iter(found.values())), "--appendonly", "yes", "--appendfsync", "always")
    with server:
        yield server


@pytest.fixture(scope="module")
def on_valkey(valkey: RedisServer, folder: Path, marks: Marks) -> Iterator[Server]:
    with Server("uvicorn", folder, store=valkey.url, config={"lease_seconds": 2}, marks=marks) as server:
        yield server


async def timed(request: asyncio.Future[httpx.Response]) -> tuple[httpx.Response, float]:
    begins = time.monotonic()
    return await request, time.monotonic() - begins


@contextlib.contextmanager
def broken_store(valkey: RedisServer, how: str) -> Iterator[None]:
    """Freeze or kill the store for the time of the block."""
    valkey.freeze() if how == "frozen" else valkey.kill()
    try:
        yield
    finally:
        valkey.thaw() if how == "frozen" else valkey.start()


broken = pytest.mark.parametrize("how", ["frozen", "killed"])


@broken
@pytest.mark.row(102)
@pytest.mark.fault(1, 4)
async def test_requests_are_refused_in_time_if_the_store_fails_at_acquire(
    on_valkey: Server, valkey: RedisServer, marks: Marks, client: httpx.AsyncClient, how: str, run: str
):
    target = f"{on_valkey.url}/starlette-1/whole?run={run}"
    with broken_store(valkey, how):
        answer, seconds = await timed(asyncio.ensure_future(post(client, target, run)))
    assert (answer.status_code, slug(answer)) == (503, "store-unavailable")
    assert int(answer.headers["retry-after"]) >= 1
    assert seconds < STORE_DEADLINE + 0.1 + SLACK
    assert marks.begun(run) == []
    assert "the store failed" in on_valkey.new_log()
    # The frozen server may handle the acquire late; then it also handles its release.
    later = await post_until_settled(client, target, run)
    assert (later.status_code, is_replay(later)) == (201, False)
    assert len(marks.begun(run)) == 1


@broken
@pytest.mark.row(103)
async def test_with_on_store_failure_pass_the_app_runs_if_the_store_fails_at_acquire(
    on_valkey: Server, valkey: RedisServer, marks: Marks, client: httpx.AsyncClient, how: str, run: str
):
    target = f"{on_valkey.url}/starlette-0-passing/whole?run={run}"
    with broken_store(valkey, how):
        answer, seconds = await timed(asyncio.ensure_future(post(client, target, run)))
    assert (answer.status_code, is_replay(answer)) == (201, False)
    assert seconds < STORE_DEADLINE + 0.1 + SLACK
    assert [mark.attempt for mark in marks.begun(run)] == [0]  # 0: the app had no execution
    assert "the app runs unprotected" in on_valkey.new_log()


@broken
@pytest.mark.row(104)
@pytest.mark.fault(15)
async def test_a_client_gets_its_answer_if_the_store_fails_at_complete(
    on_valkey: Server, valkey: RedisServer, marks: Marks, client: httpx.AsyncClient, how: str, run: str
):
    target = f"{on_valkey.url}/starlette-1/whole?run={run}&hold=0"
    first = asyncio.ensure_future(post(client, target, run))
    await wait_for(marks, run, "begun.1")
    with broken_store(valkey, how):
        marks.open_gate(run)
        answer, seconds = await timed(first)
    retry = await post(client, target, run)
    settled = await post_until_settled(client, target, run)
    assert (answer.status_code, is_replay(answer)) == (201, False)
    assert seconds < STORE_DEADLINE + 0.1 + SLACK
    assert "complete failed; the lease has to lapse" in on_valkey.new_log()
    assert retry.status_code in (201, 409)
    if is_replay(settled):  # thawed, the store may still have heard the complete
        assert how == "frozen"
        assert settled.content == answer.content
    assert [mark.attempt for mark in marks.begun(run)] == ([1] if is_replay(settled) else [1, 2])


@broken
@pytest.mark.row(104, 105)
@pytest.mark.fault(14, 18)
async def test_a_store_that_is_back_within_the_deadline_completes(
    on_valkey: Server, valkey: RedisServer, marks: Marks, client: httpx.AsyncClient, how: str, run: str
):
    target = f"{on_valkey.url}/starlette-1/whole?run={run}&hold=0"
    first = asyncio.ensure_future(post(client, target, run))
    await wait_for(marks, run, "begun.1")
    with broken_store(valkey, how):
        marks.open_gate(run)
        await wait_for(marks, run, "ended")
        await asyncio.sleep(0.2)
        assert not first.done()
    answer = await first
    replay = await post(client, target, run)
    assert (answer.status_code, is_replay(answer)) == (201, False)
    assert (replay.status_code, is_replay(replay), replay.content) == (201, True, answer.content)
    assert complaints(on_valkey.new_log()) == []
    assert [mark.attempt for mark in marks.begun(run)] == [1]
