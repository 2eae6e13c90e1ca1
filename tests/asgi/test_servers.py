"""The same behaviour on uvicorn, hypercorn and granian: real processes, real sockets, clients that hang up."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from secrets import token_hex

import httpx
import pytest

from tests.asgi.serving import (
    KINDS,
    Caller,
    Server,
    complaints,
    is_replay,
    post,
    post_until_settled,
    read_a_stream,
    run_with_duplicates,
    slug,
)

FRAMEWORKS = ("raw", "starlette", "fastapi", "litestar")
VARIANTS = [f"{framework}-{middlewares}" for framework in FRAMEWORKS for middlewares in (0, 1, 2)]
TO_NOTICE = 0.1
"""Seconds within which a server notices that a client on the loopback interface has hung up."""

every_variant = pytest.mark.parametrize("variant", VARIANTS)
some_variants = pytest.mark.parametrize("variant", ["raw-0", "starlette-1", "fastapi-2", "litestar-1"])
starlettes = pytest.mark.parametrize(
    "variant", [each for each in VARIANTS if each.startswith(("starlette", "fastapi"))]
)


@pytest.fixture(scope="module", params=KINDS)
def process(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp(request.param)
    with Server(request.param, folder, store=str(folder / "store"), http={"max_response_body": 2**25}) as server:
        yield server
    assert complaints(server.new_log()) == []
    assert len(list(server.marks.folder.glob("lifespan-*.ended"))) == 1


@pytest.fixture
def server(process: Server) -> Iterator[Server]:
    """The running server; fails if it logs a complaint during the test."""
    yield process
    assert complaints(process.new_log()) == []


@pytest.fixture
async def client(server: Server) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=server.url, timeout=20, trust_env=False, verify=False) as client:
        yield client


@pytest.fixture
def run() -> str:
    """The name of one run, also used as its key."""
    return token_hex(6)


async def wait_for(server: Server, run: str, what: str) -> None:
    await asyncio.to_thread(server.marks.wait_for, run, what)


@pytest.mark.row(1)
async def test_lifespan_messages_reach_the_app(server: Server, client: httpx.AsyncClient, run: str):
    await post(client, f"/starlette-1/whole?run={run}", None)
    (mark,) = server.marks.begun(run)
    assert server.marks.has(f"lifespan-{mark.pid}", "begun")


@every_variant
@pytest.mark.row(5, 34, 35, 36, 37, 38, 86)
async def test_one_key_has_one_run_and_one_answer(
    server: Server, client: httpx.AsyncClient, variant: str, run: str
):
    await run_with_duplicates(server, client, variant, run)


@pytest.mark.parametrize("variant", [each for each in VARIANTS if not each.startswith("litestar")])
@pytest.mark.row(41, 86)
async def test_an_error_status_frees_the_key(server: Server, client: httpx.AsyncClient, variant: str, run: str):
    target = f"/{variant}/whole?run={run}&first=500"
    answers = [await post(client, target, run) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [500, 201, 201]
    assert [is_replay(answer) for answer in answers] == [False, False, True]
    assert [mark.attempt for mark in server.marks.begun(run)] == [1, 1]


@every_variant
@pytest.mark.row(65, 74, 79, 86)
async def test_the_first_bytes_of_a_stream_come_before_its_end(
    server: Server, client: httpx.AsyncClient, variant: str, run: str
):
    # Starlette's is_disconnected() cancels its receive() each time, and granian then breaks the stream: without a
    # key, and without this package too. The receive() of a keyed request is the middleware's.
    breaks = server.kind == "granian" and not variant.startswith(("raw", "litestar"))
    for endpoint, keyed in (("stream", True), ("events", True), ("stream", False), ("events", False)):
        if endpoint == "events" and not keyed and breaks:
            continue
        name = f"{run}-{endpoint}-{keyed}"
        target = f"/{variant}/{endpoint}?run={name}&hold=2&chunks=4"
        await read_a_stream(server, client, target, name, keyed=keyed)


async def hang_up_in_a_stream(server: Server, target: str, run: str, hold: int, reset: bool) -> bytes:
    """Let a client read until the app waits at its gate, and then hang up; return what it read."""
    async with Caller(server, target, run) as caller:
        await caller.send()
        await wait_for(server, run, "begun.1")
        if hold > 0:
            await caller.read_until(b"data: %d " % (hold - 1))
        await caller.hang_up(reset=reset)
        return caller.received


@every_variant
@pytest.mark.row(74, 76, 79, 86)
@pytest.mark.fault(11)
async def test_the_retry_of_a_client_that_hung_up_gets_the_whole_stream(
    server: Server, client: httpx.AsyncClient, variant: str, run: str
):
    async def go(endpoint: str, hold: int, reset: bool) -> None:
        name = f"{run}-{endpoint}-{hold}-{reset}"
        target = f"/{variant}/{endpoint}?run={name}&hold={hold}&chunks=6"
        received = await hang_up_in_a_stream(server, target, name, hold, reset)
        await asyncio.sleep(TO_NOTICE)
        meanwhile = await post(client, target, name)
        server.marks.open_gate(name)
        await wait_for(server, name, "ended")
        replay = await post_until_settled(client, target, name)

        assert (received == b"") == (hold == 0)
        assert meanwhile.status_code == 409
        assert (replay.status_code, is_replay(replay)) == (200, True)
        assert [replay.content.count(b"data: %d " % step) for step in range(7)] == [1] * 6 + [0]
        assert replay.headers["content-length"] == str(len(replay.content))
        assert not server.marks.has(name, "disconnected")
        assert [mark.attempt for mark in server.marks.begun(name)] == [1]

    async with asyncio.TaskGroup() as group:
        # Before the first byte, after the first chunk, in the middle; with a FIN and with an RST.
        for endpoint, hold, reset in itertools.product(("stream", "events"), (0, 1, 3), (False, True)):
            group.create_task(go(endpoint, hold, reset))


@some_variants
@pytest.mark.row(76, 86)
async def test_the_retry_of_a_client_that_hung_up_before_the_answer_gets_it(
    server: Server, client: httpx.AsyncClient, variant: str, run: str
):
    target = f"/{variant}/whole?run={run}&hold=0"
    async with Caller(server, target, run) as caller:
        await caller.send()
        await wait_for(server, run, "begun.1")
    await asyncio.sleep(TO_NOTICE)
    server.marks.open_gate(run)
    replay = await post_until_settled(client, target, run)
    assert (replay.status_code, is_replay(replay), replay.json()["run"]) == (201, True, run)
    assert len(server.marks.begun(run)) == 1


@pytest.mark.parametrize("variant", ["raw-0", "starlette-1"])
@pytest.mark.row(76)
async def test_a_client_that_stops_reading_and_hangs_up_does_not_stop_the_app(
    server: Server, client: httpx.AsyncClient, variant: str, run: str
):
    chunks, size = 16, 1_000_000  # more than the socket buffers hold
    target = f"/{variant}/stream?run={run}&chunks={chunks}&size={size}"
    async with Caller(server, target, run) as caller:
        await caller.send()
        await caller.read_until(b"data: 0 ")
        await asyncio.sleep(0.3)
        is_held_back = not server.marks.has(run, "ended")
        await caller.hang_up(reset=True)
    replay = await post_until_settled(client, target, run)
    assert is_held_back
    assert (replay.status_code, is_replay(replay)) == (200, True)
    assert len(replay.content) > chunks * size
    assert len(server.marks.begun(run)) == 1


@pytest.mark.parametrize("variant", ["raw-0", "starlette-0"])
@pytest.mark.row(4, 74)
async def test_without_a_key_the_app_learns_that_its_client_hung_up(server: Server, variant: str, run: str):
    endpoint = "events" if variant == "raw-0" else "stream"
    target = f"/{variant}/{endpoint}?run={run}&hold=2&chunks=6"
    async with Caller(server, target, None) as caller:
        await caller.send()
        await caller.read_until(b"data: 1 ")
    await asyncio.sleep(TO_NOTICE)
    server.marks.open_gate(run)
    if variant == "raw-0":
        await wait_for(server, run, "disconnected")
    await asyncio.sleep(TO_NOTICE)
    assert not server.marks.has(run, "ended")


@some_variants
@pytest.mark.row(75)
async def test_a_client_that_hangs_up_while_uploading_leaves_no_claim(
    server: Server, client: httpx.AsyncClient, variant: str, run: str
):
    framings = {
        "declared": b"Content-Length: 1000\r\n\r\nonly this",
        "chunked": b"Transfer-Encoding: chunked\r\n\r\n9\r\nonly this\r\n",
    }
    for framing, part in framings.items():
        async with Caller(server, f"/{variant}/whole?run={run}-{framing}", f"{run}-{framing}") as caller:
            await caller.write(caller.head + part)
            await asyncio.sleep(0.02)
    await asyncio.sleep(TO_NOTICE)
    for framing in framings:
        name = f"{run}-{framing}"
        assert server.marks.begun(name) == []
        answer = await post(client, f"/{variant}/whole?run={name}", name)
        assert (answer.status_code, is_replay(answer)) == (201, False)


@pytest.mark.row(33)
async def test_a_body_declared_too_large_is_refused(server: Server, client: httpx.AsyncClient, run: str):
    for _ in range(20):
        with suppress(httpx.RemoteProtocolError):  # hypercorn closes while it is still being sent the body
            answer = await post(client, f"/starlette-1-small/whole?run={run}", run, b"x" * 1001)
            break
    assert (answer.status_code, slug(answer)) == (413, "body-too-large")
    fitting = await post(client, f"/starlette-1-small/whole?run={run}", run, b"x" * 1000)
    assert fitting.status_code == 201
    assert len(server.marks.begun(run)) == 1


@pytest.mark.row(33)
async def test_a_streamed_body_is_refused_as_soon_as_it_grows_too_large(server: Server, run: str):
    async with Caller(server, f"/raw-0-small/whole?run={run}", run) as caller:
        await caller.write(caller.head + b"Transfer-Encoding: chunked\r\n\r\n")
        for _ in range(2):
            await caller.write(b"258\r\n" + b"x" * 600 + b"\r\n")
        await caller.read_until(b"urn:idempotency-mw:problem:body-too-large")
    assert caller.received.startswith(b"HTTP/1.1 413 ")
    assert server.marks.begun(run) == []


@pytest.mark.parametrize("variant", ["starlette-0", "starlette-1", "fastapi-2"])
@pytest.mark.parametrize("endpoint", ["background", "background-after-stream"])
@pytest.mark.row(82)
async def test_neither_a_client_nor_its_retry_waits_for_a_background_task(
    server: Server, client: httpx.AsyncClient, variant: str, endpoint: str, run: str
):
    target = f"/{variant}/{endpoint}?run={run}&hold=1"
    answer = await post(client, target, run)
    replay = await post(client, target, run)
    assert not server.marks.has(run, "afterwards")
    assert (answer.status_code, is_replay(answer)) == (200, False)
    assert (replay.status_code, is_replay(replay), replay.content) == (200, True, answer.content)
    server.marks.open_gate(run)
    await wait_for(server, run, "afterwards")
    assert len(server.marks.begun(run)) == 1


@pytest.mark.parametrize("variant", ["starlette-0", "starlette-1", "fastapi-0", "litestar-0", "litestar-1"])
@pytest.mark.row(67, 80)
async def test_a_file_response_is_stored_and_replayed(
    server: Server, client: httpx.AsyncClient, variant: str, run: str
):
    target = f"/{variant}/file?run={run}"
    answers = [await post(client, target, run) for _ in range(2)]
    assert [is_replay(answer) for answer in answers] == [False, True]
    assert answers[0].content == answers[1].content
    assert len(answers[0].content) == 320_000
    assert len(server.marks.begun(run)) == 1


@pytest.mark.row(4, 80)
async def test_extensions_that_bypass_the_capture_are_offered_only_without_a_key(
    server: Server, client: httpx.AsyncClient, run: str
):
    unkeyed = (await post(client, "/raw-0/extensions", None)).json()
    keyed = (await post(client, "/raw-0/extensions", run)).json()
    assert ("http.response.pathsend" in unkeyed) == (server.kind == "granian")
    assert set(unkeyed) - set(keyed) == {name for name in unkeyed if name.endswith(("pathsend", "zerocopysend"))}
    assert not any(name.endswith(("pathsend", "zerocopysend")) for name in keyed)


@pytest.mark.row(114)
async def test_waiting_duplicates_get_the_first_answer(server: Server, client: httpx.AsyncClient, run: str):
    target = f"/starlette-1-waiting/whole?run={run}&hold=0"
    duplicates = [asyncio.ensure_future(post(client, target, run)) for _ in range(5)]
    await wait_for(server, run, "begun.1")
    await asyncio.sleep(TO_NOTICE)
    assert not any(duplicate.done() for duplicate in duplicates)
    server.marks.open_gate(run)
    answers = await asyncio.gather(*duplicates)
    assert [answer.status_code for answer in answers] == [201] * 5
    assert len({answer.content for answer in answers}) == 1
    assert sorted(map(is_replay, answers)) == [False] + [True] * 4
    assert len(server.marks.begun(run)) == 1


@pytest.mark.row(117)
async def test_after_a_release_exactly_one_waiting_duplicate_runs(
    server: Server, client: httpx.AsyncClient, run: str
):
    target = f"/fastapi-1-waiting/whole?run={run}&hold=0&first=500"
    duplicates = [asyncio.ensure_future(post(client, target, run)) for _ in range(5)]
    await wait_for(server, run, "begun.1")
    await asyncio.sleep(TO_NOTICE)
    server.marks.open_gate(run)
    answers = await asyncio.gather(*duplicates)
    assert sorted(answer.status_code for answer in answers) == [201] * 4 + [500]
    kept = [answer for answer in answers if answer.status_code == 201]
    assert len({answer.content for answer in kept}) == 1
    assert sorted(map(is_replay, kept)) == [False] + [True] * 3
    assert len(server.marks.begun(run)) == 2


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
@pytest.mark.row(118)
async def test_a_waiting_duplicate_that_hangs_up_leaves_no_claim(
    server: Server, client: httpx.AsyncClient, reset: bool, run: str
):
    target = f"/raw-0-waiting/whole?run={run}&hold=0&first=500"
    first = asyncio.ensure_future(post(client, target, run))
    await wait_for(server, run, "begun.1")
    async with Caller(server, target, run) as waiter:
        await waiter.send()
        await asyncio.sleep(TO_NOTICE)
        await waiter.hang_up(reset=reset)
    await asyncio.sleep(TO_NOTICE)
    server.marks.open_gate(run)
    assert (await first).status_code == 500
    await asyncio.sleep(0.5)  # two more tries, if the duplicate still waited
    assert len(server.marks.begun(run)) == 1
    answer = await post(client, target, run)
    assert (answer.status_code, is_replay(answer)) == (201, False)


@starlettes
@pytest.mark.row(44, 45, 86)
@pytest.mark.fault(10)
async def test_a_stream_that_breaks_is_never_replayed(process: Server, variant: str, run: str):
    target = f"/{variant}/failing?run={run}&chunks=4"
    async with httpx.AsyncClient(base_url=process.url, timeout=20, trust_env=False, verify=False) as client:
        try:
            broken = (await post(client, target, run)).content
        except httpx.RemoteProtocolError:
            broken = b""
        whole = await post_until_settled(client, target, run)
        replay = await post(client, target, run)
    assert broken.count(b"data: ") <= 1
    assert "this app fails in mid-stream" in process.new_log()
    assert (whole.status_code, is_replay(whole), whole.content.count(b"data: ")) == (200, False, 4)
    assert (replay.status_code, is_replay(replay), replay.content) == (200, True, whole.content)
    assert len(process.marks.begun(run)) == 2


@pytest.mark.parametrize("variant", ["starlette-0-waiting", "starlette-1-waiting"])
@pytest.mark.row(74, 117)
async def test_a_duplicate_that_waited_for_a_broken_stream_runs_and_gets_it_whole(
    process: Server, variant: str, run: str
):
    target = f"/{variant}/failing?run={run}&hold=0&chunks=4"
    async with httpx.AsyncClient(base_url=process.url, timeout=20, trust_env=False, verify=False) as client:
        first = asyncio.ensure_future(post(client, target, run))
        await wait_for(process, run, "begun.1")
        waiter = asyncio.ensure_future(post(client, target, run))
        await asyncio.sleep(TO_NOTICE)
        process.marks.open_gate(run)
        with pytest.raises(httpx.RemoteProtocolError):
            await first
        whole = await waiter
    assert "this app fails in mid-stream" in process.new_log()
    assert (whole.status_code, is_replay(whole), whole.content.count(b"data: ")) == (200, False, 4)
    assert [mark.attempt for mark in process.marks.begun(run)] == [1, 1]


@pytest.mark.row(7, 35, 76, 79)
async def test_http_2_requests_run_once_and_are_replayed_too(process: Server, run: str):
    speaks_it = process.kind != "uvicorn"
    whole, stream = f"/starlette-1/whole?run={run}-1", f"/starlette-1/stream?run={run}-2&hold=2"
    options = {
        "base_url": process.url,
        "timeout": 20,
        "trust_env": False,
        "verify": False,
        "http1": not speaks_it,
        "http2": speaks_it,
    }
    async with httpx.AsyncClient(**options) as client:
        answers = [await post(client, whole, f"{run}-1") for _ in range(2)]
        other = await post(client, whole, f"{run}-1", b'{"other": 1}')
        async with client.stream("POST", stream, headers={"Idempotency-Key": f"{run}-2"}) as broken:
            await anext(broken.aiter_raw())
    await asyncio.sleep(TO_NOTICE)
    process.marks.open_gate(f"{run}-2")
    async with httpx.AsyncClient(**options) as client:
        replay = await client.post(stream, headers={"Idempotency-Key": f"{run}-2"})
        while replay.status_code == 409:
            await asyncio.sleep(0.01)
            replay = await client.post(stream, headers={"Idempotency-Key": f"{run}-2"})
    assert {answer.http_version for answer in (*answers, other, replay)} == {"HTTP/2" if speaks_it else "HTTP/1.1"}
    assert [(answer.status_code, is_replay(answer)) for answer in answers] == [(201, False), (201, True)]
    assert answers[0].content == answers[1].content
    assert (other.status_code, slug(other)) == (422, "key-reused")
    assert (replay.status_code, is_replay(replay), replay.content.count(b"data: ")) == (200, True, 5)
    assert [len(process.marks.begun(f"{run}-{number}")) for number in (1, 2)] == [1, 1]
    assert complaints(process.new_log()) == []
