"""What the journal and the answers say: each function returns what contradicts the promise, as words."""

from collections.abc import Iterable, Mapping
from hashlib import sha256

from proof.stage.asking import Answer
from proof.stage.fleet import Fate
from proof.stage.journal import Execution, Reader
from proof.stage.stores import Look

__all__ = ["all_fates", "cut_off", "different_answers", "live_beside", "lost_completions", "run_again"]

LATEST = 2.0
"""Seconds after it goes on by which a process that was stopped has run what stood next, on a busy machine."""


def all_fates(reader: Reader, fates: Iterable[Fate]) -> list[Fate]:
    """Return what befell the processes from outside, and by their own hand."""
    return [*fates, *(Fate(line.pid, line.at) for line in reader.of("dies"))]


def live_beside(reader: Reader, fates: Iterable[Fate], *, any_stop: bool = False) -> list[str]:
    """I1: executions that found another one of their key, in a process that was neither dead nor stopped.

    `any_stop`: a process that is stopped may hold up the others, as with SQLite's one lock.
    """
    fates = all_fates(reader, fates)
    found: list[str] = []
    for line in reader.of("beside"):
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
    """I2: keys with two answers, of those whose completion was acknowledged.

    The other answers are their clients' all the same: the store was away for longer than its deadline.
    """
    settled = {line.more["name"] for line in reader.of("settled")}
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
    """Return the executions that a process which has died has not settled."""
    settled = {line.more["storage_key"] for line in (*reader.of("settled"), *reader.of("lost")) if line.pid == pid}
    return [each for each in reader.executions.values() if each.pid == pid and each.storage_key not in settled]


def run_again(reader: Reader, fates: Iterable[Fate] = ()) -> list[str]:
    """I2: keys that ran once more although a completion had been acknowledged."""
    settled: dict[str, tuple[float, Execution]] = {}
    for line in reader.of("settled"):
        settled.setdefault(line.more["storage_key"], (line.at, reader.executions[line.more["name"]]))
    found: list[str] = []
    for execution in reader.executions.values():
        at, by = settled.get(execution.storage_key, (float("inf"), execution))
        if execution.begun > at and not _is_late(execution, by, fates):
            found.append(f"{execution.key}: ran again after its completion")
    return found


def _is_late(execution: Execution, other: Execution, fates: Iterable[Fate]) -> bool:
    """Tell whether its process was stopped between its acquire and its first line, and the other took it over."""
    return execution.attempt < other.attempt and any(
        fate.pid == execution.pid and fate.since < execution.begun < fate.until + LATEST
        for fate in fates
        if not fate.is_death
    )


def lost_completions(reader: Reader, look: Look) -> list[str]:
    """I5: completions that the store acknowledged and does not have, to the byte."""
    found: list[str] = []
    for line in reader.of("settled"):
        frame = look.frame(line.more["storage_key"])
        if frame is None or sha256(frame.result).hexdigest() != line.more["digest"]:
            found.append(f"{line.more['storage_key'][:12]}: acknowledged, and gone")
    return found
