"""The tests; each folder mirrors one of the package."""

import pytest

# Before anything imports it: its asserts then say what differs.
pytest.register_assert_rewrite("idempotency_mw.testing")
