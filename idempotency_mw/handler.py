"""The handlers, `IdempotencyHandler` and `AsyncIdempotencyHandler`: see `idempotency_mw.functions.handler`."""

from idempotency_mw.functions.handler import AsyncIdempotencyHandler, IdempotencyHandler

__all__ = ["AsyncIdempotencyHandler", "IdempotencyHandler"]
