"""The Lua scripts and `verbs.py` do the same, and accept the same bytes as a record."""

from dataclasses import replace
from secrets import token_hex

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from idempotency_mw.core.record import Claim, Existing, Lost, Operation, Status
from idempotency_mw.errors import IdempotencyRecordError
from idempotency_mw.persistence import verbs
from idempotency_mw.persistence.frame import Frame
from idempotency_mw.persistence.memory import MemoryPersistenceLayer
from idempotency_mw.persistence.redis import RedisPersistenceLayer
from idempotency_mw.persistence.redis.commands import LARGE
from idempotency_mw.persistence.verbs import StoredFrame
from idempotency_mw.testing import ManualClock
from tests.memory import held
from tests.persistence.test_frame import GOLDEN, TOKEN, contradictions, flips

LONG_MS = 600_000
KEY = "the-key"
OTHER_FINGERPRINT = "0" * 64


@pytest.fixture(scope="module")
def layer(server):
    with RedisPersistenceLayer.from_url(server.url, timeout_seconds=10) as layer:
        yield layer


@pytest.fixture
def store(server):
    with server.client() as client:
        yield client


def outcome(verb, *arguments):
    """Return the answer without its times, or the class of the error."""
    try:
        answer = verb(*arguments)
    except IdempotencyRecordError as error:
        return type(error)
    if isinstance(answer, Existing | Lost) and answer.record is not None:
        return type(answer)(replace(answer.record, remaining_ms=0))
    return answer


tokens = st.sampled_from(["a" * 32, "b" * 32, "c" * 32])
# A token belongs to one request only: each claim has a fresh one.
fingerprints = {"a" * 32: "1" * 64, "b" * 32: "1" * 64, "c" * 32: "2" * 64}
durations = st.sampled_from([LONG_MS, 2 * LONG_MS])
steps = st.lists(
    st.tuples(
        st.sampled_from(["acquire", "acquire", "extend", "complete", "release", "lapse"]),
        st.integers(0, 1),
        tokens,
        durations,
        durations,
        st.booleans(),
        st.none() | st.binary(max_size=5),
    ),
    max_size=30,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=steps)
def test_any_history_has_the_same_answers_in_redis_and_in_memory(layer, store, steps):
    clock = ManualClock()
    memory = MemoryPersistenceLayer(clock=clock)
    names = [token_hex(8), token_hex(8)]
    for verb, key, token, lease_ms, retention_ms, may_take_over, result in steps:
        name = names[key]
        if verb == "lapse":
            lapse(memory, store, clock, layer.key_prefix, name)
            continue
        claim = Claim(Operation(name, fingerprints[token]), token, lease_ms, retention_ms, may_take_over)
        arguments = (claim, result) if verb == "complete" else (claim,)
        assert outcome(getattr(layer, verb), *arguments) == outcome(getattr(memory, verb), *arguments)
        assert shape_in_redis(layer, store, name) == shape_in_memory(memory, clock, name)


def lapse(memory, store, clock, prefix, name):
    """End the lease of the record in both stores, without moving a clock: the server's can't be moved."""
    found = held(memory).get(name)
    data = store.get(prefix + name)
    if found is not None and found.frame.status is Status.IN_PROGRESS:
        held(memory)[name] = replace(found, frame=replace(found.frame, lease_until_ms=int(clock() * 1000)))
        store.set(prefix + name, replace(Frame.decode(data), lease_until_ms=1).encode(), keepttl=True)


def shape_in_redis(layer, store, name):
    """Return the record, the minutes that its lease has left, and the minutes until it expires."""
    data = store.get(layer.key_prefix + name)
    if data is None:
        return None
    frame = Frame.decode(data)
    seconds, micros = store.time()
    left = round((frame.lease_until_ms - seconds * 1000 - micros // 1000) / 60_000)
    return replace(frame, lease_until_ms=0), max(left, 0), round(store.pttl(layer.key_prefix + name) / 60_000)


def shape_in_memory(memory, clock, name):
    found = held(memory).get(name)
    if found is None:
        return None
    now_ms = int(clock() * 1000)
    left = round((found.frame.lease_until_ms - now_ms) / 60_000)
    return replace(found.frame, lease_until_ms=0), max(left, 0), round((found.expires_ms - now_ms) / 60_000)


def planted(mine):
    for golden in GOLDEN.values():
        yield golden
        yield from (golden[:length] for length in range(len(golden)))
    yield from contradictions().values()
    if mine:
        yield from flips(GOLDEN[Status.IN_PROGRESS])
        yield from flips(GOLDEN[Status.COMPLETED])


def by_the_model(verb, data, claim, now_ms):
    """Return the answer that `verbs.py` gives, and whether the record has changed after it."""
    standing = StoredFrame(Frame.decode(data), now_ms + LONG_MS)
    if verb == "acquire":
        answer, write = verbs.acquire(standing, claim, now_ms)
    elif verb == "complete":
        answer, write = verbs.complete(standing, claim, b"done", now_ms)
    elif verb == "extend":
        write = verbs.extend(standing, claim, now_ms)
        answer = write is not None
    else:
        answer = write = verbs.release(standing, claim)
    return answer, bool(write)


@pytest.mark.row(52)
@pytest.mark.fault(22)
@pytest.mark.parametrize("verb", ["acquire", "extend", "complete", "release"])
@pytest.mark.parametrize("mine", [True, False], ids=["the own token", "another token"])
def test_scripts_and_model_agree_on_every_flipped_bit_and_every_cut(layer, store, verb, mine):
    fingerprint = Frame.decode(GOLDEN[Status.COMPLETED]).fingerprint
    claim = Claim(Operation(KEY, fingerprint), TOKEN if mine else "f" * 32, LONG_MS, LONG_MS)
    arguments = (claim, b"done") if verb == "complete" else (claim,)
    now_ms = store.time()[0] * 1000
    for data in planted(mine):
        store.set(layer.key_prefix + KEY, data, px=LONG_MS)
        expected = outcome(by_the_model, verb, data, claim, now_ms)
        wanted, changes = (expected, False) if expected is IdempotencyRecordError else expected
        assert outcome(getattr(layer, verb), *arguments) == outcome(lambda wanted=wanted: wanted), data
        assert changes or store.get(layer.key_prefix + KEY) == data


@pytest.mark.row(52)
@pytest.mark.fault(22)
@pytest.mark.parametrize("verb", ["acquire", "extend", "complete", "release"])
@pytest.mark.parametrize("kind", ["list", "hash", "set", "zset", "stream"])
def test_a_key_of_another_type_is_unreadable_and_stays(layer, store, verb, kind):
    key = layer.key_prefix + KEY
    store.delete(key)
    plant = {
        "list": lambda: store.rpush(key, "x"),
        "hash": lambda: store.hset(key, "x", "y"),
        "set": lambda: store.sadd(key, "x"),
        "zset": lambda: store.zadd(key, {"x": 1}),
        "stream": lambda: store.xadd(key, {"x": "y"}),
    }
    plant[kind]()
    store.pexpire(key, LONG_MS)
    claim = Claim(Operation(KEY, OTHER_FINGERPRINT), TOKEN, LONG_MS, LONG_MS)
    arguments = (claim, b"done") if verb == "complete" else (claim,)
    with pytest.raises(IdempotencyRecordError):
        getattr(layer, verb)(*arguments)
    assert store.type(key) == kind.encode()
    store.delete(key)


def test_the_remaining_time_of_a_completed_record_is_that_of_its_key(layer, store):
    claim = Claim(Operation(token_hex(8), OTHER_FINGERPRINT), TOKEN, 1000, LONG_MS)
    other = replace(claim, token="f" * 32)
    layer.acquire(claim)
    running = store.get(layer.key_prefix + claim.storage_key)
    assert 0 < layer.acquire(other).record.remaining_ms <= 1000
    assert 0 < layer.complete(other, b"").record.remaining_ms <= 1000
    layer.complete(claim, b"done")
    completed = store.get(layer.key_prefix + claim.storage_key)
    assert completed == b"1C" + running[2:] + b"done"
    for found in (layer.acquire(other), layer.complete(other, b""), layer.complete(other, b"x" * LARGE)):
        assert LONG_MS - 10_000 < found.record.remaining_ms <= LONG_MS


def test_a_record_without_expiry_is_not_ours_and_has_nothing_remaining(layer, store):
    claim = Claim(Operation(KEY, OTHER_FINGERPRINT), "f" * 32, LONG_MS, LONG_MS)
    store.set(layer.key_prefix + KEY, GOLDEN[Status.COMPLETED])
    for found in (layer.acquire(claim), layer.complete(claim, b""), layer.complete(claim, b"x" * LARGE)):
        assert found.record.remaining_ms == 0
    store.delete(layer.key_prefix + KEY)


@pytest.mark.parametrize("result", [b"done", b"x" * LARGE], ids=["small", "large"])
def test_completing_does_not_ask_the_server_for_its_time(layer, store, result):
    claim = Claim(Operation(token_hex(8), OTHER_FINGERPRINT), TOKEN, LONG_MS, LONG_MS)
    layer.acquire(claim)
    store.config_resetstat()
    layer.complete(claim, result)
    assert not {"cmdstat_time", "cmdstat_pttl"} & store.info("commandstats").keys()
