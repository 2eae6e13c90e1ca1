"""The options of an HTTP surface, checked once, and the exchange that they give each request."""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

from idempotency_mw.core.config import IdempotencyConfig, check_type
from idempotency_mw.errors import IdempotencyConfigurationError
from idempotency_mw.http.config import HTTPConfig
from idempotency_mw.http.exchange import Exchange

__all__ = ["Hook", "Rules"]

Hook = Callable[[Any], Any]
"""A callable that takes the framework's own request: `caller`, and `http` as a resolver."""


_MOST_EXCHANGES = 128
"""Exchanges kept for a resolver's configurations: `lru_cache`'s own default, far above the few that an app has. A
resolver that makes a new configuration for each request would otherwise grow without bound."""

_USUAL_METHODS = frozenset(("GET", "HEAD", "OPTIONS", "PUT", "DELETE", "POST", "PATCH"))


class Rules:
    """Which exchange decides about a request: always the same one, or the one for the resolver's configuration.

    Raises `IdempotencyConfigurationError` if an option is invalid.
    """

    def __init__(self, config: IdempotencyConfig | None, http: HTTPConfig | Hook | None) -> None:
        self.config = IdempotencyConfig() if config is None else config
        check_type("config", self.config, IdempotencyConfig)
        http = HTTPConfig() if http is None else http
        if not isinstance(http, HTTPConfig) and not callable(http):
            raise IdempotencyConfigurationError(f"http must be HTTPConfig or callable, not {type(http).__name__}")
        self._exchange_of = lru_cache(maxsize=_MOST_EXCHANGES)(partial(Exchange, self.config))
        self.resolver = None if isinstance(http, HTTPConfig) else http
        self.exchange = self._exchange_of(http) if isinstance(http, HTTPConfig) else None

    @property
    def passing_methods(self) -> frozenset[str]:
        """The usual methods that pass to the app, whatever else a request has."""
        return frozenset() if self.exchange is None else _USUAL_METHODS.difference(self.exchange.http.methods)

    @property
    def sought_header(self) -> bytes | None:
        """The header without which a request passes; None if a request without it may be protected too."""
        return None if self.exchange is None else self.exchange.sought_header

    @property
    def ask_the_framework(self) -> bool:
        """Whether a hook takes the framework's own request."""
        return self.exchange is None or self.exchange.http.caller is not None

    def resolved(self, http: object) -> Exchange | None:
        """Return the exchange for the configuration that the resolver returned; None lets the request pass."""
        if http is None:
            return None
        if not isinstance(http, HTTPConfig):
            raise IdempotencyConfigurationError(f"http must return HTTPConfig or None, not {type(http).__name__}")
        return self._exchange_of(http)
