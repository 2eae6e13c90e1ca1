"""Compares journal and answers with the promise. Each function returns the contradictions, as text."""

from collections.abc import Iterable, Mapping
from hashlib import sha256

from proof.stage.asking import Answer
from proof.stage.fleet import Fate
from proof.stage.journal import Execution, Reader
from proof.stage.stores import Look

__all__ = [
    "all_fates",
    "contradictions",
    "cut_off",
    "different_answers",
    "live_beside",
    "lost_completions",
    "run_again",
]

LATEST = 2.0
"""Seconds that a continued process may need on a busy machine to run the code that it was stopped in."""


def contradictions(reader: Reader, answers: Mapping[str, list[Answer]]) -> list[str]:
    """I1 and I2: return all contradictions, where no process died or was stopped."""
    return live_beside(reader, ()) + different_answers(reader, answers) + run_again(reader)


def all_fates(reader: Reader, fates: Iterable[Fate]) -> list[Fate]:
    """Return all deaths and stops: those caused by the run, and the processes that killed themselves."""
    return [*fates, *(Fate(line.pid, line.at) for line in reader.events("dies"))]


def live_beside(reader: Reader, fates: Iterable[Fate], *, any_stop: bool = False) -> list[str]:
    """I1: find executions that met another one of their key whose process was neither dead nor stopped.

    `any_stop`: a stop of any process excuses any pair. On SQLite a stopped process may hold the one lock of the
    file, so that the others can't extend their leases.
    """
    fates = all_fates(reader, fates)
    found: list[str] = []
    for line in reader.events("beside"):
        other = reader.executions[line.more["other"]]
        begun = reader.executions[line.more["name"]].begun
        is_excused = any(
            fate.since <= begun and fate.until >= other.begun
            for fate in fates
            if fate.pid == other.pid or (any_stop and not fate.is_death)
        )
        if not is_excused and not _is_late(reader.executions[line.more["name"]], other, fates):
            found.append(f"{other.key}: attempt {other.attempt} and another live at once")
    return found


def different_answers(reader: Reader, answers: Mapping[str, list[Answer]]) -> list[str]:
    """I2: find keys with more than one answer among those whose completion was acknowledged.

    An answer whose completion was not acknowledged is left out: the store was away for longer than the layer's
    deadline, so its client got an answer that no record holds.
    """
    settled = {line.more["name"] for line in reader.events("settled")}
    found: list[str] = []
    for key, some in answers.items():
        given = [answer for answer in some if answer.problem is None]
        kept = [answer for answer in given if answer.is_replay or answer.execution in settled]
        if len({answer.digest for answer in kept}) > 1:
            found.append(f"{key}: {len({answer.digest for answer in kept})} different answers")
        if sum(not answer.is_replay for answer in kept) > 1:
            found.append(f"{key}: two answers that are no replays")
        found.extend(f"{key}: {answer.status}" for answer in given if answer.status != 201)
    return found


def cut_off(reader: Reader, pid: int) -> list[Execution]:
    """Return the executions of a dead process that it had not settled."""
    settled = {
        line.more["storage_key"] for line in (*reader.events("settled"), *reader.events("lost")) if line.pid == pid
    }
    return [each for each in reader.executions.values() if each.pid == pid and each.storage_key not in settled]


def run_again(reader: Reader, fates: Iterable[Fate] = ()) -> list[str]:
    """I2: find keys that ran again after a completion had been acknowledged."""
    settled: dict[str, tuple[float, Execution]] = {}
    for line in reader.events("settled"):
        settled.setdefault(line.more["storage_key"], (line.at, reader.executions[line.more["name"]]))
    found: list[str] = []
    for execution in reader.executions.values():
        at, by = settled.get(execution.storage_key, (float("inf"), execution))
        if execution.begun > at and not _is_late(execution, by, fates):
            found.append(f"{execution.key}: ran again after its completion")
    return found


def _is_late(execution: Execution, other: Execution, fates: Iterable[Fate]) -> bool:
    """Tell whether `other` took the key over while `execution`'s process was stopped, before its first line."""
    return execution.attempt < other.attempt and any(
        fate.pid == execution.pid and fate.since < execution.begun < fate.until + LATEST
        for fate in fates
        if not fate.is_death
    )


def lost_completions(reader: Reader, look: Look) -> list[str]:
    """I5: find completions that the store acknowledged and no longer holds byte for byte."""
    found: list[str] = []
    for line in reader.events("settled"):
        frame = look.frame(line.more["storage_key"])
        if frame is None or sha256(frame.result).hexdigest() != line.more["digest"]:
            found.append(f"{line.more['storage_key'][:12]}: acknowledged, and gone")
    return found
