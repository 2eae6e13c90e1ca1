"""`current_execution()`: what an app can ask about its run, and discard."""

import asyncio
import contextvars
from contextlib import suppress

from idempotency_mw import current_execution
from idempotency_mw.execution import Discard, Executing, Execution


def execution(attempt: int = 1, discard: Discard | None = None) -> Execution:
    storage_key = "0123456789abcdef" * 4
    return Execution(key="the raw key", storage_key=storage_key, attempt=attempt, discard=discard or Discard())


def test_an_execution_tells_its_key_storage_key_and_attempt():
    one = execution()
    assert (one.key, one.storage_key, one.attempt) == ("the raw key", "0123456789abcdef" * 4, 1)
    assert not one.previous_unfinished
    assert execution(2).previous_unfinished


def test_an_answer_can_be_discarded_until_its_claim_is_settled():
    early, late = Discard(), Discard()
    assert execution(discard=early).discard()
    assert execution(discard=early).discard()
    assert early.close()
    assert early.close()
    assert not execution(discard=early).discard()
    assert not late.close()
    assert not execution(discard=late).discard()
    assert not late.close()


def test_an_app_can_not_end_discarding_itself():
    assert [name for name in dir(execution()) if not name.startswith("_")] == [
        *("attempt", "discard", "key", "previous_unfinished", "storage_key"),
    ]


def test_the_repr_of_an_execution_has_no_key():
    assert repr(execution()) == "<Execution 0123456789ab attempt 1>"


def test_the_current_execution_is_the_innermost_and_outside_there_is_none():
    outer, inner = execution(), execution()
    assert current_execution() is None
    with Executing(outer):
        with Executing(inner):
            assert current_execution() is inner
        assert current_execution() is outer
    assert current_execution() is None


def test_an_exception_ends_the_execution_too():
    with suppress(KeyError), Executing(execution()):
        raise KeyError
    assert current_execution() is None


async def test_each_task_has_its_own_execution_and_its_threads_see_it():
    async def run(own):
        with Executing(own):
            await asyncio.sleep(0)
            assert await asyncio.to_thread(current_execution) is own
            return current_execution()

    first, second = execution(), execution()
    assert await asyncio.gather(run(first), run(second)) == [first, second]
    assert contextvars.copy_context().run(current_execution) is None
