"""What an app can ask while it runs."""

import asyncio
import contextvars

from idempotency_mw import current_execution
from idempotency_mw.execution import Executing, Execution


def execution(attempt: int = 1) -> Execution:
    return Execution(key="the raw key", storage_key="0123456789abcdef" * 4, attempt=attempt)


def test_it_tells_what_it_was_given():
    one = execution()
    assert (one.key, one.storage_key, one.attempt) == ("the raw key", "0123456789abcdef" * 4, 1)
    assert not one.previous_unfinished
    assert execution(2).previous_unfinished


def test_discarding_counts_until_the_settling():
    early, late = execution(), execution()
    assert early.discard()
    assert early.discarded
    assert early.discard()
    late.close()
    assert not late.discard()
    assert not late.discarded
    early.close()
    assert early.discarded
    assert not early.discard()


def test_its_repr_has_no_key():
    assert repr(execution()) == "<Execution 0123456789ab attempt 1>"


def test_there_is_one_at_a_time_and_none_outside():
    outer, inner = execution(), execution()
    assert current_execution() is None
    with Executing(outer):
        with Executing(inner):
            assert current_execution() is inner
        assert current_execution() is outer
    assert current_execution() is None


def test_an_exception_ends_it_too():
    try:
        with Executing(execution()):
            raise KeyError
    except KeyError:
        assert current_execution() is None


async def test_each_task_has_its_own_and_threads_get_a_copy():
    async def run(one):
        with Executing(one):
            await asyncio.sleep(0)
            assert await asyncio.to_thread(current_execution) is one
            return current_execution()

    first, second = execution(), execution()
    assert await asyncio.gather(run(first), run(second)) == [first, second]
    assert contextvars.copy_context().run(current_execution) is None
