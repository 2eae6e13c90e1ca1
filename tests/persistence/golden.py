"""Records whose bytes are pinned, and records that are damaged."""

from idempotency_mw.core.record import Status

__all__ = ["FINGERPRINT", "GOLDEN", "PREFIX", "TOKEN", "contradictions", "flips"]

TOKEN, FINGERPRINT = "0123456789abcdef" * 2, "fedcba9876543210" * 4
GOLDEN = {
    Status.IN_PROGRESS: b"1P%b000007001700000000000%b" % (TOKEN.encode(), FINGERPRINT.encode()),
    Status.COMPLETED: b"1C%b000007001700000000000%bresult\x00\xff" % (TOKEN.encode(), FINGERPRINT.encode()),
    Status.NOT_KEPT: b"1N%b000007001700000000000%b" % (TOKEN.encode(), FINGERPRINT.encode()),
}
PREFIX = 119
"""The number of bytes of a record before its result."""


def flips(data):
    """Yield the record with each bit of its prefix flipped, one at a time."""
    for position in range(min(len(data), PREFIX)):
        for bit in range(8):
            yield data[:position] + bytes([data[position] ^ 1 << bit]) + data[position + 1 :]


def contradictions():
    """Return records that contradict themselves, by the reason."""
    running, tombstone = GOLDEN[Status.IN_PROGRESS], GOLDEN[Status.NOT_KEPT]
    return {
        "a result before the end": running + b"x",
        "a result that was not kept": tombstone + b"x",
        "attempt zero": running[:34] + b"000000" + running[40:],
        "a newer version": b"2" + running[1:],
        "hexadecimal digits for an attempt": running[:34] + b"00000a" + running[40:],
        "hexadecimal digits for a time": running[:40] + b"00000000000000f" + running[55:],
        "capital letters": running[:2] + TOKEN.upper().encode() + running[34:],
        "a line break after it": running + b"\n",
        "unicode digits": running[:34] + "٣٣٣".encode() + running[40:],
    }
