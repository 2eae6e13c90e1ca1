"""Measure the server's CPU that completing costs, over a plain SET of the same bytes, on every server found here.

"script" is complete.lua, which gets the result as an argument; "renamed" is a SET under a temporary key and
complete_large.lua in one trip. `*` marks the way that the layer takes for the size. The CPU is that of the
server's process, user and system: with what it takes to read the bytes and to answer, one message a trip, all sent
alike (completing.py says how). The ways take turns; ratios are taken within a round, and their median is
shown. What a service sees, with the clients in use, is in docs/performance.md.

Exits 0 where the layer takes, for each size, the way that is cheaper on the server where it is dearest, or one
that is about as cheap; 1 otherwise. Takes most of a minute.
"""

import sys
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.completing import ALIKE, measures, way_taken
from benchmarks.driving import interleaved, median_ratio
from tests.servers import binaries

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
        found[size] = {
            way: median_ratio(rounds, lambda took, w=way, s=size: took[w, s] / took["SET", s]) or 0.0
            for way in ("script", "renamed")
        }
        plain, taken = median(took["SET", size] for took in rounds), way_taken(size)
        figures = "  ".join(f"{ratio:>7.2f}{'*' if way == taken else ' '}" for way, ratio in found[size].items())
        print(f"{name:<8} {size:>10,}  {plain:>10,.1f}  {figures}".rstrip(), flush=True)
    return found


def main() -> int:
    print(f"{'server':<8} {'bytes':>10}  {'SET, us':>10}  {'script':>8}  {'renamed':>8}")
    servers = [measured(name, binary) for name, binary in binaries().items()]
    dearest = {
        size: {way: max(found[size][way] for found in servers) for way in ("script", "renamed")} for size in SIZES
    }
    cheaper = all(ways[way_taken(size)] <= AS_CHEAP * min(ways.values()) for size, ways in dearest.items())
    print("The cheaper way is taken." if cheaper else "THE DEARER WAY IS TAKEN.")
    return 0 if cheaper else 1


if __name__ == "__main__":
    sys.exit(main())
