"""A store that gives scripted answers, and the claims and records that the tests of a claim's life share."""

import threading
from typing import Any

from idempotency_mw.core.record import Acquired, Claim, Existing, Operation, Record, Settled, Status
from idempotency_mw.errors import IdempotencyPersistenceConnectionError

__all__ = [
    "CLAIM",
    "DONE",
    "DOWN",
    "OPERATION",
    "OTHER",
    "RUNNING",
    "AsyncScriptedStore",
    "ScriptedStore",
    "claim_of",
]

OPERATION = Operation("5" * 64, "f" * 64)
CLAIM = Claim(OPERATION, "a" * 32, 30000, 1000)
DOWN = IdempotencyPersistenceConnectionError("no route")
RUNNING = Existing(Record(Status.IN_PROGRESS, 1, "f" * 64, 9000))
DONE = Existing(Record(Status.COMPLETED, 1, "f" * 64, 1000, b"answer"))
OTHER = Existing(Record(Status.COMPLETED, 1, "0" * 64, 1000, b"answer"))
"""The answer to another request: its fingerprint differs."""


def claim_of(number: int) -> Claim:
    """Return a claim on a key of its own."""
    return Claim(Operation(f"{number:064}", "f" * 64), "a" * 32, 30000, 1000)


class ScriptedStore:
    """Gives each verb's answers in order, and the last one again and again; an exception is raised."""

    def __init__(self, **answers: list[Any]) -> None:
        defaults: dict[str, list[Any]] = {
            "acquire": [Acquired(1)],
            "extend": [True],
            "complete": [Settled()],
            "release": [True],
        }
        self._answers = defaults | {verb: list(given) for verb, given in answers.items()}
        self.calls: list[tuple[Any, ...]] = []
        self.threads: set[int | None] = set()

    def _answer(self, verb: str, *arguments: Any) -> Any:
        self.calls.append((verb, *arguments))
        self.threads.add(threading.get_ident())
        answers = self._answers[verb]
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def acquire(self, claim: Claim) -> Any:
        return self._answer("acquire", claim)

    def extend(self, claim: Claim) -> Any:
        return self._answer("extend", claim)

    def complete(self, claim: Claim, result: bytes | None) -> Any:
        return self._answer("complete", claim, result)

    def release(self, claim: Claim) -> Any:
        return self._answer("release", claim)

    @property
    def verbs(self) -> list[str]:
        return [call[0] for call in self.calls]

    @property
    def extended(self) -> list[Claim]:
        """The claims of all extensions, in order."""
        return [call[1] for call in self.calls if call[0] == "extend"]


class AsyncScriptedStore(ScriptedStore):
    """The same for asyncio. No verb suspends."""

    async def acquire(self, claim: Claim) -> Any:
        return super().acquire(claim)

    async def extend(self, claim: Claim) -> Any:
        return super().extend(claim)

    async def complete(self, claim: Claim, result: bytes | None) -> Any:
        return super().complete(claim, result)

    async def release(self, claim: Claim) -> Any:
        return super().release(claim)
