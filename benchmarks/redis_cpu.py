"""Measure the server's CPU that completing costs, over a plain SET of the same bytes, on every server found here.

"script" is complete.lua, which gets the result as an argument; "renamed" is a SET under a temporary key and
complete_large.lua in one trip. `*` marks the way that the layer takes for the size. The CPU is that of the
server's process, user and system: with what it takes to read the bytes and to answer, one message a trip, all sent
alike (completing.py says how). The ways take turns, and each figure is the least of its rounds: what else runs on
the machine only adds.

Exits 0 where the layer takes, for each size, the way that is cheaper on the server where it is dearest, or one
that is about as cheap; 1 otherwise. The budgets are shown beside it: docs/decisions/011 says where they are not
met, and why. Takes most of a minute.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.completing import ALIKE, measures, way_taken
from benchmarks.driving import interleaved
from tests.servers import binaries

SMALL_BUDGET, LARGE_BUDGET = 1.5, 1.25
FROM = 10_000
AS_CHEAP = 1.1
SIZES = (200, 1_000, 10_000, 30_000, 100_000, 1_000_000, 10 << 20)
ROUNDS = 30

Ratios = dict[str, float]


def measured(name: str, binary: Path) -> dict[int, Ratios]:
    """Print the table of one server, and return what each way costs there, by size."""
    found: dict[int, Ratios] = {}
    with measures(binary, SIZES, lambda _: ALIKE) as cases:
        rounds = interleaved(cases, ROUNDS, lambda _: None)
    for size in SIZES:
        least = {way: min(took[way, size] for took in rounds) for way in ALIKE}
        found[size] = {way: least[way] / least["SET"] for way in ("script", "renamed")}
        taken, budget = way_taken(size), SMALL_BUDGET if size < FROM else LARGE_BUDGET
        figures = "  ".join(f"{ratio:>7.2f}{'*' if way == taken else ' '}" for way, ratio in found[size].items())
        verdict = "met" if found[size][taken] <= budget else "not met"
        print(f"{name:<8} {size:>10,}  {least['SET']:>10,.1f}  {figures}  {budget:>6}  {verdict}", flush=True)
    return found


def main() -> int:
    print(f"{'server':<8} {'bytes':>10}  {'SET, us':>10}  {'script':>8}  {'renamed':>8}  budget")
    servers = [measured(name, binary) for name, binary in binaries().items()]
    dearest = {
        size: {way: max(found[size][way] for found in servers) for way in ("script", "renamed")} for size in SIZES
    }
    cheaper = all(ways[way_taken(size)] <= AS_CHEAP * min(ways.values()) for size, ways in dearest.items())
    print("The cheaper way is taken." if cheaper else "THE DEARER WAY IS TAKEN.")
    return 0 if cheaper else 1


if __name__ == "__main__":
    sys.exit(main())
