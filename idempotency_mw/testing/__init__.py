"""For tests: a clock that is moved by hand, a layer that fails on demand, and the suite that every layer passes.

Nothing here imports pytest. The suite is methods with plain `assert`s, which pytest collects from your
subclass. To see the values of a failed assertion, call
`pytest.register_assert_rewrite("idempotency_mw.testing")` in your `conftest.py`.
"""

from idempotency_mw.testing.clock import ManualClock
from idempotency_mw.testing.conformance import PersistenceConformance
from idempotency_mw.testing.failing import AsyncFailingPersistenceLayer, FailingPersistenceLayer

__all__ = ["AsyncFailingPersistenceLayer", "FailingPersistenceLayer", "ManualClock", "PersistenceConformance"]
