"""Who sends a request: the caller, or without one the headers that tell senders apart.

A caller is part of the storage key, so two callers never meet. Without a caller the bound headers are part of the
fingerprint: the same key from another sender is refused.
"""

from idempotency_mw.errors import IdempotencyConfigurationError
from idempotency_mw.http.config import HTTPConfig
from idempotency_mw.http.message import Lines
from idempotency_mw.http.problem import Problem, Refusal

__all__ = ["Sender"]


class Sender:
    """How one configuration tells senders apart."""

    def __init__(self, http: HTTPConfig) -> None:
        self.has_caller = http.caller is not None
        self.bound = tuple([name.encode("ascii") for name in sorted(http.bound_headers)])
        """The names of the bound headers, in lower case. Not heeded where there is a caller."""

    def caller(self, answer: object) -> str | Refusal:
        """Return the caller that the hook named, or a refusal if it named none.

        Raises `IdempotencyConfigurationError` if the hook's answer is not a string.
        """
        if answer in (None, ""):
            return Refusal(Problem.CALLER_MISSING, "The sender of this request can't be told.")
        if not isinstance(answer, str):
            raise IdempotencyConfigurationError(f"caller must return str, not {type(answer).__name__}")
        return answer

    def parts(self, lines: Lines) -> list[bytes]:
        """Return what a fingerprint holds of the sender: how many lines are bound, then each name and value.

        A header that is absent differs from one that is empty. Nothing where there is a caller.
        """
        if self.has_caller:
            return []
        parts = [b""]  # the count, once it is known
        for name in self.bound:
            if name in lines:
                for value in lines[name]:
                    parts.append(name)
                    parts.append(value)
        parts[0] = b"%d" % (len(parts) // 2)
        return parts
