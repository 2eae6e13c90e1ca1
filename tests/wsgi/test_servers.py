"""The same behaviour on wsgiref, Werkzeug's server and gunicorn: real processes, real sockets."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from secrets import token_hex

import httpx
import pytest

from tests.asgi.serving import (
    Caller,
    complaints,
    is_replay,
    post,
    post_until_settled,
    read_a_stream,
    run_with_duplicates,
    slug,
)
from tests.wsgi.serving import KINDS, WSGIServer

every_framework = pytest.mark.parametrize("framework", ["plain", "werkzeug", "flask", "django"])


@pytest.fixture(scope="module", params=KINDS)
def process(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WSGIServer]:
    folder = tmp_path_factory.mktemp(request.param)
    workers = 2 if request.param == "gunicorn-sync" else 1
    store = str(folder / "store")
    with WSGIServer(request.param, folder, store=store, app="tests.wsgi.apps:app", workers=workers) as server:
        yield server


@pytest.fixture
def server(process: WSGIServer) -> Iterator[WSGIServer]:
    """The running server; fails if it logs a complaint during the test."""
    yield process
    assert complaints(process.new_log()) == []


@pytest.fixture
def failing_server(process: WSGIServer) -> Iterator[WSGIServer]:
    """The running server; fails unless it logs the app's own exception."""
    yield process
    assert "this app fails" in process.new_log()


@pytest.fixture
async def client(process: WSGIServer) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=process.url, timeout=20, trust_env=False) as client:
        yield client


@pytest.fixture
def run() -> str:
    """The name of one run, also used as its key."""
    return token_hex(6)


async def wait_for(server: WSGIServer, run: str, what: str) -> None:
    await asyncio.to_thread(server.marks.wait_for, run, what)


@every_framework
@pytest.mark.row(5, 34, 35, 36, 37, 38, 101)
async def test_one_key_has_one_run_and_one_answer(server, client, framework, run):
    answer = await run_with_duplicates(server, client, framework, run)
    assert answer.json()["length"] == 2


@every_framework
@pytest.mark.row(41, 101)
async def test_an_error_status_frees_the_key(server, client, framework, run):
    target = f"/{framework}/whole?run={run}&first=409"
    answers = [await post(client, target, run) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [409, 201, 201]
    assert [is_replay(answer) for answer in answers] == [False, False, True]


@pytest.mark.row(39, 100)
@pytest.mark.fault(24)
async def test_one_of_eight_parallel_duplicates_runs(server, client, run):
    target = f"/flask/whole?run={run}&seconds=0.2"
    answers = await asyncio.gather(*(post(client, target, run) for _ in range(8)))
    assert len(server.marks.begun(run)) == 1
    done = [answer for answer in answers if answer.status_code == 201]
    assert len({answer.content for answer in done}) == 1
    assert sum(not is_replay(answer) for answer in done) == 1
    assert all(slug(answer) == "in-progress" for answer in answers if answer.status_code != 201)


@every_framework
@pytest.mark.parametrize("keyed", [True, False], ids=["keyed", "unkeyed"])
@pytest.mark.row(65, 79, 95, 101)
async def test_the_first_bytes_of_a_stream_come_before_its_end(server, client, framework, keyed, run):
    target = f"/{framework}/stream?run={run}&hold=2&chunks=4"
    await read_a_stream(server, client, target, run, keyed=keyed)


@every_framework
@pytest.mark.parametrize("size", [1000, 100_000])
@pytest.mark.row(76, 94, 101)
@pytest.mark.fault(11)
async def test_the_retry_of_a_client_that_hung_up_gets_the_whole_stream(server, client, framework, size, run):
    target = f"/{framework}/stream?run={run}&hold=2&chunks=8&size={size}"
    async with Caller(server, target, run) as caller:
        await caller.send()
        await caller.read_until(b"data: 0 ")
        await caller.hang_up(reset=True)
    server.marks.open_gate(run)
    retry = await post_until_settled(client, target, run)
    assert is_replay(retry)
    assert retry.content.count(b"data: ") == 8
    assert [mark.attempt for mark in server.marks.begun(run)] == [1]


@every_framework
@pytest.mark.row(44, 101)
@pytest.mark.fault(10)
async def test_a_stream_that_fails_is_not_stored(failing_server, client, framework, run):
    target = f"/{framework}/failing?run={run}"
    with contextlib.suppress(httpx.TransportError):
        broken = await post(client, target, run)
        assert broken.content.count(b"data: ") < 5
    again = await post(client, target, run)
    assert (again.status_code, is_replay(again), again.content.count(b"data: ")) == (200, False, 5)
    replay = await post(client, target, run)
    assert (is_replay(replay), replay.content) == (True, again.content)


@pytest.mark.row(99)
async def test_a_teardown_that_raises_frees_the_key(failing_server, client, run):
    target = f"/flask/teardown?run={run}"
    with contextlib.suppress(httpx.TransportError):
        assert (await post(client, target, run)).status_code == 500
    again = await post(client, target, run)
    assert (again.status_code, is_replay(again)) == (200, False)
    assert is_replay(await post(client, target, run))


@pytest.mark.row(93)
async def test_a_response_is_closed_once(server, client, run):
    target = f"/flask/closing?run={run}"
    for replayed in (False, True):
        assert is_replay(await post(client, target, run)) is replayed
    await asyncio.to_thread(server.marks.wait_for, run, "ended")
    async with asyncio.timeout(5):
        while not (closed := list(server.marks.folder.glob(f"{run}.closed.*"))):
            await asyncio.sleep(0.01)
    assert len(closed) == 1


@pytest.mark.row(91, 97)
@pytest.mark.parametrize("endpoint", ["write", "file"])
async def test_an_answer_by_write_or_from_a_file_is_replayed(server, client, endpoint, run):
    target = f"/plain/{endpoint}?run={run}"
    first, retry = await post(client, target, run), await post(client, target, run)
    assert first.content.count(b"data: ") == 5
    assert (retry.content, is_replay(retry)) == (first.content, True)


async def chunked() -> AsyncIterator[bytes]:
    for part in (b'{"a":', b" 1", b"}"):
        yield part


@pytest.mark.row(96)
async def test_a_chunked_request_is_read_if_the_server_supports_it(server, client, run):
    target = f"/plain/whole?run={run}"
    headers = {"host": "idempotency.test", "content-type": "application/json", "idempotency-key": run}
    for _ in range(20):
        with contextlib.suppress(httpx.ReadError):  # wsgiref closes without reading the body
            first = await client.post(target, content=chunked(), headers=headers)
            break
    length = 0 if server.kind == "wsgiref" else 8
    assert (first.status_code, first.json()["length"]) == (201, length)
    if length:
        retry = await post(client, target, run, b'{"a": 1}')
        assert (retry.content, is_replay(retry)) == (first.content, True)


@pytest.mark.row(96)
async def test_a_body_that_ends_before_its_length_is_refused(server, run):
    async with Caller(server, f"/plain/whole?run={run}", run) as caller:
        await caller.write(caller.head + b"Content-Length: 10\r\n\r\n{}")
        caller.end_writing()
        await caller.read_until(b"body-invalid")
        assert b" 400 " in caller.received
    assert server.marks.begun(run) == []
