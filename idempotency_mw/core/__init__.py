"""The rules, as plain values: no I/O, no HTTP, no clock and no randomness in this folder."""
