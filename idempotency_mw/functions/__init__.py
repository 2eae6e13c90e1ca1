"""Functions that are safe to call again, without HTTP.

decorators    `idempotent` and `idempotent_function`: their signatures
guard         what a decorated function does with a call
arguments     which argument is the payload
handler       the way without a decorator: `IdempotencyHandler.handle`
calls         one call: its key, its digests, and what its run is given
run           one run of a function under a claim
answers       what a caller gets instead of a run
serializers   results as bytes
rebuilding    dataclasses from JSON data, by their annotations
equality      whether a result would come back as it was
plain         payloads as plain JSON data
"""

from idempotency_mw.functions.decorators import idempotent, idempotent_function

__all__ = ["idempotent", "idempotent_function"]
