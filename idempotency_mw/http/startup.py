"""What an HTTP surface says of itself when it is built: its methods, where keys are, what tells senders apart."""

from idempotency_mw import report
from idempotency_mw.core.config import IdempotencyConfig
from idempotency_mw.http.config import HTTPConfig
from idempotency_mw.http.rules import Rules
from idempotency_mw.lifecycle.startup import announce, warn_of_shared_namespace

__all__ = ["announce_surface"]


def announce_surface(surface: str, rules: Rules, persistence_store: object) -> None:
    """Log one line at INFO, and a warning beside it where senders or services may meet.

    A resolver's configurations are not known yet, and nothing is said of them.
    """
    http = None if rules.exchange is None else rules.exchange.http
    protects = ("options chosen for each request",) if http is None else _protected(http, rules.config)
    announce(surface, protects, persistence_store, rules.config)
    if http is not None and http.caller is None and not http.binds_by_hand:
        report.senders_bound_by_default(surface, _senders(http))
    warn_of_shared_namespace(surface, persistence_store, rules.config)


def _protected(http: HTTPConfig, config: IdempotencyConfig) -> tuple[str, ...]:
    return (", ".join(http.methods) or "no methods", _key(http, config), _senders(http))


def _key(http: HTTPConfig, config: IdempotencyConfig) -> str:
    header = http.header and f"the header {http.header}"
    body = config.event_key_jmespath and f"the body at {config.event_key_jmespath}"
    return f"key in {' or '.join(place for place in (header, body) if place)}"


def _senders(http: HTTPConfig) -> str:
    if http.caller is not None:
        return "senders told apart by caller"
    if not http.bound_headers:
        return "senders not told apart"
    return f"senders told apart by the headers {', '.join(http.bound_headers)}"
