"""The fuzz run in a small size; deliberate faults that it must find; and faults that it has found."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from idempotency_mw.core.digests import canonical
from idempotency_mw.core.record import Settled
from idempotency_mw.functions.serializers import StoredValue, decode, encode_value
from idempotency_mw.http import codec
from idempotency_mw.http.message import Response
from idempotency_mw.persistence.memory import MemoryPersistenceLayer
from proof.fuzz import Tried, asgi, guided, programs, try_all, try_asgi, try_wsgi, wsgi
from proof.fuzz.inputs import CORPORA, inputs
from proof.fuzz.readers import READERS
from proof.fuzz.scripts import disagreements
from tests.asgi.driver import ask
from tests.wsgi.driver import NotingLayer, serve

PROGRAMS = 1000


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("CRITICAL", logger="idempotency_mw")  # failing stores are reported, and fail on purpose here


@pytest.mark.parametrize("name", READERS)
@settings(max_examples=60)
@given(data=st.binary(max_size=200))
def test_any_bytes_have_a_declared_outcome(name: str, data: bytes) -> None:
    READERS[name](data)


@pytest.mark.fault(9, 10, 11, 12, 13)
def test_any_order_of_asgi_events_has_a_declared_outcome() -> None:
    tried = try_asgi(0, PROGRAMS)
    assert tried.surprises == []
    assert tried.count == PROGRAMS


@pytest.mark.fault(9, 10, 11)
def test_any_order_of_wsgi_calls_has_a_declared_outcome() -> None:
    tried = try_wsgi(0, PROGRAMS)
    assert tried.surprises == []
    assert tried.count == PROGRAMS


@pytest.mark.fault(22)
def test_the_scripts_read_changed_records_as_python_does() -> None:
    for name, found in disagreements(seed=7, count=60):
        assert found == [], name


def test_one_seed_gives_the_same_inputs_and_the_same_programs() -> None:
    for name in READERS:
        assert list(inputs(name, 3, 50)) == list(inputs(name, 3, 50)) != list(inputs(name, 4, 50))
    assert set(CORPORA) == set(READERS)
    for drawn in (asgi.Program.drawn, wsgi.Program.drawn):
        assert repr(drawn(5)).split(" at 0x")[0] == repr(drawn(5)).split(" at 0x")[0]


def test_a_slow_or_raising_input_is_a_surprise() -> None:
    def trial(thing: Any) -> None:
        if thing == 1:
            raise KeyError(thing)
        if thing == 2:
            ends = time.thread_time() + 0.06
            while time.thread_time() < ends:
                pass

    tried = try_all(trial, range(3))
    assert tried.surprises[0].startswith("KeyError:")
    assert len(tried.surprises) == 2
    assert not tried.holds
    assert Tried(3, 0.01, []).holds


# Deliberate faults are found


def keep_truncated_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    from idempotency_mw.http.capture import Capture

    monkeypatch.setattr(Capture, "is_whole", property(lambda self: self.is_started))


def settle_after_sending(monkeypatch: pytest.MonkeyPatch) -> None:
    """The surfaces never know that an answer is whole, and send its last byte before they settle."""
    from idempotency_mw.http.capture import Capture

    monkeypatch.setattr(Capture, "is_whole", property(lambda self: False))


def acknowledge_without_storing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MemoryPersistenceLayer, "complete", lambda self, claim, result: Settled())


def never_release(monkeypatch: pytest.MonkeyPatch) -> None:
    def extend_instead(self: Any, claim: Any) -> bool:

        return self.extend(replace(claim, lease_ms=10**7))

    monkeypatch.setattr(MemoryPersistenceLayer, "release", extend_instead)


def raise_an_undeclared_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    from idempotency_mw.http.capture import Capture

    def start(self: Any, status: int, headers: Any) -> None:
        self._nothing = status

    monkeypatch.setattr(Capture, "start", start)


@pytest.mark.parametrize(
    "fault",
    [
        keep_truncated_answers,
        settle_after_sending,
        acknowledge_without_storing,
        never_release,
        raise_an_undeclared_exception,
    ],
)
@pytest.mark.parametrize("tried", [try_asgi, try_wsgi])
def test_a_deliberate_fault_is_found(
    monkeypatch: pytest.MonkeyPatch,
    fault: Callable[[pytest.MonkeyPatch], None],
    tried: Callable[[int, int], Tried],
) -> None:
    fault(monkeypatch)
    assert tried(0, 300).surprises


# Faults that the fuzzer has found


@pytest.mark.parametrize("refused", [5, [1, 2], "text"])
async def test_a_refused_body_does_not_end_the_answer(refused: object) -> None:
    """The app catches the refusal and continues; its next message ends the answer, which is stored."""
    from idempotency_mw.asgi import IdempotencyMiddleware

    store = MemoryPersistenceLayer()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        with pytest.raises(TypeError):
            await send({"type": "http.response.body", "body": refused})
        await send({"type": "http.response.body", "body": b"done"})

    middleware = IdempotencyMiddleware(app, persistence_store=store)
    headers = [("Idempotency-Key", "canary-key-1")]
    first = (await ask(middleware, headers=headers)).ok()
    second = (await ask(middleware, headers=headers)).ok()
    assert first.body == second.body == b"done"
    assert second.replayed


@pytest.mark.parametrize("exc_info", [(), (None, None, None), None])
def test_exc_info_without_an_exception_does_not_restart_an_answer(exc_info: Any) -> None:
    from idempotency_mw.wsgi import IdempotencyMiddleware

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        yield b"some"
        start_response("500 Oh", [], exc_info)

    store = NotingLayer(MemoryPersistenceLayer())
    answer = serve(IdempotencyMiddleware(app, persistence_store=store))
    assert isinstance(answer.raised, AssertionError)
    assert store.record() is None


def test_a_header_value_that_is_not_a_string_is_a_type_error() -> None:
    from idempotency_mw.wsgi import IdempotencyMiddleware

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [("x", 5)])
        return []

    answer = serve(IdempotencyMiddleware(app, persistence_store=MemoryPersistenceLayer()))
    assert isinstance(answer.raised, TypeError)


# Structured values, drawn by hypothesis: whatever can be written is read back unchanged

names = st.from_regex(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,20}", fullmatch=True)
values = st.binary(max_size=30).filter(lambda value: not set(value) & set(b"\r\n\x00"))
responses = st.builds(
    Response, st.integers(200, 599), st.lists(st.tuples(names, values), max_size=6).map(tuple), st.binary()
)


@settings(max_examples=60)
@given(responses)
def test_any_valid_response_is_read_back_unchanged(response: Response) -> None:
    data = codec.encode(response.status, response.headers, response.body)
    assert data is not None
    assert Response(*codec.decode(data)) == response


@settings(max_examples=60)
@given(st.integers(), st.lists(st.tuples(st.binary(max_size=9), st.binary(max_size=9)), max_size=4).map(tuple))
def test_any_other_response_is_read_back_unchanged_or_not_kept(status: int, headers: Any) -> None:
    data = codec.encode(status, headers, b"body")
    assert data is None or codec.decode(data) == (status, headers, b"body")


json_data = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=60)
@given(json_data)
def test_any_json_result_is_read_back_unchanged(value: Any) -> None:
    data = encode_value(value, None)
    assert data is not None
    assert decode(data, None) == StoredValue(value)


@settings(max_examples=60)
@given(json_data.filter(lambda data: data == data), st.sampled_from(["utf-8", "utf-16", "utf-32", "utf-8-sig"]))
def test_any_json_document_in_any_encoding_is_read_or_refused(data: Any, encoding: str) -> None:
    import json

    for text in (json.dumps(data), json.dumps(data, ensure_ascii=False, indent=1)):
        READERS["body"](text.encode(encoding, "surrogatepass"))
    finite = json.loads(json.dumps(data), parse_constant=lambda _: None)
    assert json.loads(canonical(finite)) == finite


@pytest.mark.skipif(not guided.is_there(), reason="atheris is not installed")
def test_coverage_guided_inputs_of_one_second_break_nothing() -> None:
    tried, broken = guided.explored("header", 1)
    assert broken is None
    assert tried > 0


def test_the_oracle_takes_a_second_start_as_a_new_answer() -> None:
    whole = programs.Whole(is_head=False)
    whole.start(404, 0)
    whole.start(200, 2)
    assert whole.bodies() == set()
    whole.add(b"ab")
    assert whole.bodies() == {b"ab"}
