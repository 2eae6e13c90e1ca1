"""The layer that a surface was given, made ready for it: checked, blocking or async as needed, and cached."""

from typing import cast

from idempotency_mw.core.config import IdempotencyConfig
from idempotency_mw.errors import IdempotencyConfigurationError
from idempotency_mw.persistence.base import AsyncPersistenceLayer, PersistenceLayer, is_async, verbs_of
from idempotency_mw.persistence.local_cache import AsyncLocalCache, LocalCache
from idempotency_mw.persistence.threaded import as_async

__all__ = ["Store", "for_async", "for_blocking"]

Store = PersistenceLayer | AsyncPersistenceLayer


def for_blocking(persistence_store: object, config: IdempotencyConfig) -> PersistenceLayer:
    """Return the layer for blocking code.

    Raises `IdempotencyConfigurationError` if the object lacks one of the four verbs, or is async.
    """
    layer = _checked(persistence_store)
    if is_async(layer):
        raise IdempotencyConfigurationError(
            "persistence_store is async: WSGI apps and plain functions need a blocking layer"
        )
    blocking = cast("PersistenceLayer", layer)
    if not config.use_local_cache:
        return blocking
    return LocalCache(blocking, config.local_cache_max_items, config.local_cache_max_bytes)


def for_async(persistence_store: object, config: IdempotencyConfig) -> AsyncPersistenceLayer:
    """Return the layer for asyncio code; a blocking layer is run in threads, or in place where it never waits.

    Raises `IdempotencyConfigurationError` if the object lacks one of the four verbs.
    """
    layer = as_async(_checked(persistence_store))
    if not config.use_local_cache:
        return layer
    return AsyncLocalCache(layer, config.local_cache_max_items, config.local_cache_max_bytes)


def _checked(persistence_store: object) -> Store:
    if not all(callable(verb) for verb in verbs_of(persistence_store)):
        raise IdempotencyConfigurationError(
            f"persistence_store must be a persistence layer, not {type(persistence_store).__name__}"
        )
    return cast("Store", persistence_store)
