"""Jobs of a queue that delivers at least once, on asyncio. Each job is done once.

    python examples/async_function.py

Three workers get the same job at the same time. One runs it; the others wait for its result.
"""

import asyncio
from functools import partial

from idempotency_mw import IdempotencyConfig, idempotent_function
from idempotency_mw.calls import Call
from idempotency_mw.handler import AsyncIdempotencyHandler
from idempotency_mw.persistence.memory import MemoryPersistenceLayer
from idempotency_mw.persistence.threaded import as_async

store = MemoryPersistenceLayer()
config = IdempotencyConfig(wait_seconds=5)
runs: list[str] = []


@idempotent_function(data_keyword_argument="job", persistence_store=store, config=config, key_prefix="render")
async def render(job: dict[str, str], worker: int) -> str:
    runs.append(f"render, by worker {worker}")
    await asyncio.sleep(0.05)
    return f"{job['page']}.pdf"


async def send(address: str) -> str:
    runs.append("send")
    return f"sent to {address}"


async def main() -> None:
    job = {"page": "invoice-17"}
    print(await asyncio.gather(*[render(job, worker) for worker in range(3)]))
    # Without the decorator: a handler, and a key that is given by hand.
    handler = AsyncIdempotencyHandler(as_async(store), config)
    for _ in range(2):
        print(await handler.handle(Call("invoice-17", name="send"), partial(send, "ada@example.org")))
    print("runs:", runs)


if __name__ == "__main__":
    asyncio.run(main())
