"""Writes docs/performance.md and its pictures from the results. Their prose is in performance.md.txt."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import pictures
from benchmarks.budgets import BUDGETS, added
from benchmarks.environments import ENVIRONMENTS, ROOT
from benchmarks.timing import SELDOM_COLLECTED, UNCOLLECTED

__all__ = ["write"]

DOCS = ROOT / "docs"
FOLDER = DOCS / "performance"

Results = Mapping[str, Any]

NAMES = {
    "ours": "ours",
    "ours-wsgi": "ours, WSGI",
    "ours-function": "ours, function",
    "idemkit": "idemkit 1.0.2",
    "idemkit-wsgi": "idemkit, WSGI",
    "idemgate": "idemgate 0.1.0",
    "fastapi-idempotency-key": "f.-idempotency-key 0.1.1",
    "ichido": "ichido 0.1.0",
    "powertools": "Powertools 3.37.0",
    "calls": "bare calls",
    "calls-blocking": "bare calls, blocking",
}
NAMES |= {name + how: shown + how for name, shown in NAMES.items() for how in (SELDOM_COLLECTED, UNCOLLECTED)}
ASGI = ("ours", "idemkit", "idemgate", "fastapi-idempotency-key", "ichido")
BLOCKING = ("ours-wsgi", "idemkit-wsgi", "ours-function", "powertools")
FLOOR_OF = dict.fromkeys(ASGI, "calls") | dict.fromkeys(BLOCKING, "calls-blocking")


def write(results: Results) -> None:
    """Write the page and its pictures."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for path, svg in drawn(results):
        path.write_text(svg, "utf-8")
    (DOCS / "performance.md").write_text(page(results), "utf-8")


def drawn(results: Results) -> Iterable[tuple[Path, str]]:
    """Yield the path and the content of each picture."""
    title = "CPU added to a request, 50 in flight"
    cpu = {NAMES[name]: results["cpu"]["50"][name] for name in ASGI if name in results["cpu"]["50"]}
    yield FOLDER / "cpu.svg", pictures.bars(title, cpu, floor="bare redis.asyncio calls")
    title = "CPU added to a request or call, blocking"
    blocking = {NAMES[name]: results["blocking"][name] for name in BLOCKING if name in results["blocking"]}
    yield FOLDER / "blocking.svg", pictures.bars(title, blocking, floor="bare redis-py calls")
    if "instructions" in results:
        title = "Instructions added to a request"
        ratios = {NAMES[name]: _over_floor(results, name) for name in ASGI if name in results["instructions"]}
        yield FOLDER / "instructions.svg", pictures.bars(title, ratios, floor="bare redis.asyncio calls")
    flights = {
        NAMES[name]: {float(number): each["cpu"] for number, each in found.items() if each["cpu"] is not None}
        for name, found in results["in_flight"].items()
    }
    title = "CPU of a first request, by requests in flight"
    up = "CPU a request, over that with 50"
    yield FOLDER / "in-flight.svg", pictures.lines(title, flights, across="in flight", up=up)
    keys = {
        kind: {float(number): each[kind] for number, each in results["keys"].items()}
        for kind in ("first", "replay")
    }
    up = "CPU a request, the server's included, over that with 1,000"
    title = "CPU of a request, by live keys"
    yield FOLDER / "keys.svg", pictures.lines(title, keys, across="live keys", up=up)


def _over_floor(results: Results, name: str) -> dict[str, float]:
    floor = results["instructions"][FLOOR_OF[name]]
    return {kind: added(results, name, kind) / floor[kind] for kind in ("first", "replay")}


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    aligned = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, aligned, *rows))


def _ratio(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _kinds(found: Mapping[str, float] | None) -> tuple[str, str]:
    return ("–", "–") if found is None else (_ratio(found["first"]), _ratio(found["replay"]))


def page(results: Results) -> str:
    """Return the text of the page."""
    about = results["about"]
    return PAGE.format(
        machine=f"{about['cores']} cores ({about['machine']}), Python {about['python']}, "
        f"redis-py {about['redis-py']}, {about['server']}",
        budgets=_budgets(results),
        peers=_peers(results),
        counts=_counts(results),
        instructions=_instructions(results),
        unkeyed=_unkeyed(results),
        cpu=_cpu(results),
        rate=_rate(results),
        in_flight=_in_flight(results),
        keys=_keys(results),
        size=_size(results),
        server=_table(
            ["Result of", *(f"{int(size):,} B" for size in next(iter(results["server"].values()))["in use"])],
            [
                [f"CPU of {name.capitalize()}, {shown}", *map(_ratio, found[how].values())]
                for how, shown in (("in use", "× redis-py's SET"), ("alike", "× a SET sent alike"))
                for name, found in results["server"].items()
            ],
        ),
    )


def _budgets(results: Results) -> str:
    rows: list[tuple[str, ...]] = []
    for budget in BUDGETS:
        value = budget.value(results)
        limit = f"{'≥' if budget.at_least else '≤'} {budget.limit:g}{budget.unit}"
        found = "not measured" if value is None else f"{value:.3g}{budget.unit}"
        holds = value is None or budget.holds(value)
        rows.append((budget.what, limit, found if holds else f"**{found}**", "" if holds else "missed"))
    return _table(["What", "Budget", "Measured", ""], rows)


def _peers(results: Results) -> str:
    def row(environment: Any) -> tuple[str, str]:
        why = results["installed"].get(environment.name)
        what = ", ".join(
            line for line in environment.requirements if not line.startswith(("uvicorn", "httptools"))
        )
        return environment.name, what if why is None else f"could not be installed: {why}"

    return _table(["Environment", "Installed"], map(row, ENVIRONMENTS)).replace("---:", "---")


def _counts(results: Results) -> str:
    def row(name: str) -> tuple[str, ...]:
        counted = results["counts"][name]
        trips = [
            f"{counted[k]['trips']:g}" if k in counted else "–"
            for k in ("first", "replay", "conflict", "mismatch")
        ]
        stored = results["stored"][name]
        return NAMES[name], *trips, str(stored["key"] + stored["value"]), str(stored["memory"])

    head = ["Round trips", "first", "replay", "409", "422", "stored, key and value", "MEMORY USAGE"]
    return _table(head, map(row, results["counts"]))


def _instructions(results: Results) -> str:
    if "instructions" not in results:
        return "Not measured: there was no valgrind."
    names = [name for name in (*ASGI, *BLOCKING) if name in results["instructions"]]

    def row(name: str) -> tuple[str, ...]:
        counted = results["instructions"][name]
        more = [f"{added(results, name, kind) / 1000:,.0f} k" for kind in ("first", "replay")]
        unkeyed = f"{counted['unkeyed'] - counted['bare']:,.0f}" if "unkeyed" in counted else "–"
        return NAMES[name], *more, *_kinds(_over_floor(results, name)), unkeyed

    floors = [
        (
            NAMES[name],
            *(f"{results['instructions'][name][kind] / 1000:,.0f} k" for kind in ("first", "replay")),
            "1",
            "1",
            "–",
        )
        for name in ("calls", "calls-blocking")
    ]
    head = ["Instructions added", "first", "replay", "first, × calls", "replay, × calls", "no key"]
    return _table(head, [*map(row, names), *floors])


def _unkeyed(results: Results) -> str:
    def row(each: Mapping[str, Any]) -> tuple[str, ...]:
        request = "POST, no key" if each["method"] == "POST" else each["method"]
        return f"{each['app']}, {each['way']}", request, f"{each['ratio']:.4f}", f"{each['budget'] or 'none'}"

    return _table(
        ["App", "Request", "Instructions, × the bare app", "Budget"], map(row, results.get("unkeyed", ()))
    )


def _cpu(results: Results) -> str:
    cpu = results["cpu"]
    rows = [
        (NAMES[name], *_kinds(cpu["1"].get(name)), *_kinds(cpu["50"].get(name)))
        for name in ASGI
        if name in cpu["50"]
    ]
    head = ["CPU added, × bare calls", "first, 1 in flight", "replay", "first, 50 in flight", "replay"]
    blocking = [
        (NAMES[name], *_kinds(results["blocking"][name])) for name in BLOCKING if name in results["blocking"]
    ]
    return _table(head, rows) + "\n\n" + _table(["CPU added, × bare blocking calls", "first", "replay"], blocking)


def _rate(results: Results) -> str:
    def row(name: str) -> tuple[str, ...]:
        found = results["rate"][name]
        over = [_ratio(found[f"{kind} over idemkit"]) for kind in ("first", "replay")]
        return NAMES[name], *_kinds(found), *over

    head = ["Requests a second", "first, × its bare app", "replay", "first, × idemkit", "replay"]
    return _table(head, map(row, results["rate"]))


def _in_flight(results: Results) -> str:
    found = results["in_flight"]
    numbers = list(next(iter(found.values())))
    rows = [
        (NAMES[name], *("refused" if each[n]["cpu"] is None else _ratio(each[n]["cpu"]) for n in numbers))
        for name, each in found.items()
    ]
    return _table(["CPU of a first request, × 50 in flight", *(f"{int(n):,}" for n in numbers)], rows)


def _keys(results: Results) -> str:
    found = results["keys"]
    rows = [(kind, *(_ratio(each[kind]) for each in found.values())) for kind in ("first", "replay")]
    return _table(["CPU, × 1,000 live keys", *(f"{int(number):,}" for number in found)], rows)


def _size(results: Results) -> str:
    found = results["size"]
    sizes = list(found["ours"])
    rows = [
        (f"{NAMES[name]}, {kind}", *(_ratio(each[size][kind]) if size in each else "–" for size in sizes))
        for name, each in found.items()
        for kind in ("first", "replay")
    ]
    return _table(["CPU added, × bare calls", *(f"{int(size):,} B" for size in sizes)], rows)


PAGE = (Path(__file__).parent / "performance.md.txt").read_text("utf-8")
