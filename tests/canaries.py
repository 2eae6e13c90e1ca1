"""What the tests send in secret, said by their drivers. `canary_watch` searches for it. Knows no pytest."""

import os
import re
from collections.abc import Iterable
from typing import Any

__all__ = ["KEY", "SECRETS", "current_test", "secret", "secret_body", "secret_headers"]

SHORTEST = 8
"""A shorter text may stand somewhere by chance."""

KEY = "canary-key-1"
"""What the drivers send where a test names no key."""

SECRETS: dict[str, str] = {}
"""And the test that sent it first."""

BEARERS = ("idempotency-key", "authorization", "cookie", "x-api-key", "x-caller", "x-tenant")
_MEMBER = re.compile(r':\s*"([^"\\]{8,})"')


def secret(text: str) -> None:
    """Say that this is sent in secret. Mere words may stand in a sentence of ours."""
    if len(text) >= SHORTEST and not text.replace(" ", "").isalpha():
        SECRETS.setdefault(text, current_test())


def secret_headers(lines: Iterable[tuple[Any, Any]]) -> None:
    """Say that keys, credentials and callers among these lines are."""
    for name, value in lines:
        if _text(name).lower() in BEARERS:
            secret(_text(value).strip('"'))


def secret_body(body: Any) -> None:
    """Say that a body is, and so are the texts in it, where it is JSON."""
    if isinstance(body, bytes) and len(body) < 10_000:
        secret(_text(body))
        for value in _MEMBER.findall(_text(body)):
            secret(value)


def current_test() -> str:
    """Return the name of the test that runs."""
    return os.environ.get("PYTEST_CURRENT_TEST", "?").rsplit(" ", 1)[0]


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)
