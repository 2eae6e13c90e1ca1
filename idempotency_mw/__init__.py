"""Makes a request safe to retry: one execution per idempotency key, its answer replayed to every duplicate."""

from idempotency_mw.core.config import IdempotencyConfig
from idempotency_mw.execution import current_execution
from idempotency_mw.functions import idempotent, idempotent_function
from idempotency_mw.http.config import HTTPConfig

__all__ = ["HTTPConfig", "IdempotencyConfig", "current_execution", "idempotent", "idempotent_function"]

__version__ = "0.1.0"
