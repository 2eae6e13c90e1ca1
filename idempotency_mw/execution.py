"""What an app can ask while it runs under a claim."""

from contextvars import ContextVar

__all__ = ["Executing", "Execution", "current_execution"]


class Execution:
    """One start of the app under a key."""

    __slots__ = ("_attempt", "_discarded", "_key", "_settled", "_storage_key")

    def __init__(self, *, key: str, storage_key: str, attempt: int) -> None:
        self._key = key
        self._storage_key = storage_key
        self._attempt = attempt
        self._discarded = False
        self._settled = False

    @property
    def key(self) -> str:
        """The idempotency key as the client sent it; fit for passing on downstream, not for a log."""
        return self._key

    @property
    def storage_key(self) -> str:
        """The digest under which the store holds the record."""
        return self._storage_key

    @property
    def attempt(self) -> int:
        """1, and one more with each takeover. It begins anew after a release or an expiry."""
        return self._attempt

    @property
    def previous_unfinished(self) -> bool:
        """Whether an earlier attempt died, with an outcome that nobody knows."""
        return self._attempt > 1

    @property
    def discarded(self) -> bool:
        """Whether the app asked, in time, that its answer not be kept."""
        return self._discarded

    def discard(self) -> bool:
        """Ask that this answer not be kept: it is delivered, and the key is released. False once settled."""
        if not self._settled:
            self._discarded = True
        return not self._settled

    def close(self) -> None:
        """Say, as the surface that runs the app, that the claim is being settled."""
        self._settled = True

    def __repr__(self) -> str:
        return f"<Execution {self._storage_key[:12]} attempt {self._attempt}>"


_current: ContextVar[Execution | None] = ContextVar("idempotency_mw_execution", default=None)


def current_execution() -> Execution | None:
    """Return the execution that this code runs under; None outside of a keyed request or call."""
    return _current.get()


class Executing:
    """Makes the execution the current one, within `with`."""

    __slots__ = ("_before", "_execution")

    def __init__(self, execution: Execution) -> None:
        self._execution = execution

    def __enter__(self) -> None:
        self._before = _current.set(self._execution)

    def __exit__(self, *_error: object) -> None:
        _current.reset(self._before)
