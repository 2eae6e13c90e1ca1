"""`Call`, what tells one call of a function from another: see `idempotency_mw.functions.calls`."""

from idempotency_mw.functions.calls import Call

__all__ = ["Call"]
