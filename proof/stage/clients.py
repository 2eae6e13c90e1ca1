"""A load of clients. Each takes one key after another and asks with it until the answer is final.

Every second key gets a duplicate at about the same time, and every key is asked for once more after its answer.
All answers are kept.
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
"""Draws what one execution has to do: the JSON that `app.py` reads."""

NOT_NOW = ("in-progress", "store-unavailable")


class Clients:
    """`count` clients at a time. As an async context manager it runs them in the background.

    Each request is sent by one of `asks`. A client waits `impatience` seconds for an answer, and about `pause`
    seconds before it asks again.
    """

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
        """Every answer of each key, refusals included."""
        self.wishes: dict[str, bytes] = {}
        self.trouble: Counter[str] = Counter()
        """How often there was a refusal or no answer, by its name."""
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
        """How many keys have a final answer."""
        return sum(any(is_final(answer) for answer in answers) for answers in list(self.answers.values()))

    async def have_answered(self, count: int) -> None:
        """Return once that many keys have a final answer."""
        while self.answered < count:  # noqa: ASYNC110 - 50 checks a second cost nothing here
            await asyncio.sleep(0.02)

    async def ask_until_answered(self, key: str, impatience: float, ask: Ask | None = None) -> Answer:
        """Ask with the key until the answer is final: anything but "in progress" and "store unavailable"."""
        while True:
            answer = await self.ask_once(key, impatience, ask)
            if answer is not None and is_final(answer):
                return answer
            await asyncio.sleep(self._pause * self._random.uniform(0.5, 1.5))

    async def ask_once(self, key: str, impatience: float, ask: Ask | None = None) -> Answer | None:
        """Ask once, and keep the answer."""
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
        """Ask once more with each key that has a final answer."""
        keys = [key for key, answers in self.answers.items() if any(map(is_final, answers))]
        for start in range(0, len(keys), self._count):
            some = keys[start : start + self._count]
            await asyncio.gather(*(self.ask_until_answered(key, self._impatience) for key in some))

    def new_key(self) -> str:
        """Return a new key, with its body in `wishes`."""
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
        """Wait until each client has its answer; start no more keys."""
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
    """Tell whether a client stops asking after this answer."""
    return answer.problem not in NOT_NOW


async def until_answered(ask: Ask, key: str, body: bytes, pause: float = 0.03) -> Answer:
    """Ask until the answer is final, and return it; earlier answers are not kept."""
    while True:
        try:
            answer = await ask(key, body, 10.0)
        except NoAnswerError:
            continue
        if is_final(answer):
            return answer
        await asyncio.sleep(pause)
