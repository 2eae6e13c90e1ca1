"""What a Lambda invocation tells: how long it may still run, and header lines that an adapter leaves out.

Knows the objects that Lambda passes by their shape only, and nothing else of this package.
"""

from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["lifetime", "viewer_headers"]

Pairs = list[tuple[bytes, bytes]]


def lifetime(context: Any) -> Callable[[], float] | None:
    """Return a function for the seconds that an invocation has left, or None if the context can't tell."""
    left_ms: Callable[[], int] | None = getattr(context, "get_remaining_time_in_millis", None)
    if left_ms is None:
        return None
    return lambda: max(left_ms() / 1000, 0.0)


def viewer_headers(event: Any) -> Pairs | None:
    """Return every header line of a Lambda@Edge event, or None for any other event.

    Mangum passes only the first line of each name to the app, but a second key or cookie must not go unseen.
    """
    try:
        headers: Mapping[str, list[dict[str, str]]] = event["Records"][0]["cf"]["request"]["headers"]
    except (LookupError, TypeError):
        return None
    return [(name.encode(), line["value"].encode()) for name, lines in headers.items() for line in lines]
