"""Servers under load are killed, filled, flushed, and made to evict.

killed      SIGKILL to a server with an append-only file, restarted at once: no acknowledged completion is lost
SQLite      processes that write into the file are killed while they write: no acknowledged completion is lost
full        no memory left and nothing evicted: no new execution begins, and no result is lost
flushed     the script cache is flushed every few milliseconds: no client sees an error
evicting    an evicted record is like a new key, and a late completion creates no record
"""

from collections.abc import Callable, Iterator

from proof.figures import Figure, Progress, Size
from proof.servers.amount import Amount
from proof.servers.full import full
from proof.servers.gone import evicting, flushed
from proof.servers.killed import killed, sqlite

__all__ = ["Amount", "made", "run"]

AMOUNTS = {
    Size.CI: Amount(kills=5, writers_killed=5, clients=40, answers=300, flushing_seconds=3.0, held=10),
    Size.LONG: Amount(kills=60, writers_killed=60, clients=60, answers=2000, flushing_seconds=60.0, held=50),
}


def run(size: Size, progress: Progress) -> Iterator[Figure]:
    """Do all of it; yield the figures."""
    return made(AMOUNTS[size], progress)


def made(amount: Amount, progress: Progress) -> Iterator[Figure]:
    """Yield the figures of that much work."""
    scenes: tuple[Callable[[Amount], Iterator[Figure]], ...] = (killed, sqlite, full, flushed, evicting)
    for number, scene in enumerate(scenes):
        progress(number, len(scenes))
        try:
            yield from scene(amount)
        except Exception as error:
            yield Figure("", f"servers: {scene.__name__}", "it finishes", repr(error), holds=False)
