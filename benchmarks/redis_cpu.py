"""Measures the server's CPU for completing a claim, as a ratio to a plain SET, on every server of this machine.

script     complete.lua, with the result as an argument
renamed    a SET under a temporary key, and complete_large.lua, in one trip

`*` marks the way that the layer takes for this size. The CPU is that of the server's process, user and system,
including the reading of the request and the reply. All messages are sent alike (see completing.py). The ways take
turns; ratios are taken within a round, and the median is shown. docs/performance.md shows what a service sees,
with the clients that it uses.

Exits 0 if, for each size, the layer takes the cheaper way, or one that costs at most 10 % more, on the server
where the way costs most; 1 otherwise. It takes about a minute.
"""

import sys
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.completing import ALIKE, measures, way_taken
from benchmarks.driving import interleaved, median_ratio
from tests.servers import binaries

AS_CHEAP = 1.1
"""Ways whose costs differ by at most 10 % count as equally cheap."""
SIZES = (200, 1_000, 10_000, 30_000, 100_000, 1_000_000, 10 << 20)
ROUNDS = 30

Ratios = dict[str, float]


def measured(name: str, binary: Path) -> dict[int, Ratios]:
    """Measure one server and print its table; return the cost of each way, by size."""
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
    print("The layer takes the cheaper way." if cheaper else "THE LAYER TAKES THE MORE EXPENSIVE WAY.")
    return 0 if cheaper else 1


if __name__ == "__main__":
    sys.exit(main())
