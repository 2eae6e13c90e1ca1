"""What all parts saw, and the figures made from it."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from proof.figures import Figure, in_short
from proof.processes.part import FREE_WITHIN, LEASE, Part

__all__ = ["Seen"]


@dataclass(slots=True)
class Seen:
    """What all parts saw, added up."""

    killed: int = 0
    stopped: int = 0
    executions: int = 0
    cut_off: int = 0
    taken_over: int = 0
    late: int = 0
    answers: int = 0
    records: int = 0
    last_refused: float = -LEASE
    """The latest refusal because of a dead owner, in seconds after that owner's lease."""
    longest_free: float = 0.0
    """The longest time from the end of a dead owner's lease to the takeover, in seconds."""
    beside: list[str] = field(default_factory=list)
    different: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    not_free: list[str] = field(default_factory=list)
    unexpiring: int = 0
    broken: list[str] = field(default_factory=list)

    def figures(self, parts: tuple[Part, ...]) -> Iterator[Figure]:
        """Yield the figures of these parts."""
        kills, stops = sum(part.kills + part.deaths for part in parts), sum(part.stops for part in parts)
        tried = f"{kills} SIGKILLs, {stops} SIGSTOPs"
        done = f"{self.killed} SIGKILLs, {self.stopped} SIGSTOPs"
        is_done = (self.killed, self.stopped) == (kills, stops) and not self.broken
        yield Figure("", "workers killed and stopped under load", tried, in_short(self.broken) or done, is_done)
        held = f"0 of {self.executions:,} runs, {self.cut_off} of them cut off"
        yield _none("I1", "two live runs of one key, leases honoured", self.beside, held)
        held = f"0 of {self.answers:,} answers, {self.taken_over} from takeovers"
        yield _none("I2", "answers unlike the first, or runs after a completion", self.different, held)
        held = f"0, {self.late} late completions refused"
        yield _none("I3", "records changed by a worker stopped past its lease", self.changed, held)
        refused = f"last refused {self.last_refused * 1000:+.0f} ms"
        free = f"{refused}, taken over {self.longest_free * 1000:+.0f} ms"
        wanted = f"within {FREE_WITHIN * 1000:.0f} ms of its lease"
        what = "a dead owner's key is free again"
        yield Figure("I4", what, wanted, in_short(self.not_free) or free, not self.not_free and self.cut_off > 0)
        text = f"{self.unexpiring} of {self.records:,}"
        yield Figure("I4", "records without expiry", "0", text, self.unexpiring == 0 < self.records)


def _none(shows: str, what: str, found: list[str], held: str) -> Figure:
    return Figure(shows, what, "0", in_short(found) or held, not found)
