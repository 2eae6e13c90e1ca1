"""The preference to wait (RFC 7240, section 4.3)."""

import re
from collections.abc import Sequence

__all__ = ["preferred_wait"]

# A preference ends at a comma that is not inside a quoted string.
_PREFERENCE = re.compile(rb'(?:[^",]|"(?:[^"\\]|\\.)*(?:"|\\?$))+')
_NAME = re.compile(rb"wait(?![!#$%&'*+\-.^_`|~0-9A-Za-z])", re.IGNORECASE)
_WAIT = re.compile(rb'wait[ \t]*=[ \t]*("?)([0-9]{1,9})\1[ \t]*(?:;.*)?', re.IGNORECASE)


def preferred_wait(lines: Sequence[bytes]) -> int | None:
    """Return the seconds of the first `wait` in the lines of `Prefer`; None if it is absent or invalid."""
    for line in lines:
        for found in _PREFERENCE.finditer(line):
            preference = found[0].strip(b" \t")
            if _NAME.match(preference):
                wait = _WAIT.fullmatch(preference)
                return int(wait[2]) if wait else None
    return None
