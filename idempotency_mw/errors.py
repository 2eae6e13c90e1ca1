"""Every error of this package.

    IdempotencyError
    ├── IdempotencyConfigurationError         an option is invalid, or a hook returned something invalid
    ├── IdempotencyKeyError                   the key is missing, malformed, or can't be selected from the payload
    ├── IdempotencyAlreadyInProgressError     the first call still runs; has `retry_after_seconds`
    ├── IdempotencyValidationError            the key was used before, for something else
    ├── IdempotencyOutcomeUnknownError        the first call was cut off, and its outcome is unknown
    ├── IdempotencyExecutionFailedError       the first call failed, and its failure is the stored answer
    ├── IdempotencyResponseNotKeptError       the first call succeeded, but its answer was not kept
    └── IdempotencyPersistenceLayerError      the store failed; chained to the driver's own error
        ├── IdempotencyPersistenceConnectionError   it can't be reached, or did not answer in time
        └── IdempotencyRecordError                  it holds something that is not a readable record

Functions raise these. The HTTP surfaces answer a client with a status instead. `suggested_status` is for users
who map exceptions to responses themselves.
"""

__all__ = [
    "IdempotencyAlreadyInProgressError",
    "IdempotencyConfigurationError",
    "IdempotencyError",
    "IdempotencyExecutionFailedError",
    "IdempotencyKeyError",
    "IdempotencyOutcomeUnknownError",
    "IdempotencyPersistenceConnectionError",
    "IdempotencyPersistenceLayerError",
    "IdempotencyRecordError",
    "IdempotencyResponseNotKeptError",
    "IdempotencyValidationError",
]


class IdempotencyError(Exception):
    """The root of the tree. `suggested_status` is the HTTP status that fits the error."""

    suggested_status = 500


class IdempotencyConfigurationError(IdempotencyError):
    """An option is invalid, or a hook returned something invalid. The message names it."""


class IdempotencyKeyError(IdempotencyError):
    """The idempotency key is missing or malformed, or the payload yields none."""

    suggested_status = 400


class IdempotencyAlreadyInProgressError(IdempotencyError):
    """Another call holds the key and still runs.

    `retry_after_seconds` estimates when to try again: at least 1, and not later than the present lease would
    lapse, rounded up to a whole second.
    """

    suggested_status = 409

    def __init__(self, message: str, retry_after_seconds: int = 1) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class IdempotencyValidationError(IdempotencyError):
    """The key was used before with another fingerprint: it is not the same request."""

    suggested_status = 422


class IdempotencyOutcomeUnknownError(IdempotencyError):
    """The first call did not finish before its lease lapsed, and `after_crash="refuse"` forbids a second run."""

    suggested_status = 409


class IdempotencyExecutionFailedError(IdempotencyError):
    """The first call failed, and under `on_error="store"` that failure is the answer.

    Names the exception's class.
    """


class IdempotencyResponseNotKeptError(IdempotencyError):
    """The first call succeeded, but its answer was too large or could not be stored."""

    suggested_status = 409


class IdempotencyPersistenceLayerError(IdempotencyError):
    """The store failed; `__cause__` is the driver's own error."""

    suggested_status = 503


class IdempotencyPersistenceConnectionError(IdempotencyPersistenceLayerError):
    """The store can't be reached, or did not answer within the layer's `timeout_seconds`."""


class IdempotencyRecordError(IdempotencyPersistenceLayerError):
    """The store holds something under the key that is not a readable record. The key is never taken for free."""
