"""A clock that stands until it is moved."""

__all__ = ["ManualClock"]


class ManualClock:
    """Seconds that pass only by `advance`. Give it as `clock` to the layers that take one."""

    def __init__(self, seconds: float = 1_000_000_000.0) -> None:
        self._seconds = seconds

    def __call__(self) -> float:
        """Return the seconds."""
        return self._seconds

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._seconds += seconds

    def __repr__(self) -> str:
        return f"<{type(self).__name__} at {self._seconds:g} s>"
