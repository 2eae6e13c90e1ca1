"""Masters are killed under load, behind a Sentinel and in a cluster; and slots are moved under load.

without loss    the master is killed after its replica has received every acknowledged write
with loss       the replica is cut off, executions begin, and the master is killed, so their claims are lost. A
                second execution is allowed then (the promise holds "while the store keeps the writes that it
                acknowledged"), and the first owner's completion is refused
slots           slots in which executions are under way move from master to master
"""

from collections.abc import Iterator

from proof.failovers.amount import Amount
from proof.failovers.masters import fail_over
from proof.failovers.slots import slots
from proof.figures import Figure, Progress, Size
from tests.servers import binaries

__all__ = ["Amount", "made", "run"]

AMOUNTS = {Size.CI: Amount(failovers=1, slots=1200), Size.LONG: Amount(failovers=12, slots=16_384)}


def run(size: Size, progress: Progress) -> Iterator[Figure]:
    """Make all failovers and moves; yield the figures."""
    return made(AMOUNTS[size], progress)


def made(amount: Amount, progress: Progress, kinds: tuple[str, ...] = ("Sentinel", "cluster")) -> Iterator[Figure]:
    """Yield the figures of that much work."""
    binary = next(iter(binaries().values()))
    for number, kind in enumerate(kinds):
        progress(number, 3)
        yield from fail_over(kind, binary, amount)
    progress(2, 3)
    yield from slots(binary, amount)
    progress(3, 3)
