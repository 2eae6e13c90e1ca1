"""What a surface says of itself, once, when it is built: one line that an operator finds in the log.

No URL, no address and no password: of a layer its class, and its `key_prefix` or the name of its file.
"""

import logging
from collections.abc import Iterable
from pathlib import Path

from idempotency_mw import report
from idempotency_mw.core.config import IdempotencyConfig

__all__ = ["announce", "warn_of_shared_namespace"]

_USUAL_PREFIX = "idempotency:"
"""The default `key_prefix` of the Redis layers."""


def announce(
    surface: str,
    protects: Iterable[str],
    persistence_store: object,
    config: IdempotencyConfig,
    *,
    level: int = logging.INFO,
) -> None:
    """Log one line: what the surface protects, the namespace of its keys, and its store."""
    report.built(surface, "; ".join((*protects, *_of_config(config), _of_store(persistence_store))), level)


def warn_of_shared_namespace(surface: str, persistence_store: object, config: IdempotencyConfig) -> None:
    """Warn if two services on one Redis would take each other's keys for their own: no name tells them apart."""
    if getattr(persistence_store, "key_prefix", None) == _USUAL_PREFIX and not config.key_prefix:
        report.namespace_shared(surface, _USUAL_PREFIX)


def _of_config(config: IdempotencyConfig) -> tuple[str, ...]:
    return (f"namespace {config.key_prefix!r}" if config.key_prefix else "no namespace",)


def _of_store(persistence_store: object) -> str:
    name = f"store {type(persistence_store).__name__}"
    prefix: object = getattr(persistence_store, "key_prefix", None)
    path: object = getattr(persistence_store, "path", None)
    if isinstance(prefix, str):
        return f"{name} {prefix!r}"
    return f"{name} {path.name!r}" if isinstance(path, Path) else name
