"""What the HTTP surfaces are built from, checked once: the options, and the rules for each request."""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

from idempotency_mw.core.config import IdempotencyConfig, check_type
from idempotency_mw.errors import IdempotencyConfigurationError
from idempotency_mw.http.config import HTTPConfig
from idempotency_mw.http.exchange import Exchange
from idempotency_mw.persistence.base import verbs_of

__all__ = ["Hook", "Rules", "check_layer"]

Hook = Callable[[Any], Any]
"""What gets the framework's own request: `caller`, and `http` as a resolver."""


_USUAL_METHODS = frozenset(("GET", "HEAD", "OPTIONS", "PUT", "DELETE", "POST", "PATCH"))


class Rules:
    """Which exchange a request goes by: always the same, or the one that a resolver names.

    Raises `IdempotencyConfigurationError` when an option can't be meant.
    """

    def __init__(self, config: IdempotencyConfig | None, http: HTTPConfig | Hook | None) -> None:
        self.config = IdempotencyConfig() if config is None else config
        check_type("config", self.config, IdempotencyConfig)
        http = HTTPConfig() if http is None else http
        if not isinstance(http, HTTPConfig) and not callable(http):
            raise IdempotencyConfigurationError(f"http must be HTTPConfig or callable, not {type(http).__name__}")
        self._exchange_of = lru_cache(maxsize=128)(partial(Exchange, self.config))
        self.resolver = None if isinstance(http, HTTPConfig) else http
        self.exchange = self._exchange_of(http) if isinstance(http, HTTPConfig) else None

    @property
    def passing_methods(self) -> frozenset[str]:
        """The usual methods that pass, whatever else a request has."""
        return frozenset() if self.exchange is None else _USUAL_METHODS.difference(self.exchange.http.methods)

    @property
    def sought_header(self) -> bytes | None:
        """The header without which a request passes; None where that takes a closer look."""
        return None if self.exchange is None else self.exchange.sought_header

    @property
    def ask_the_framework(self) -> bool:
        """Whether a hook wants the framework's own request."""
        return self.exchange is None or self.exchange.http.caller is not None

    def resolved(self, http: object) -> Exchange | None:
        """Return the exchange for what the resolver returned."""
        if http is None:
            return None
        if not isinstance(http, HTTPConfig):
            raise IdempotencyConfigurationError(f"http must return HTTPConfig or None, not {type(http).__name__}")
        return self._exchange_of(http)


def check_layer(persistence_store: object) -> None:
    """Raise unless it has the four verbs."""
    if not all(callable(verb) for verb in verbs_of(persistence_store)):
        raise IdempotencyConfigurationError(
            f"persistence_store must be a persistence layer, not {type(persistence_store).__name__}"
        )
