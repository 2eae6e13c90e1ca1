"""Every layer against one model, in histories that hypothesis writes: acquire, extend, complete, release, lapse.

The model is a plain dict, written from what is promised of the four verbs and from nothing in the package that
implements them. Each step is made on the store through its blocking or its async layer, as the history says, so
that both work on the same records. After each step the record's bytes and its expiry are read past the layer.

Besides one history at a time on each layer, there are histories on all layers at once: the same history has the
same outcome everywhere.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
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

from idempotency_mw.core.record import Acquired, Claim, Existing, Lost, Operation, Record, Settled, Status
from idempotency_mw.persistence.frame import Frame
from idempotency_mw.persistence.threaded import as_async
from proof.figures import Figure, Progress, Size
from tests.faults.stores import KINDS, Grounds, Store, is_there

__all__ = ["Bench", "Model", "Tally", "machine_over", "run", "try_histories"]

STEPS = 30
HISTORIES = {Size.CI: 200, Size.LONG: 5_000}
AT_ONCE = {Size.CI: 40, Size.LONG: 1_000}
SHORTER = 1.25
"""So many more histories are written than are wanted whole: hypothesis breaks some off."""
Terms = tuple[int, str, int, int, bool]
"""Key, fingerprint, minutes of lease and of retention, and whether a takeover is allowed."""
MINUTE = 60_000
"""All durations are whole minutes: what a step takes in reality decides nothing."""


# The model: what is promised, and nothing of how it is done.


@dataclass
class Standing:
    """What stands for one key."""

    status: Status
    token: str
    fingerprint: str
    attempt: int
    lease_until: int
    expires: int
    result: bytes | None = None


class Model:
    """The four verbs over a dict."""

    def __init__(self) -> None:
        self.now = 0
        self.keys: dict[str, Standing] = {}

    def acquire(self, claim: Claim) -> Acquired | Existing:
        """Own the key, if it is free, already this claim's, or lapsed and may be taken over."""
        stands = self.standing(claim)
        if stands is None:
            attempt = 1
        elif self._is_owner(claim, stands):
            attempt = stands.attempt
        elif self._is_there_for_the_taking(claim, stands):
            attempt = stands.attempt + 1
        else:
            return Existing(self.record(stands))
        running = Standing(Status.IN_PROGRESS, claim.token, claim.fingerprint, attempt, 0, 0)
        self.keys[claim.storage_key] = running
        self._renew(claim, running)
        return Acquired(attempt)

    def extend(self, claim: Claim) -> bool:
        """Renew the lease of a claim that stands."""
        stands = self.standing(claim)
        if stands is None or not self._is_owner(claim, stands):
            return False
        self._renew(claim, stands)
        return True

    def complete(self, claim: Claim, result: bytes | None) -> Settled | Lost:
        """Make the result the answer. Completed is final."""
        stands = self.standing(claim)
        if stands is None:
            return Lost(None)
        if stands.token != claim.token:
            return Lost(self.record(stands))
        if stands.status is Status.IN_PROGRESS:
            stands.status = Status.NOT_KEPT if result is None else Status.COMPLETED
            stands.result = result
            stands.expires = self.now + claim.retention_ms
        return Settled()

    def release(self, claim: Claim) -> bool:
        """Free the key of a claim that stands."""
        stands = self.standing(claim)
        if stands is None or not self._is_owner(claim, stands):
            return False
        del self.keys[claim.storage_key]
        return True

    def standing(self, claim: Claim) -> Standing | None:
        """Return what has not expired."""
        stands = self.keys.get(claim.storage_key)
        return stands if stands is not None and stands.expires > self.now else None

    def record(self, stands: Standing) -> Record:
        """Return what anyone may see of it."""
        until = stands.lease_until if stands.status is Status.IN_PROGRESS else stands.expires
        left = max(until - self.now, 0)
        return Record(stands.status, stands.attempt, stands.fingerprint, left, stands.result)

    def _renew(self, claim: Claim, stands: Standing) -> None:
        stands.lease_until = self.now + claim.lease_ms
        stands.expires = self.now + max(claim.lease_ms, claim.retention_ms)

    def _is_owner(self, claim: Claim, stands: Standing) -> bool:
        return stands.status is Status.IN_PROGRESS and stands.token == claim.token

    def _is_there_for_the_taking(self, claim: Claim, stands: Standing) -> bool:
        is_lapsed = stands.status is Status.IN_PROGRESS and stands.lease_until <= self.now
        return is_lapsed and claim.may_take_over and stands.fingerprint == claim.fingerprint


# The stores, and what is compared.


@dataclass
class Tally:
    """What was tried, over all histories of a run."""

    histories: int = 0
    steps: int = 0
    looks: int = 0
    """How often a record that stands was looked at, and its expiry."""
    replies: set[str] = field(default_factory=set)
    """The kinds of answers that were seen: histories that never meet one show nothing of it."""


class Bench:
    """One store, its blocking and its async layer, and a loop for the latter."""

    def __init__(
        self, store: Store, runner: asyncio.Runner, *, around: Callable[[Any], Any] = lambda it: it
    ) -> None:
        self.store = store
        self._runner = runner
        self._own = [store.layer(is_async=False), store.layer(is_async=True)]
        self._layers = [around(self._own[0]), as_async(around(self._own[1]))]

    def ask(self, verb: str, arguments: Sequence[Any], *, in_async: bool) -> Any:
        """Call the verb of one of the two layers."""
        called = getattr(self._layers[in_async], verb)(*arguments)
        return self._runner.run(called) if in_async else called

    def close(self) -> None:
        """Close the layers."""
        self._own[0].close()
        aclose = getattr(self._own[1], "aclose", None)
        if aclose is not None:
            self._runner.run(aclose())
        self.store.close()


def assert_same(bench: Bench, seen: Any, wanted: Any) -> None:
    """Compare two answers: what is left of a duration may be less, by what the steps took."""
    assert _timeless(seen) == _timeless(wanted), f"{bench.store.kind}: {seen} where the model has {wanted}"
    left, expected = _left(seen), _left(wanted)
    assert 0 <= expected - left <= bench.store.slack_ms or left == expected, (
        f"{bench.store.kind}: {seen}, {wanted}"
    )


def _timeless(answer: Any) -> Any:
    record = getattr(answer, "record", None)
    return answer if record is None else type(answer)(replace(record, remaining_ms=0))


def _left(answer: Any) -> int:
    record = getattr(answer, "record", None)
    return 0 if record is None else record.remaining_ms


def assert_stands(bench: Bench, claim: Claim, model: Model) -> None:
    """Compare what the store holds, and when it expires, with the model."""
    data, expires_in = bench.store.peek(claim.storage_key)
    stands = model.standing(claim)
    where = f"{bench.store.kind} holds {data!r} for {expires_in} ms where the model has {stands}"
    if stands is None or data is None:
        assert stands is data is None, where
        return
    frame = Frame.decode(data)
    assert frame.record(frame.until_ms) == replace(model.record(stands), remaining_ms=0), where
    assert frame.token == stands.token, where
    assert expires_in is not None, where
    assert 0 <= stands.expires - model.now - expires_in <= bench.store.slack_ms, where


# The machine.

# One draw for all terms of a claim, each as often as it stands here: drawing costs more than what is tested.
TERMS = st.sampled_from(
    list(product((0, 0, 1), ("a" * 64, "a" * 64, "b" * 64), (1, 5), (1, 3, 60), (True, False)))
)
LEASES = st.sampled_from([1, 2, 5])
MINUTES = st.sampled_from([1, 1, 2, 5, 60])
RESULTS = st.sampled_from(
    [None, b"", b"done", bytes(range(256)), b"\x00" * 119, b"\r\n$-1\r\n", b"x" * 200_000]
) | st.binary(max_size=40)
ASYNC = st.booleans()


def machine_over(benches: Sequence[Bench], tally: Tally) -> type[RuleBasedStateMachine]:
    """Return the machine that makes each step on all these stores, and on the model."""

    class Layers(RuleBasedStateMachine):
        claims = Bundle("claims")

        def __init__(self) -> None:
            super().__init__()
            self.model = Model()
            self.keys = [token_hex(32) for _ in range(2)]
            tally.histories += 1

        @initialize(target=claims, terms=TERMS, in_async=ASYNC)
        def someone_is_first(self, terms: Terms, in_async: bool) -> Claim:
            claim = self._claim(terms)
            self._step("acquire", claim, in_async=in_async)
            return claim

        @rule(target=claims, terms=TERMS)
        def a_stranger_appears(self, terms: Terms) -> Claim:
            return self._claim(terms)

        @rule(target=claims, terms=TERMS, in_async=ASYNC)
        def someone_acquires(self, terms: Terms, in_async: bool) -> Any:
            claim = self._claim(terms)
            answer = self._step("acquire", claim, in_async=in_async)
            return claim if isinstance(answer, Acquired) else multiple()

        @rule(claim=claims, lease=LEASES, in_async=ASYNC)
        def acquires_again(self, claim: Claim, lease: int, in_async: bool) -> None:
            self._step("acquire", replace(claim, lease_ms=lease * MINUTE), in_async=in_async)

        @rule(claim=claims, in_async=ASYNC)
        def extends(self, claim: Claim, in_async: bool) -> None:
            self._step("extend", claim, in_async=in_async)

        @rule(claim=claims, result=RESULTS, in_async=ASYNC)
        def completes(self, claim: Claim, result: bytes | None, in_async: bool) -> None:
            self._step("complete", claim, result, in_async=in_async)

        @rule(claim=claims, in_async=ASYNC)
        def releases(self, claim: Claim, in_async: bool) -> None:
            self._step("release", claim, in_async=in_async)

        @rule(minutes=MINUTES)
        def time_passes(self, minutes: int) -> None:
            tally.steps += 1
            self.model.now += minutes * MINUTE
            for bench in benches:
                bench.store.pass_time(minutes * 60)

        def teardown(self) -> None:
            for bench in benches:
                bench.store.lose()

        def _claim(self, terms: Terms) -> Claim:
            key, fingerprint, lease, retention, may = terms
            operation = Operation(self.keys[key], fingerprint)
            return Claim(operation, token_hex(16), lease * MINUTE, retention * MINUTE, may_take_over=may)

        def _step(self, verb: str, claim: Claim, *result: Any, in_async: bool) -> Any:
            tally.steps += 1
            wanted = getattr(self.model, verb)(claim, *result)
            for bench in benches:
                assert_same(bench, bench.ask(verb, (claim, *result), in_async=in_async), wanted)
                assert_stands(bench, claim, self.model)
            tally.looks += self.model.standing(claim) is not None
            tally.replies.add(_named(verb, wanted))
            return wanted

    return Layers


def _named(verb: str, answer: Any) -> str:
    record = getattr(answer, "record", None)
    what = answer if isinstance(answer, bool) else type(answer).__name__
    return f"{verb}: {what}{f' {record.status.value}' if record else ''}"


EVERY_REPLY = {
    "acquire: Acquired",
    "acquire: Existing in progress",
    "acquire: Existing completed",
    "acquire: Existing not kept",
    "extend: True",
    "extend: False",
    "complete: Settled",
    "complete: Lost",
    "complete: Lost in progress",
    "complete: Lost completed",
    "complete: Lost not kept",
    "release: True",
    "release: False",
}


def try_histories(
    benches: Sequence[Bench], histories: int, tally: Tally, *, same: bool = True, shrinks: bool = True
) -> None:
    """Let hypothesis write so many histories, `same` as the last time; raise the first difference.

    `shrinks`: in the shortest history that shows it.
    """
    run_state_machine_as_test(
        machine_over(benches, tally),
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
        _min_steps=STEPS,  # hypothesis would rather try short ones
    )


# The run.


def run(size: Size, progress: Progress) -> Iterator[Figure]:
    """Try every layer alone, then all at once."""
    kinds = [kind for kind in KINDS if is_there(kind)]
    rounds = [*([kind] for kind in kinds), kinds]
    looks = 0
    with Grounds() as grounds, asyncio.Runner() as runner:
        for number, together in enumerate(rounds):
            progress(number, len(rounds))
            tally = Tally()
            yield _tried(grounds, runner, together, size, tally)
            looks += tally.looks * len(together)
    yield Figure("I4", "records without expiry, after each step", f"0 of {looks:,}", f"0 of {looks:,}", looks > 0)


def _tried(grounds: Grounds, runner: asyncio.Runner, kinds: Sequence[str], size: Size, tally: Tally) -> Figure:
    wanted = (HISTORIES if len(kinds) == 1 else AT_ONCE)[size]
    benches = [Bench(grounds.open(kind), runner) for kind in kinds]
    difference = _difference(benches, round(wanted * SHORTER), tally, same=size is Size.CI)
    for bench in benches:
        bench.close()
    is_enough = tally.histories >= wanted and tally.steps >= wanted * STEPS
    has_seen_all = len(kinds) > 1 or tally.replies >= EVERY_REPLY
    return Figure(
        shows="I3 I9",
        what=f"model and layer: {kinds[0] if len(kinds) == 1 else f'all {len(kinds)} at once'}, both variants",
        wanted=f"{wanted:,} x {STEPS} steps, 0 differences",
        seen=f"{tally.steps:,} steps, {difference or '0 differences'}",
        holds=difference is None and is_enough and has_seen_all,
    )


def _difference(benches: Sequence[Bench], histories: int, tally: Tally, *, same: bool) -> str | None:
    try:
        try_histories(benches, histories, tally, same=same)
    except Exception as error:  # an assertion, or whatever a layer should not have raised
        return " ".join([type(error).__name__, *str(error).split()])[:300]
    return None
