"""The secrets that the tests send, as their drivers register them. `canary_watch` searches for them."""

import os
import re
from collections.abc import Iterable
from typing import Any

__all__ = ["KEY", "SECRETS", "current_test", "secret", "secret_body", "secret_headers"]

SHORTEST = 8
"""A shorter text could occur by chance."""

KEY = "canary-key-1"
"""The key that the drivers send if a test gives none."""

SECRETS: dict[str, str] = {}
"""Each secret, with the first test that sent it."""

BEARERS = ("idempotency-key", "authorization", "cookie", "x-api-key", "x-caller", "x-tenant")
_MEMBER = re.compile(r':\s*"([^"\\]{8,})"')


def secret(text: str) -> None:
    """Register a secret, unless it is short or only words, which could occur in a message by chance."""
    if len(text) >= SHORTEST and not text.replace(" ", "").isalpha():
        SECRETS.setdefault(text, current_test())


def secret_headers(lines: Iterable[tuple[Any, Any]]) -> None:
    """Register the keys, credentials and callers among these headers."""
    for name, value in lines:
        if _text(name).lower() in BEARERS:
            secret(_text(value).strip('"'))


def secret_body(body: Any) -> None:
    """Register a body, and the texts in it if it is JSON."""
    if isinstance(body, bytes) and len(body) < 10_000:
        secret(_text(body))
        for value in _MEMBER.findall(_text(body)):
            secret(value)


def current_test() -> str:
    """Return the name of the running test."""
    return os.environ.get("PYTEST_CURRENT_TEST", "?").rsplit(" ", 1)[0]


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)
