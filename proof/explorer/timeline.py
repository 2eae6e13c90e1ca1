"""A path as a timeline: one column for each worker and one for the store, one line for each step.

The states are in normal form and don't know which worker is which; this module tracks the workers from step to
step.
"""

from collections.abc import Iterator, Sequence
from string import ascii_uppercase

from proof.explorer.search import explore
from proof.explorer.states import NOBODY, Setting, Standing, State, Step, in_order
from proof.explorer.system import PRODUCTION

__all__ = ["takeover", "timeline"]

STATUSES = {"P": "in progress", "C": "completed", "N": "completed, not kept"}


def takeover() -> str:
    """Return the timeline, on production code, of a late owner whose complete meets the record of attempt 2."""
    setting = Setting(workers=2, losses=0, crashes=0, honoured=False)
    return timeline(explore(PRODUCTION, setting, until=_is_late_owners_end).path)


def _is_late_owners_end(step: Step) -> bool:
    return step.text == "completes: refused, replays"


def timeline(path: Sequence[tuple[State, Step]]) -> str:
    """Return a path as text. If its last step violates a rule, the last line names the violation."""
    workers = sum(worker.phase != "-" for worker in path[0][0].workers)
    heads = [*(f"worker {name}" for name in ascii_uppercase[:workers]), "store"]
    rows = [heads, *_rows(path, workers)]
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = ["  |  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    lines.insert(1, "--+--".join("-" * width for width in widths))
    if path[-1][1].wrong:
        lines.append(f"==> {path[-1][1].wrong}")
    return "\n".join(line.rstrip() for line in lines)


def _rows(path: Sequence[tuple[State, Step]], workers: int) -> Iterator[list[str]]:
    columns = list(range(workers))  # column of the worker at each place in the state
    owner = ""
    for state, step in path:
        cells = [""] * (workers + 1)
        if step.worker != NOBODY:
            columns.append(columns[step.worker])  # its delayed messages stay behind, in a place of their own
            cells[columns[step.worker]] = step.text
        record = step.state.record
        if record is not None and record.owner != NOBODY:
            owner = ascii_uppercase[columns[record.owner]]
        elif step.wrong and step.worker == NOBODY:
            owner = "a stranger"
        cells[-1] = _store_cell(state.record, step, owner)
        yield cells
        order = in_order(step.state)[1]
        columns = [columns[place] for place in order]


def _store_cell(before: Standing | None, step: Step, owner: str) -> str:
    after = step.state.record
    if step.worker == NOBODY:
        return f"{step.text}: {_text(after, owner)}"
    return "" if _same(before, after) else _text(after, owner)


def _same(before: Standing | None, after: Standing | None) -> bool:
    """Tell whether it is the same record; its owner's number may have changed or been forgotten."""
    if before is None or after is None:
        return before is after
    return before._replace(owner=NOBODY) == after._replace(owner=NOBODY)


def _text(record: Standing | None, owner: str) -> str:
    if record is None:
        return "free"
    if record.status == "C":
        return f"completed: {owner}'s {'answer' if record.kept == 'whole' else record.kept}"
    return f"{STATUSES[record.status]}: {owner}, attempt {record.attempt}"
