"""I6: two callers never share a record. I13: another fingerprint is refused and leaves the record unchanged."""

import time
from dataclasses import replace
from secrets import token_hex
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from idempotency_mw import HTTPConfig, IdempotencyConfig, idempotent_function
from idempotency_mw.core.digests import canonical, digest, text
from idempotency_mw.core.machine import Reason, Reject, on_acquired
from idempotency_mw.core.record import Claim, Existing, Operation
from idempotency_mw.errors import IdempotencyValidationError
from idempotency_mw.http.exchange import Exchange, Keyed
from idempotency_mw.http.message import Request
from idempotency_mw.persistence.memory import MemoryPersistenceLayer
from idempotency_mw.persistence.redis import RedisPersistenceLayer
from idempotency_mw.persistence.sqlite import SQLitePersistenceLayer
from idempotency_mw.testing import ManualClock
from tests.asgi.driver import ASGISurface, Play
from tests.wsgi.driver import TEXT, Service

# Names that could be confused: with delimiters, lengths, Unicode forms, NUL, lone surrogates, or empty.
AWKWARD = [
    *(
        "",
        "a",
        "b",
        "ab",
        "\0",
        "a\0b",
        ":",
        "1:a",
        "0:",
        "a:1:b",
        "/",
        "//",
        "a/b",
        "\u00e9",
        "e\u0301",
        "E\u0301",
    ),
    *("\ud800", "\udfff", "\ud83d\ude00", "\U0001f600", "\ufeffa", "a ", " a", "A", "\u212a", "K", "k", "\uff41"),
]
names = st.sampled_from(AWKWARD) | st.text(max_size=6)


def identity(prefix: str, caller: str | None, method: str, path: str, key: str) -> str:
    http = HTTPConfig() if caller is None else HTTPConfig(caller=lambda request: "asked by the surface")
    exchange = Exchange(IdempotencyConfig(key_prefix=prefix), http)
    operation = exchange.operation(Request(method, path, b"", {}), Keyed(key, b"", [b""]), caller)
    assert isinstance(operation, Operation)
    return operation.storage_key


tuples = st.tuples(
    names, st.none() | names.filter(bool), st.sampled_from(["POST", "PATCH", ""]), names, names.filter(bool)
)


@pytest.mark.row(56)
@settings(max_examples=300)
@given(tuples, tuples)
@example(("", None, "POST", "/", "k"), ("", "POST", "", "/", "k"))
@example(("", "a", "POST", "/bc", "k"), ("", "ab", "POST", "/c", "k"))
@example(("", "\u00e9", "POST", "/", "k"), ("", "e\u0301", "POST", "/", "k"))
@example(("", "a\0", "POST", "/", "k"), ("", "a", "POST", "\0/", "k"))
@example(("", "\ud83d\ude00", "POST", "/", "k"), ("", "\U0001f600", "POST", "/", "k"))
def test_two_identities_have_one_storage_key_only_if_they_are_equal(one: Any, other: Any) -> None:
    assert (identity(*one) == identity(*other)) is (one == other)


@pytest.mark.row(56)
@settings(max_examples=200)
@given(tuples, names, names)
def test_a_function_and_a_request_never_have_the_same_storage_key(of_http: Any, name: str, key: str) -> None:
    for prefix in (of_http[0], ""):
        assert identity(*of_http) != digest((b"function", text(prefix), text(name), text(key)))


@pytest.mark.row(56)
@settings(max_examples=200)
@given(st.lists(names, max_size=7), st.lists(names, max_size=7))
def test_only_equal_parts_of_text_have_equal_digests(one: list[str], other: list[str]) -> None:
    assert (digest(map(text, one)) == digest(map(text, other))) is (one == other)


PAIRS = [("a", "b"), ("a", "a "), ("\u00e9", "e\u0301"), ("a:1", "a"), ("ACME", "acme"), ("a\0b", "a")]
PAIR_IDS = ["letters", "space", "unicode form", "delimiter", "case", "nul"]


def caller_of(request: Any) -> str:
    """The identity as an authentication gives it: any text, also one that no header can hold."""
    return PEOPLE[request.headers["x-person"]]


PEOPLE: dict[str, str] = {}


@pytest.mark.row(56)
@pytest.mark.parametrize("pair", PAIRS, ids=PAIR_IDS)
async def test_two_tenants_never_get_each_others_answers_on_asgi(pair: tuple[str, str]) -> None:
    PEOPLE.update(zip("12", pair, strict=True))
    surface = ASGISurface(
        MemoryPersistenceLayer(),
        lambda body: Play(chunks=(b"for " + body,)),
        http=HTTPConfig(caller=caller_of),
    )
    for _ in range(2):
        for person in ("1", "2"):
            answer = (await surface.request(person.encode(), headers=[("x-person", person)])).ok()
            assert answer.body == b"for " + person.encode()
    assert surface.runs == 2


@pytest.mark.row(56)
@pytest.mark.parametrize("pair", PAIRS, ids=PAIR_IDS)
def test_two_tenants_never_get_each_others_answers_on_wsgi(pair: tuple[str, str]) -> None:
    PEOPLE.update(zip("12", pair, strict=True))

    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [TEXT])
        return [b"for " + environ["HTTP_X_PERSON"].encode()]

    service = Service(app, MemoryPersistenceLayer(), http=HTTPConfig(caller=caller_of))
    for _ in range(2):
        for person in ("1", "2"):
            answer = service.request(headers=[("x-person", person)]).ok()
            assert answer.body == b"for " + person.encode()
    assert service.runs == 2


# I13, in any state and on any layer.

STATES = ("in progress", "lapsed", "completed", "tombstone")
LONG_MS = 600_000


class Clocked:
    """A layer on which a lease can lapse: by its clock, or by a short lease and real time."""

    def __init__(self, layer: Any, clock: ManualClock | None) -> None:
        self.layer = layer
        self.clock = clock

    def reach(self, state: str, claim: Claim, result: bytes) -> None:
        lapses = state == "lapsed"
        assert self.layer.acquire(replace(claim, lease_ms=1 if lapses else LONG_MS))
        if lapses:
            self.clock.advance(0.01) if self.clock is not None else time.sleep(0.01)
        elif state != "in progress":
            self.layer.complete(claim, result if state == "completed" else None)


@pytest.fixture(scope="module", params=["memory", "sqlite", "redis"])
def clocked(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    if request.param == "memory":
        clock = ManualClock()
        yield Clocked(MemoryPersistenceLayer(clock=clock), clock)
    elif request.param == "sqlite":
        clock = ManualClock()
        path = tmp_path_factory.mktemp("isolation") / "r.db"
        with SQLitePersistenceLayer(path, durability="normal", clock=clock) as layer:
            yield Clocked(layer, clock)
    else:
        with RedisPersistenceLayer.from_url(
            request.getfixturevalue("any_server").url, timeout_seconds=10
        ) as layer:
            yield Clocked(layer, None)


hexadecimal = st.integers(0, 2**256 - 1).map(lambda number: f"{number:064x}")


@pytest.mark.fault(23)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    state=st.sampled_from(STATES),
    fingerprints=st.tuples(hexadecimal, hexadecimal),
    result=st.binary(max_size=40),
    may_take_over=st.booleans(),
    asks=st.integers(1, 3),
)
def test_another_fingerprint_is_refused_and_leaves_the_record_unchanged(
    clocked: Clocked,
    state: str,
    fingerprints: tuple[str, str],
    result: bytes,
    may_take_over: bool,
    asks: int,
) -> None:
    assume(fingerprints[0] != fingerprints[1])
    key = token_hex(32)
    owner = Claim(Operation(key, fingerprints[0]), token_hex(16), LONG_MS, LONG_MS, may_take_over)
    clocked.reach(state, owner, result)
    before = standing(clocked, key)
    for _ in range(asks):
        other = Claim(Operation(key, fingerprints[1]), token_hex(16), LONG_MS, LONG_MS, may_take_over)
        assert on_acquired(other, clocked.layer.acquire(other)) == Reject(Reason.REUSED)
        assert clocked.layer.extend(other) is clocked.layer.release(other) is False
        clocked.layer.complete(other, b"stolen")
    assert standing(clocked, key) == before
    assert before.fingerprint == fingerprints[0]
    assert before.attempt == 1


def standing(clocked: Clocked, key: str) -> Any:
    """Return the record, with a remaining time that does not depend on when it is read."""
    probe = Claim(Operation(key, "0" * 64), "f" * 32, 1, 1, may_take_over=False)
    found = clocked.layer.acquire(probe)
    assert isinstance(found, Existing)
    return replace(found.record, remaining_ms=min(found.record.remaining_ms, 1))


@pytest.mark.fault(23)
@settings(max_examples=40)
@given(st.sampled_from(["returned", "raised", "not kept"]), names, names)
def test_a_function_refuses_another_payload_in_any_state(state: str, first: str, second: str) -> None:
    assume(canonical(first) != canonical(second))  # in JSON two halves of a surrogate pair are one character
    runs = []
    config = IdempotencyConfig(
        event_key_jmespath="key", payload_validation_jmespath="about", on_error="store", heartbeat=False
    )

    @idempotent_function(persistence_store=MemoryPersistenceLayer(), config=config)
    def function(given: Any) -> Any:
        runs.append(given)
        if state == "raised":
            raise ValueError("no")
        return object() if state == "not kept" else "done"

    try:
        function({"key": "k", "about": first})
    except ValueError:
        assert state == "raised"
    for _ in range(2):
        with pytest.raises(IdempotencyValidationError):
            function({"key": "k", "about": second})
    assert len(runs) == 1
