"""Calls the verbs of blocking and async layers alike, so that one test body serves both."""

import asyncio
from contextlib import contextmanager
from functools import partial

from idempotency_mw.core.record import Claim, Operation
from idempotency_mw.persistence.base import is_async
from idempotency_mw.persistence.redis import AsyncRedisPersistenceLayer, RedisPersistenceLayer
from idempotency_mw.testing.harness import a_claim, rival

__all__ = ["KINDS", "Claim", "Operation", "a_claim", "driven", "rival"]

KINDS = {"blocking": RedisPersistenceLayer, "async": AsyncRedisPersistenceLayer}


class Driven:
    """A layer whose verbs and other methods are called without await."""

    def __init__(self, layer, runner):
        self.layer = layer
        self.runner = runner

    def __getattr__(self, name):
        return partial(self._call, getattr(self.layer, name))

    def check(self):
        self._call(getattr(self.layer, "acheck", None) or self.layer.check)

    def close(self):
        self._call(getattr(self.layer, "aclose", None) or self.layer.close)

    def _call(self, verb, *arguments):
        if not is_async(self.layer):
            return verb(*arguments)
        return self.runner.run(_awaited(verb, *arguments))

    def rest(self, seconds):
        """Run the loop for so long, so that its background tasks proceed."""
        self.runner.run(asyncio.sleep(seconds))


@contextmanager
def driven(layer):
    """Drive the layer; close it and then its loop at the end."""
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        drive = Driven(layer, runner)
        try:
            yield drive
        finally:
            drive.close()


async def _awaited(verb, *arguments):
    return await verb(*arguments)
