"""A record as bytes: a fixed-width prefix that a person can read, then the result, byte for byte.

    offset  width
         0      1  version, "1"
         1      1  status: P in progress, C completed, N completed but not kept
         2     32  token, hexadecimal
        34      6  attempt, decimal
        40     15  lease_until, decimal: when the lease lapses, or would have lapsed, in milliseconds since the
                   epoch on the store's clock
        55     64  fingerprint, hexadecimal
       119      …  result

The expiry is not part of it: each store keeps that itself.

The Redis scripts read and write the same bytes. A release also reads the version before its own, and a new
version is written only by the release after the first one that reads it. So no rolling deploy meets a record
that it can't read.
"""

import re
from dataclasses import dataclass, field

from idempotency_mw.core.record import Record, Status
from idempotency_mw.errors import IdempotencyRecordError

__all__ = ["MAX_ATTEMPT", "Frame", "read_record"]

MAX_ATTEMPT = 999_999
"""The largest number of six digits. A takeover beyond it keeps this number: the width is fixed."""

_PREFIX = re.compile(rb"1[PCN][0-9a-f]{32}+[0-9]{21}+[0-9a-f]{64}+")
_COMPLETED = Status.COMPLETED  # looking up a member in its class is as slow as a slice
_LETTER_OF = {Status.IN_PROGRESS: b"P", Status.COMPLETED: b"C", Status.NOT_KEPT: b"N"}
_STATUS_OF = {letter[0]: status for status, letter in _LETTER_OF.items()}


@dataclass(frozen=True, slots=True)
class Frame:
    """A record as its store sees it: with the token, and with a point in time."""

    status: Status
    token: str = field(repr=False)
    attempt: int
    lease_until_ms: int
    fingerprint: str
    result: bytes = field(default=b"", repr=False)

    def encode(self) -> bytes:
        """Return the frame's bytes."""
        return b"1%b%b%06d%015d%b%b" % (
            _LETTER_OF[self.status],
            self.token.encode("ascii"),
            self.attempt,
            self.lease_until_ms,
            self.fingerprint.encode("ascii"),
            self.result,
        )

    @classmethod
    def decode(cls, data: bytes) -> "Frame":
        """Read a frame. Raises `IdempotencyRecordError` for bytes that `encode` would not have written."""
        status, attempt, result = _checked(data)
        token, fingerprint = data[2:34].decode("ascii"), data[55:119].decode("ascii")
        return cls(status, token, attempt, int(data[40:55]), fingerprint, result)

    def record(self, remaining_ms: int) -> Record:
        """Return the record that others may see: without the token.

        `remaining_ms` is what is left of its lease or of its life.
        """
        kept = self.result if self.status is Status.COMPLETED else None
        return Record(self.status, self.attempt, self.fingerprint, max(remaining_ms, 0), kept)


def read_record(data: bytes, remaining_ms: int) -> Record:
    """As `Frame.decode(data).record(remaining_ms)`, without making a frame: a replay takes this path."""
    status, attempt, result = _checked(data)
    left = remaining_ms if remaining_ms > 0 else 0  # noqa: FURB136 - max() is several times slower
    return Record(status, attempt, data[55:119].decode(), left, result if status is _COMPLETED else None)


def _checked(data: bytes) -> tuple[Status, int, bytes]:
    """Return status, attempt and result.

    Raises `IdempotencyRecordError` if anything is malformed, or contradicts.
    """
    if _PREFIX.match(data) is None:
        raise IdempotencyRecordError("the store holds something that is not a record of this version")
    status, attempt, result = _STATUS_OF[data[1]], int(data[34:40]), data[119:]
    if attempt == 0 or (result and status is not _COMPLETED):
        raise IdempotencyRecordError("the store holds a record that contradicts itself")
    return status, attempt, result
