"""A record as bytes: a fixed-width prefix that a person can read, then the result as it came.

    offset  width
         0      1  version, "1"
         1      1  status: P in progress, C completed, N completed but not kept
         2     32  token, hexadecimal
        34      6  attempt, decimal
        40     15  until, decimal: milliseconds since the epoch on the store's clock.
                   In progress: when the lease lapses. Otherwise: when the record expires.
        55     64  fingerprint, hexadecimal
       119      …  result

The Redis scripts read and write the same bytes. A release reads the version before its own as well, and writes a
new version only one release after it learned to read it, so that rolling deploys never meet a record that they
can't read.
"""

import re
from dataclasses import dataclass, field

from idempotency_mw.core.record import Record, Status
from idempotency_mw.errors import IdempotencyRecordError

__all__ = ["MAX_ATTEMPT", "Frame", "read_record"]

MAX_ATTEMPT = 999_999

_PREFIX = re.compile(rb"1([PCN])([0-9a-f]{32})([0-9]{6})([0-9]{15})([0-9a-f]{64})")
_STATUS_OF = {b"P": Status.IN_PROGRESS, b"C": Status.COMPLETED, b"N": Status.NOT_KEPT}
_LETTER_OF = {status: letter for letter, status in _STATUS_OF.items()}


@dataclass(frozen=True, slots=True)
class Frame:
    """A record as its owner and its store see it: with the token, and with points in time."""

    status: Status
    token: str = field(repr=False)
    attempt: int
    until_ms: int
    fingerprint: str
    result: bytes = field(default=b"", repr=False)

    def encode(self) -> bytes:
        """Return the frame's bytes."""
        return b"1%b%b%06d%015d%b%b" % (
            _LETTER_OF[self.status],
            self.token.encode("ascii"),
            self.attempt,
            self.until_ms,
            self.fingerprint.encode("ascii"),
            self.result,
        )

    @classmethod
    def decode(cls, data: bytes) -> "Frame":
        """Read a frame; raises `IdempotencyRecordError` for anything that `encode` would not have written."""
        return cls(*_read(data))

    def record(self, now_ms: int) -> Record:
        """Return what anyone may see of it."""
        return _record(self.status, self.attempt, self.fingerprint, self.until_ms - now_ms, self.result)


def read_record(data: bytes, now_ms: int) -> Record:
    """Return what anyone may see of a frame; raises as `Frame.decode`, and makes no frame on the way."""
    status, _, attempt, until_ms, fingerprint, result = _read(data)
    return _record(status, attempt, fingerprint, until_ms - now_ms, result)


def _read(data: bytes) -> tuple[Status, str, int, int, str, bytes]:
    prefix = _PREFIX.match(data)
    if prefix is None:
        raise IdempotencyRecordError("the store holds something that is not a record of this version")
    letter, token, number, until_ms, fingerprint = prefix.groups()
    status, attempt, result = _STATUS_OF[letter], int(number), data[prefix.end() :]
    if attempt == 0 or (result and status is not Status.COMPLETED):
        raise IdempotencyRecordError("the store holds a record that contradicts itself")
    return status, token.decode("ascii"), attempt, int(until_ms), fingerprint.decode("ascii"), result


def _record(status: Status, attempt: int, fingerprint: str, remaining_ms: int, result: bytes) -> Record:
    kept = result if status is Status.COMPLETED else None
    return Record(status, attempt, fingerprint, max(remaining_ms, 0), kept)
