"""Clients under way: each has one key after the other, and asks with it until it has an answer, as it should.

Beside every other one goes a duplicate, and all ask once more when they have an answer. What came back is kept.
"""

import asyncio
import json
import random
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from proof.stage.asking import Answer, Ask, NoAnswerError

__all__ = ["Clients", "until_answered"]

Wish = Callable[[random.Random], dict[str, Any]]
"""Draws what one execution is to do."""

NOT_NOW = ("in-progress", "store-unavailable")


class Clients:
    """So many at a time, over these ways to ask. Used as an async context manager around what happens to them."""

    def __init__(
        self,
        asks: list[Ask],
        wish: Wish,
        *,
        seed: str,
        count: int,
        impatience: float = 8.0,
        pause: float = 0.03,
    ) -> None:
        self.answers: dict[str, list[Answer]] = {}
        """All that ever came, of each key."""
        self.wishes: dict[str, bytes] = {}
        self.trouble: Counter[str] = Counter()
        """What came in place of an answer."""
        self._asks = asks
        self._wish = wish
        self._seed = seed
        self._random = random.Random(seed)
        self._count = count
        self._impatience = impatience
        self._pause = pause
        self._number = 0
        self._over = asyncio.Event()
        self._going: list[asyncio.Task[None]] = []

    @property
    def answered(self) -> int:
        """How many keys have their answer."""
        return sum(any(is_final(answer) for answer in answers) for answers in list(self.answers.values()))

    async def have_answered(self, count: int) -> None:
        """Return once so many keys have their answer."""
        while self.answered < count:  # noqa: ASYNC110 - it is seldom asked
            await asyncio.sleep(0.02)

    async def ask_until_answered(self, key: str, impatience: float, ask: Ask | None = None) -> Answer:
        """Ask with the key until there is an answer that is not "not now"."""
        while True:
            answer = await self.ask_once(key, impatience, ask)
            if answer is not None and is_final(answer):
                return answer
            await asyncio.sleep(self._pause * self._random.uniform(0.5, 1.5))

    async def ask_once(self, key: str, impatience: float, ask: Ask | None = None) -> Answer | None:
        """Ask once, and keep what came."""
        ask = ask or self._random.choice(self._asks)
        try:
            answer = await ask(key, self.wishes[key], impatience)
        except NoAnswerError as error:
            self.trouble[str(error)] += 1
            return None
        self.answers.setdefault(key, []).append(answer)
        if answer.problem:
            self.trouble[answer.problem] += 1
        return answer

    async def ask_all_again(self) -> None:
        """Ask once more with each key that has an answer."""
        keys = [key for key, answers in self.answers.items() if any(map(is_final, answers))]
        for start in range(0, len(keys), self._count):
            some = keys[start : start + self._count]
            await asyncio.gather(*(self.ask_until_answered(key, self._impatience) for key in some))

    def new_key(self) -> str:
        """Return a key with its wish."""
        self._number += 1
        key = f"{self._seed}-{self._number}"
        self.wishes[key] = json.dumps(self._wish(self._random)).encode("ascii")
        return key

    async def __aenter__(self) -> Self:
        self._going = [asyncio.create_task(self._go()) for _ in range(self._count)]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let each client have its answer, and take no other key."""
        self._over.set()
        if error is not None:
            for task in self._going:
                task.cancel()
        done = await asyncio.gather(*self._going, return_exceptions=True)
        for each in done:
            if error is None and isinstance(each, BaseException):
                raise each

    async def _go(self) -> None:
        while not self._over.is_set():
            key = self.new_key()
            first = self.ask_until_answered(key, self._impatience)
            if self._random.random() < 0.5:
                await asyncio.gather(first, self._ask_later(key))
            else:
                await first
            await self.ask_once(key, self._impatience)

    async def _ask_later(self, key: str) -> None:
        await asyncio.sleep(self._random.uniform(0, 0.05))
        await self.ask_until_answered(key, 10 * self._impatience)


def is_final(answer: Answer) -> bool:
    """Tell whether a client stops asking here."""
    return answer.problem not in NOT_NOW


async def until_answered(ask: Ask, key: str, body: bytes, pause: float = 0.03) -> Answer:
    """Ask until there is an answer, without keeping what came before it."""
    while True:
        try:
            answer = await ask(key, body, 10.0)
        except NoAnswerError:
            continue
        if is_final(answer):
            return answer
        await asyncio.sleep(pause)
