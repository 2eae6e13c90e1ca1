"""The state machine for hypothesis: it makes each step on the model and on the stores.

It compares the answers, and the record's bytes and expiry, which it reads past the layer.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from secrets import token_hex
from typing import Any

from hypothesis import HealthCheck, Phase, Verbosity, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    multiple,
    rule,
    run_state_machine_as_test,
)

from idempotency_mw.core.record import Acquired, Claim, Operation
from idempotency_mw.persistence.frame import Frame
from idempotency_mw.persistence.threaded import as_async
from proof.stateful.model import Model
from tests.faults.stores import Store

__all__ = ["STEPS", "Harness", "Tally", "machine_over", "try_histories"]

STEPS = 30
"""Of each history."""
MINUTE = 60_000
"""All durations are whole minutes, so that the real duration of a step changes no answer."""
Terms = tuple[int, str, int, int, bool]
"""Key, fingerprint, minutes of lease, minutes of retention, and whether a takeover is allowed."""


# The stores, and the comparison


@dataclass
class Tally:
    """What all histories of a run have tried."""

    histories: int = 0
    steps: int = 0
    looks: int = 0
    """How often a record was read past the layer, with its expiry."""
    replies: set[str] = field(default_factory=set)
    """The kinds of answers that were seen."""


class Harness:
    """One store with its blocking and its async layer, and a runner for the async one.

    `around` may wrap a layer; tests put faulty layers there.
    """

    def __init__(
        self, store: Store, runner: asyncio.Runner, *, around: Callable[[Any, Store], Any] = lambda layer, _: layer
    ) -> None:
        self.store = store
        self._runner = runner
        self._own = [store.layer(is_async=False), store.layer(is_async=True)]
        self._layers = [around(self._own[0], store), as_async(around(self._own[1], store))]

    def ask(self, verb: str, arguments: Sequence[Any], *, in_async: bool) -> Any:
        """Call a verb of one of the two layers."""
        called = getattr(self._layers[in_async], verb)(*arguments)
        return self._runner.run(called) if in_async else called

    def close(self) -> None:
        """Close the layers and the store."""
        self._own[0].close()
        aclose = getattr(self._own[1], "aclose", None)
        if aclose is not None:
            self._runner.run(aclose())
        self.store.close()


def assert_same(harness: Harness, seen: Any, wanted: Any) -> None:
    """Compare two answers. A remaining time may be shorter than the model's, by the time that the steps took."""
    assert _timeless(seen) == _timeless(wanted), f"{harness.store.kind}: {seen} where the model has {wanted}"
    left, expected = _left(seen), _left(wanted)
    assert 0 <= expected - left <= harness.store.slack_ms or left == expected, (
        f"{harness.store.kind}: {seen}, {wanted}"
    )


def _timeless(answer: Any) -> Any:
    record = getattr(answer, "record", None)
    return answer if record is None else type(answer)(replace(record, remaining_ms=0))


def _left(answer: Any) -> int:
    record = getattr(answer, "record", None)
    return 0 if record is None else record.remaining_ms


def assert_stands(harness: Harness, claim: Claim, model: Model) -> None:
    """Compare the store's record and its expiry with the model's."""
    data, expires_in = harness.store.peek(claim.storage_key)
    stands = model.standing(claim)
    where = f"{harness.store.kind} holds {data!r} for {expires_in} ms where the model has {stands}"
    if stands is None or data is None:
        assert stands is data is None, where
        return
    frame = Frame.decode(data)
    assert frame.record(0) == replace(model.record(stands), remaining_ms=0), where
    assert frame.token == stands.token, where
    assert expires_in is not None, where
    assert 0 <= stands.expires - model.now - expires_in <= harness.store.slack_ms, where


# The machine

# One draw for all terms of a claim, because drawing takes longer than the step itself. Repeated values are drawn
# more often.
TERMS = st.sampled_from(
    list(product((0, 0, 1), ("a" * 64, "a" * 64, "b" * 64), (1, 5), (60, 60, 3, 1), (True, True, False)))
)
LEASES = st.sampled_from([1, 2, 5])
MINUTES = st.sampled_from([1, 2, 5, 5, 60])
RESULTS = st.sampled_from(
    [None, b"", b"done", bytes(range(256)), b"\x00" * 119, b"\r\n$-1\r\n", b"x" * 200_000]
) | st.binary(max_size=40)
ASYNC = st.booleans()


class Layers(RuleBasedStateMachine):
    """Makes each step on every harness and on the model."""

    harnesses: Sequence[Harness] = ()
    tally = Tally()
    claims = Bundle("claims")

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.keys = [token_hex(32) for _ in range(2)]
        self.tally.histories += 1

    @initialize(target=claims, terms=TERMS, in_async=ASYNC)
    def someone_is_first(self, *, terms: Terms, in_async: bool) -> Claim:
        claim = self._claim(terms)
        self._step("acquire", claim, in_async=in_async)
        return claim

    @rule(target=claims, terms=TERMS)
    def a_stranger_appears(self, *, terms: Terms) -> Claim:
        return self._claim(terms)

    @rule(target=claims, terms=TERMS, in_async=ASYNC)
    def someone_acquires(self, *, terms: Terms, in_async: bool) -> Any:
        claim = self._claim(terms)
        answer = self._step("acquire", claim, in_async=in_async)
        return claim if isinstance(answer, Acquired) else multiple()

    @rule(target=claims, claim=claims, may=st.booleans(), in_async=ASYNC)
    def a_rival_acquires(self, *, claim: Claim, may: bool, in_async: bool) -> Claim:
        rival = replace(claim, token=token_hex(16), may_take_over=may)
        self._step("acquire", rival, in_async=in_async)
        return rival

    @rule(claim=claims, lease=LEASES, in_async=ASYNC)
    def acquires_again(self, *, claim: Claim, lease: int, in_async: bool) -> None:
        self._step("acquire", replace(claim, lease_ms=lease * MINUTE), in_async=in_async)

    @rule(claim=claims, in_async=ASYNC)
    def extends(self, *, claim: Claim, in_async: bool) -> None:
        self._step("extend", claim, in_async=in_async)

    @rule(claim=claims, result=RESULTS, in_async=ASYNC)
    def completes(self, *, claim: Claim, result: bytes | None, in_async: bool) -> None:
        self._step("complete", claim, result, in_async=in_async)

    @rule(claim=claims, in_async=ASYNC)
    def releases(self, *, claim: Claim, in_async: bool) -> None:
        self._step("release", claim, in_async=in_async)

    @rule(minutes=MINUTES)
    def time_passes(self, *, minutes: int) -> None:
        self.tally.steps += 1
        self.model.now += minutes * MINUTE
        for harness in self.harnesses:
            harness.store.pass_time(minutes * 60)

    def teardown(self) -> None:
        for harness in self.harnesses:
            harness.store.lose()

    def _claim(self, terms: Terms) -> Claim:
        key, fingerprint, lease, retention, may = terms
        operation = Operation(self.keys[key], fingerprint)
        return Claim(operation, token_hex(16), lease * MINUTE, retention * MINUTE, may_take_over=may)

    def _step(self, verb: str, claim: Claim, *result: Any, in_async: bool) -> Any:
        self.tally.steps += 1
        wanted = getattr(self.model, verb)(claim, *result)
        for harness in self.harnesses:
            assert_same(harness, harness.ask(verb, (claim, *result), in_async=in_async), wanted)
            assert_stands(harness, claim, self.model)
        self.tally.looks += self.model.standing(claim) is not None
        self.tally.replies.add(_named(verb, wanted))
        return wanted


def machine_over(harnesses: Sequence[Harness], tally: Tally) -> type[RuleBasedStateMachine]:
    """Return the machine over these stores."""
    return type("LayersTogether", (Layers,), {"harnesses": harnesses, "tally": tally})


def _named(verb: str, answer: Any) -> str:
    match answer:
        case bool():
            return f"{verb}: {answer}"
        case Acquired(attempt):
            return f"{verb}: {'Acquired' if attempt == 1 else 'taken over'}"
    record = getattr(answer, "record", None)
    return f"{verb}: {type(answer).__name__}{f' {record.status.value}' if record else ''}"


def try_histories(
    harnesses: Sequence[Harness], histories: int, tally: Tally, *, same: bool = True, shrinks: bool = True
) -> None:
    """Let hypothesis draw that many histories, `same` as the last time; raise the first difference.

    `shrinks`: in the shortest history that shows it.
    """
    run_state_machine_as_test(
        machine_over(harnesses, tally),
        settings=settings(
            max_examples=histories,
            stateful_step_count=STEPS,
            deadline=None,
            database=None,
            derandomize=same,
            verbosity=Verbosity.quiet,
            phases=(Phase.generate, Phase.shrink) if shrinks else (Phase.generate,),
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        ),
        _min_steps=STEPS,  # without this, hypothesis prefers short histories
    )
