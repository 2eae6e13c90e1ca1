"""What is logged, on the logger `idempotency_mw`.

Warnings about what went wrong without changing the answer; and when a surface is built, one line that says how,
with warnings about options that are dangerous.

Of a request, only the first characters of its storage key are logged. They find the record, and as part of a
digest they reveal nothing.
"""

import logging

from idempotency_mw.errors import IdempotencyPersistenceLayerError

__all__ = [
    "answer_cut_off",
    "answer_not_kept",
    "answer_not_storable",
    "built",
    "claim_not_settled",
    "completion_lost",
    "execution_too_long",
    "file_open_to_others",
    "key_missing",
    "lease_lost",
    "lease_not_extended",
    "namespace_shared",
    "protection_disabled",
    "senders_bound_by_default",
    "store_passed_by",
    "store_refused",
    "winner_unreadable",
]

_logger = logging.getLogger("idempotency_mw")


def store_refused(storage_key: str, error: IdempotencyPersistenceLayerError) -> None:
    """A request was refused because the store failed, or holds a record that can't be read."""
    _warn(storage_key, "refused: the store failed", error)


def store_passed_by(storage_key: str, error: IdempotencyPersistenceLayerError) -> None:
    """The app runs unprotected because the store failed."""
    _warn(storage_key, "the app runs unprotected: the store failed", error)


def claim_not_settled(storage_key: str, verb: str, error: Exception) -> None:
    """The store failed at the end of a run: the record stays in progress until its lease lapses."""
    _warn(storage_key, f"{verb} failed; the lease has to lapse", error)


def completion_lost(storage_key: str) -> None:
    """An answer could not be kept: the claim was taken over, evicted or flushed while the app ran."""
    _warn(storage_key, "the claim was lost before its answer could be kept")


def winner_unreadable(storage_key: str, error: IdempotencyPersistenceLayerError) -> None:
    """A late owner can't read the winner's record, so its own answer goes out beside the winner's."""
    _warn(storage_key, "the record that stands can't be read; the late owner's own answer goes out", error)


def lease_lost(storage_key: str) -> None:
    """The heartbeat found that the claim no longer stands while the app still runs."""
    _warn(storage_key, "the claim was lost while the app runs")


def lease_not_extended(storage_key: str, error: Exception) -> None:
    """A heartbeat failed; the next one may still be in time."""
    _warn(storage_key, "the lease was not extended: the store failed", error)


def execution_too_long(storage_key: str) -> None:
    """The app has run for `max_execution_seconds`; its lease is not extended any more."""
    _warn(storage_key, "the app exceeds max_execution_seconds; its lease is no longer extended")


def answer_cut_off(storage_key: str) -> None:
    """The client went away, and the rest of the answer took too long: the record stays in progress."""
    _warn(storage_key, "the client has gone, and the answer did not end in time; the lease has to lapse")


def answer_not_kept(storage_key: str) -> None:
    """The answer exceeds `max_response_body`: the record is a tombstone."""
    _warn(storage_key, "the answer is too large to be kept; duplicates will be refused")


def answer_not_storable(storage_key: str) -> None:
    """The answer can't be stored, or would come back changed: the record is a tombstone.

    HTTP: it has a header that can't be stored. Functions: JSON can't hold the result, or the serializer would
    bring back another value.
    """
    _warn(storage_key, "the answer can't be stored, or would come back changed; duplicates will be refused")


def built(surface: str, line: str, level: int) -> None:
    """A surface was built: what it protects, and how."""
    _logger.log(level, "%s: %s", surface, line)


def senders_bound_by_default(surface: str, senders: str) -> None:
    """A surface has neither `caller` nor `bound_headers`: what separates senders is what the library guesses."""
    _logger.warning(
        "%s: no caller is given: %s. Set `caller` in HTTPConfig, or `bound_headers` to what your app goes by",
        surface,
        senders,
    )


def namespace_shared(surface: str, prefix: str) -> None:
    """Nothing in the names of the records tells this service from others on the same Redis."""
    _logger.warning(
        "%s: services that share this Redis share their keys: set `key_prefix` in IdempotencyConfig, or another "
        "than %r in the layer",
        surface,
        prefix,
    )


def file_open_to_others(name: str, mode: int) -> None:
    """The store's file may be read or written by others than its owner."""
    _logger.warning("%s: others than its owner may read or write it (mode %o); make it 600", name, mode)


def key_missing(name: str) -> None:
    """A function's payload yields no key: it runs unprotected."""
    _logger.warning("%s runs unprotected: its payload has no idempotency key", name)


def protection_disabled(name: str) -> None:
    """`IDEMPOTENCY_DISABLED` is set: the function runs unprotected."""
    _logger.warning("%s runs unprotected: IDEMPOTENCY_DISABLED is set", name)


def _warn(storage_key: str, what: str, error: Exception | None = None) -> None:
    if error is None:
        _logger.warning("%s: %s", storage_key[:12], what)
    elif isinstance(error, IdempotencyPersistenceLayerError):
        _logger.warning("%s: %s: %s: %s", storage_key[:12], what, type(error).__name__, error)
    else:
        # The message of a foreign error may quote anything, so only its class is logged.
        _logger.warning("%s: %s: %s", storage_key[:12], what, type(error).__name__)
