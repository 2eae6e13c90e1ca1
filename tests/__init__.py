"""The tests; their folders mirror those of the package."""

import pytest

# Before it is imported, so that pytest explains the asserts in it.
pytest.register_assert_rewrite("idempotency_mw.testing")
