"""Functions that are safe to call again, without HTTP.

decorators   how they are written
guard        what a decorated function does
payloads     which of its arguments tell one call from another
"""

from idempotency_mw.functions.decorators import idempotent, idempotent_function

__all__ = ["idempotent", "idempotent_function"]
