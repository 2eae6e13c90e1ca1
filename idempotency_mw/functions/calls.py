"""One call of a function under a key: which digests a store knows it by, and what its run is given."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from idempotency_mw.core.config import IdempotencyConfig
from idempotency_mw.core.digests import canonical, digest, joined, text
from idempotency_mw.core.record import Operation
from idempotency_mw.errors import IdempotencyKeyError
from idempotency_mw.functions.plain import is_missing, plain_payload
from idempotency_mw.functions.serializers import OutputSerializer

__all__ = ["Call", "KeyedCall", "namespace_of", "operation_of"]


@dataclass(frozen=True, slots=True)
class Call:
    """What tells one call from another. `key` and `validated` are text, or any data that a payload may be."""

    key: Any = field(repr=False)
    name: str = ""
    """A namespace for the key, such as the function's name."""
    validated: Any = field(default=None, repr=False)
    """What must be equal for a retry to be the same call."""
    output_serializer: OutputSerializer | None = None

    def keyed(self, config: IdempotencyConfig) -> "KeyedCall":
        """Return the call as its run is given it. Raises `IdempotencyKeyError` if there is no key."""
        key = plain_payload(self.key)
        if is_missing(key):
            raise IdempotencyKeyError("the idempotency key is empty")
        operation = operation_of(namespace_of(config, self.name), key, plain_payload(self.validated))
        return KeyedCall(operation, key, self.output_serializer)

    def operation(self, config: IdempotencyConfig) -> Operation:
        """Return the digests that a store knows the call by. Raises `IdempotencyKeyError` if there is no key."""
        return self.keyed(config).operation


class KeyedCall(NamedTuple):
    """What the run of one call is given."""

    operation: Operation
    key: Any
    """As plain data; the function can ask for it while it runs."""
    serializer: OutputSerializer | None

    def __repr__(self) -> str:
        return f"KeyedCall({self.operation!r})"

    @property
    def shown_key(self) -> str:
        """The key as text: itself, or its canonical JSON."""
        return self.key if isinstance(self.key, str) else canonical(self.key).decode("ascii")


def namespace_of(config: IdempotencyConfig, name: str) -> bytes:
    """Return the bytes that stand in front of all keys of one function."""
    return joined((b"function", text(config.key_prefix), text(name)))


def operation_of(namespace: bytes, key: Any, validated: Any) -> Operation:
    """Return the digests that a store knows a call by. `key` and `validated` are plain data."""
    storage_key = digest((canonical(key),), behind=namespace)
    return Operation(storage_key, _NOTHING_VALIDATED if validated is None else _fingerprint(validated))


def _fingerprint(validated: Any) -> str:
    return digest((b"function", canonical(validated)))


_NOTHING_VALIDATED = _fingerprint(None)
