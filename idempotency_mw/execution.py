"""What an app can ask while it runs under a claim."""

from contextvars import ContextVar

__all__ = ["Discard", "Executing", "Execution", "current_execution"]


class Discard:
    """Whether the app asked that its answer not be kept. The surface that runs the app holds it, and closes it."""

    __slots__ = ("_is_asked", "_is_closed")

    def __init__(self) -> None:
        self._is_asked = False
        self._is_closed = False

    def ask(self) -> bool:
        """Ask for it, unless it is too late, and tell whether it was in time."""
        if not self._is_closed:
            self._is_asked = True
        return not self._is_closed

    def close(self) -> bool:
        """Tell whether the app has asked. From now on it is too late: the claim is being settled."""
        self._is_closed = True
        return self._is_asked


class Execution:
    """One start of the app under a key, as the app sees it."""

    __slots__ = ("_attempt", "_discard", "_key", "_storage_key")

    def __init__(self, *, key: str, storage_key: str, attempt: int, discard: Discard) -> None:
        self._key = key
        self._storage_key = storage_key
        self._attempt = attempt
        self._discard = discard

    @property
    def key(self) -> str:
        """The idempotency key as the client sent it. Pass it on downstream, but do not log it."""
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
        """Whether an earlier attempt began and did not finish, so that its outcome is unknown."""
        return self._attempt > 1

    def discard(self) -> bool:
        """Ask that this answer not be kept: it is delivered, and the key is released.

        Returns False if it is too late, because the claim is being settled or is settled.
        """
        return self._discard.ask()

    def __repr__(self) -> str:
        return f"<Execution {self._storage_key[:12]} attempt {self._attempt}>"


_current: ContextVar[Execution | None] = ContextVar("idempotency_mw_execution", default=None)


def current_execution() -> Execution | None:
    """Return the execution that this code runs under, or None outside of a keyed request or call."""
    return _current.get()


class Executing:
    """Makes the execution the current one inside `with`."""

    __slots__ = ("_before", "_execution")

    def __init__(self, execution: Execution) -> None:
        self._execution = execution

    def __enter__(self) -> None:
        self._before = _current.set(self._execution)

    def __exit__(self, *_error: object) -> None:
        _current.reset(self._before)
