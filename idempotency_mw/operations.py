"""The operation that a call of a function asks for: digests of what tells it from others, on plain data."""

from typing import Any

from idempotency_mw.core.config import IdempotencyConfig
from idempotency_mw.core.identity import canonical, digest, joined, text
from idempotency_mw.core.record import Operation

__all__ = ["namespace_of", "operation_of"]


def namespace_of(config: IdempotencyConfig, name: str) -> bytes:
    """Return what the keys of one function have in front."""
    return joined((b"function", text(config.key_prefix), text(name)))


def operation_of(namespace: bytes, key: Any, validated: Any) -> Operation:
    """Return the digests that a store knows a call by; key and `validated` are plain data."""
    storage_key = digest((canonical(key),), behind=namespace)
    return Operation(storage_key, _NOTHING_VALIDATED if validated is None else _fingerprint(validated))


def _fingerprint(validated: Any) -> str:
    return digest((b"function", canonical(validated)))


_NOTHING_VALIDATED = _fingerprint(None)
