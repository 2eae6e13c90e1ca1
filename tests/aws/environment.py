"""A Lambda function that starts, prints its remaining time, and never ends; run as a process, to be killed."""

import asyncio
import json
import sys

from idempotency_mw.persistence.redis import AsyncRedisPersistenceLayer
from tests.aws.invoking import Context, Orders, mangum


def main(url: str, key_prefix: str) -> None:
    asyncio.set_event_loop(asyncio.new_event_loop())
    call = json.loads(sys.stdin.readline())
    context = Context(call["left_ms"], runs_out=True)

    async def during() -> None:
        sys.stdout.write(f"{context.get_remaining_time_in_millis()}\n")
        sys.stdout.flush()
        await asyncio.sleep(60)

    store = AsyncRedisPersistenceLayer.from_url(url, key_prefix=key_prefix)
    mangum(Orders(during), store)(call["event"], context)


if __name__ == "__main__":
    main(*sys.argv[1:])
