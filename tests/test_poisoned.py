"""I10: for a poisoned, foreign, newer or tampered record no app runs, nothing crashes and nothing is changed.

A record with a flipped bit is either unreadable or another well-formed record. No single bit changes one status or
version into another. Records are not authenticated: whoever can write into the store can answer in the app's place
and change a lease. But bytes that are no record are never taken for a free key.
"""

import asyncio
import logging
import sqlite3
from contextlib import closing
from secrets import token_hex

import pytest

from idempotency_mw import IdempotencyConfig, current_execution, idempotent_function
from idempotency_mw.core.record import Claim, Existing, Operation, Status
from idempotency_mw.errors import (
    IdempotencyExecutionFailedError,
    IdempotencyPersistenceLayerError,
    IdempotencyRecordError,
    IdempotencyValidationError,
)
from idempotency_mw.functions.serializers import StoredValue, decode
from idempotency_mw.http import codec
from idempotency_mw.http.message import Response
from idempotency_mw.persistence import verbs
from idempotency_mw.persistence.base import VERBS
from idempotency_mw.persistence.frame import Frame
from idempotency_mw.persistence.redis import AsyncRedisPersistenceLayer, RedisPersistenceLayer
from idempotency_mw.persistence.sqlite import SQLitePersistenceLayer
from idempotency_mw.persistence.verbs import StoredFrame
from tests.asgi.driver import ASGISurface, Play
from tests.persistence.golden import GOLDEN, TOKEN, contradictions
from tests.wsgi.driver import TEXT, Service

LONG_MS = 600_000
KEY = "the-poisoned-one"
SECRET = "canary-in-a-record"


def flips(data, every):
    """Yield the data with every `every`-th bit flipped, one at a time. Below 8 that reaches each byte."""
    for number in range(0, len(data) * 8, every):
        position, bit = divmod(number, 8)
        yield data[:position] + bytes([data[position] ^ 1 << bit]) + data[position + 1 :]


def cuts(data, every=3):
    for length in range(0, len(data), every):
        yield data[:length]


class InSQLite:
    """A blocking layer over a file, and access to the file beside it."""

    every = 7

    def __init__(self, path):
        self.layer = SQLitePersistenceLayer(path, durability="normal")
        self.layer.check()
        self._file = sqlite3.connect(path, isolation_level=None)
        self._file.execute("PRAGMA synchronous = off")

    def plant(self, key, data, record="?"):
        insert = f"INSERT OR REPLACE INTO idempotency_records VALUES (?, {record}, ?)"
        self._file.execute(insert, (key, data, 10**15))

    def peek(self, key):
        row = self._file.execute("SELECT record FROM idempotency_records WHERE storage_key = ?", (key,)).fetchone()
        return None if row is None else row[0]

    def close(self):
        self._file.close()
        self.layer.close()


class InRedis:
    """The same over a server."""

    every = 7

    def __init__(self, server):
        self.layer = RedisPersistenceLayer.from_url(server.url, timeout_seconds=10)
        self._store = server.client()

    def plant(self, key, data):
        self._store.set("idempotency:" + key, data, px=LONG_MS)

    def peek(self, key):
        return self._store.get("idempotency:" + key)

    def close(self):
        self._store.close()
        self.layer.close()


@pytest.fixture(params=["sqlite", "redis"])
def place(request, tmp_path):
    made = (
        InSQLite(tmp_path / "r.db")
        if request.param == "sqlite"
        else InRedis(request.getfixturevalue("any_server"))
    )
    yield made
    made.close()


def outcome(verb, *arguments):
    """Return the verb's answer about the record, or the class of its error."""
    try:
        answer = verb(*arguments)
    except IdempotencyRecordError as error:
        assert SECRET not in str(error)
        return type(error)
    return type(answer), (answer.record.status, answer.record.attempt) if isinstance(answer, Existing) else answer


def by_the_model(verb, data, claim, now_ms):
    standing = StoredFrame(Frame.decode(data), now_ms + LONG_MS)
    if verb == "acquire":
        return verbs.acquire(standing, claim, now_ms)[0]
    if verb == "complete":
        return verbs.complete(standing, claim, b"done", now_ms)[0]
    if verb == "extend":
        return verbs.extend(standing, claim, now_ms) is not None
    return verbs.release(standing, claim)


@pytest.mark.row(52)
@pytest.mark.fault(22)
@pytest.mark.parametrize("verb", VERBS)
def test_sqlite_and_the_model_agree_on_flipped_bits_and_truncated_records(tmp_path, verb):
    """persistence/redis/test_agreement.py does the same with the Lua scripts."""
    fingerprint = Frame.decode(GOLDEN[Status.COMPLETED]).fingerprint
    claim = Claim(Operation(KEY, fingerprint), TOKEN, LONG_MS, LONG_MS)
    arguments = (claim, b"done") if verb == "complete" else (claim,)
    now_ms = 1_900_000_000_000  # later than the times in the golden records
    with closing(InSQLite(tmp_path / "r.db")) as place:
        for golden in GOLDEN.values():
            for data in (*flips(golden, place.every), *cuts(golden), *contradictions().values()):
                place.plant(KEY, data)
                expected = outcome(by_the_model, verb, data, claim, now_ms)
                found = outcome(getattr(place.layer, verb), *arguments)
                assert str(found).split("remaining")[0] == str(expected).split("remaining")[0], data
                if expected is IdempotencyRecordError:
                    assert place.peek(KEY) == data


@pytest.mark.row(52)
@pytest.mark.fault(22)
def test_invalid_text_in_the_place_of_a_record_is_unreadable_and_not_quoted(tmp_path):
    broken = "1C\udcff".encode("utf-8", "surrogateescape") + SECRET.encode()
    with closing(InSQLite(tmp_path / "r.db")) as place:
        place.plant(KEY, broken, "CAST(? AS TEXT)")
        claim = Claim(Operation(KEY, "0" * 64), TOKEN, LONG_MS, LONG_MS)
        for verb in VERBS:
            arguments = (claim, b"done") if verb == "complete" else (claim,)
            assert outcome(getattr(place.layer, verb), *arguments) is IdempotencyRecordError


@pytest.mark.row(52)
@pytest.mark.fault(22)
async def test_the_async_layer_refuses_the_same_records(any_server):
    with any_server.client() as store:
        async with AsyncRedisPersistenceLayer.from_url(any_server.url, timeout_seconds=10) as layer:
            claim = Claim(Operation(KEY, "0" * 64), "f" * 32, LONG_MS, LONG_MS)
            for data in (*cuts(GOLDEN[Status.COMPLETED][:119]), *contradictions().values()):
                store.set(layer.key_prefix + KEY, data, px=LONG_MS)
                for verb in VERBS:
                    arguments = (claim, b"done") if verb == "complete" else (claim,)
                    with pytest.raises(IdempotencyRecordError):
                        await getattr(layer, verb)(*arguments)
                assert store.get(layer.key_prefix + KEY) == data


# End to end: a record is poisoned, and a duplicate comes.


def poisonous(golden, every):
    yield from flips(golden, every)
    yield from cuts(golden)
    yield from (b"2" + golden[1:], b"{}", b"\x80\x04K\x01.", golden[:119] + b"2" + golden[120:])


def expected_of(data, golden):
    """Return the status or response that a duplicate gets from this record, according to the two formats."""
    try:
        frame = Frame.decode(data)
        if frame.fingerprint != Frame.decode(golden).fingerprint:
            return 422
        return Response(*codec.decode(frame.result))
    except IdempotencyRecordError:
        return 503


@pytest.fixture
def quiet(caplog):
    """Silence the reports of unreadable records, which would be thousands of lines."""
    caplog.set_level(logging.CRITICAL, logger="idempotency_mw")


@pytest.mark.row(52, 72)
@pytest.mark.fault(22)
def test_no_poisoned_record_makes_an_asgi_app_run_even_with_on_store_failure_pass(place, quiet):
    async def all_of_them():
        keys = []
        config = IdempotencyConfig(on_store_failure="pass")
        surface = ASGISurface(place.layer, Play(seen=lambda _: keys.append(current_execution())), config=config)
        (await surface.request(key=token_hex(8) + SECRET)).ok()
        key, golden = keys[0].key, place.peek(keys[0].storage_key)
        for data in poisonous(golden, place.every):
            place.plant(keys[0].storage_key, data)
            answer = (await surface.request(key=key)).ok()
            expected = expected_of(data, golden)
            if isinstance(expected, int):
                assert answer.status == expected
                assert answer.slug == ("key-reused" if expected == 422 else "record-unreadable")
                assert SECRET.encode() not in answer.body
            else:
                assert answer.replayed
                assert answer.status == expected.status
                assert answer.body == (b"" if answer.status in (204, 205, 304) else expected.body)
            assert surface.runs == 1
            assert place.peek(keys[0].storage_key) == data

    asyncio.run(all_of_them())


@pytest.mark.row(52, 72)
@pytest.mark.fault(22)
def test_no_poisoned_record_makes_a_wsgi_app_run(place, quiet):
    def app(environ, start_response):
        start_response("200 OK", [TEXT])
        return [b"done"]

    service = Service(app, place.layer)
    key = token_hex(8)
    service.request(key=key).ok()
    storage_key = service.executions[0].storage_key
    golden = place.peek(storage_key)
    for data in poisonous(golden, place.every):
        place.plant(storage_key, data)
        answer = service.request(key=key).ok()
        expected = expected_of(data, golden)
        assert answer.status == (expected if isinstance(expected, int) else expected.status)
        assert answer.replayed is not isinstance(expected, int)
        assert service.runs == 1
        assert place.peek(storage_key) == data


@pytest.mark.fault(22)
def test_no_poisoned_record_makes_a_function_run(place, quiet):
    executions = []

    @idempotent_function(persistence_store=place.layer)
    def charge(payload):
        executions.append(current_execution())
        return {"paid": SECRET, "a": [1, 2.5, None]}

    payload = token_hex(8)
    charge(payload)
    storage_key = executions[0].storage_key
    golden = place.peek(storage_key)
    for data in poisonous(golden, place.every):
        place.plant(storage_key, data)
        try:
            stored = decode(Frame.decode(data).result, None)
        except IdempotencyRecordError:
            kind = IdempotencyRecordError
        else:
            kind = stored.value if isinstance(stored, StoredValue) else IdempotencyExecutionFailedError
        wrong_fingerprint = data[55:119] != golden[55:119] and kind is not IdempotencyRecordError
        try:
            assert charge(payload) == kind
        except (IdempotencyRecordError, IdempotencyExecutionFailedError, IdempotencyValidationError) as error:
            assert type(error) is (IdempotencyValidationError if wrong_fingerprint else kind)
            assert SECRET not in str(error)
        assert len(executions) == 1
        assert place.peek(storage_key) == data


@pytest.mark.row(52)
@pytest.mark.fault(22)
@pytest.mark.parametrize("kind", ["list", "hash", "set", "zset", "stream", "hyperloglog"])
async def test_a_key_of_another_redis_type_makes_no_app_run_and_stays_unchanged(server, kind):
    keys = []
    async with AsyncRedisPersistenceLayer.from_url(server.url) as layer:
        surface = ASGISurface(
            layer,
            Play(seen=lambda _: keys.append(current_execution())),
            config=IdempotencyConfig(on_store_failure="pass"),
        )
        key = token_hex(8)
        (await surface.request(key=key)).ok()
        name = layer.key_prefix + keys[0].storage_key
        with server.client() as store:
            store.delete(name)
            {
                "list": lambda: store.rpush(name, "x"),
                "hash": lambda: store.hset(name, "x", "y"),
                "set": lambda: store.sadd(name, "x"),
                "zset": lambda: store.zadd(name, {"x": 1}),
                "stream": lambda: store.xadd(name, {"x": "y"}),
                "hyperloglog": lambda: store.pfadd(name, "x"),
            }[kind]()
            before = store.dump(name)
            assert (await surface.request(key=key)).ok().slug == "record-unreadable"
            assert store.dump(name) == before
            store.delete(name)
    assert surface.runs == 1


def test_no_single_bit_changes_one_status_into_another():
    for golden in GOLDEN.values():
        for data in flips(golden, every=1):
            try:
                assert Frame.decode(data).status is Frame.decode(golden).status
            except IdempotencyRecordError:
                continue


def damaged_files(whole):
    size = len(whole)
    yield from (whole[:length] for length in (1, 50, 100, 4095, 4096, size // 2, size - 1))
    for start in range(0, size, max(size // 40, 1)):
        yield whole[:start] + bytes(byte ^ 0xFF for byte in whole[start : start + 64]) + whole[start + 64 :]


@pytest.mark.fault(22, 25)
def test_a_damaged_sqlite_file_is_a_persistence_error_or_does_not_matter(tmp_path):
    path = tmp_path / "whole.db"
    claim = Claim(Operation(KEY, "0" * 64), TOKEN, LONG_MS, LONG_MS)
    with SQLitePersistenceLayer(path) as layer:
        layer.acquire(claim)
        layer.complete(claim, SECRET.encode())
    errors = 0
    for number, data in enumerate(damaged_files(path.read_bytes())):
        damaged = tmp_path / f"{number}.db"
        damaged.write_bytes(data)
        with SQLitePersistenceLayer(damaged, durability="normal") as layer:
            try:
                layer.acquire(claim)
            except IdempotencyPersistenceLayerError as error:
                errors += 1
                assert SECRET not in str(error)
    assert errors > 5
