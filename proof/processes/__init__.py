"""Workers are killed and stopped under load: uvicorn over Redis and over SQLite, gunicorn over Valkey.

Clients send a steady load; each asks with its key until it has an answer. Meanwhile workers are killed from
outside, kill themselves at moments too short to be hit from outside, and are stopped until other workers have
taken their executions over. Shows I1 to I4; `proof.stage.app` says how the app itself checks I1.
"""

from collections.abc import Iterator
from contextlib import ExitStack

from proof.figures import Figure, Progress, Size
from proof.processes.part import Part
from proof.processes.round import Round
from proof.processes.seen import Seen

__all__ = ["Part", "made", "run"]

CI = (
    Part("uvicorn", "redis", kills=10, deaths=8, stops=5),
    Part("uvicorn", "sqlite", kills=4, deaths=4, stops=3),
    Part("gunicorn", "valkey", kills=2, deaths=2, stops=2, workers=2),
)
ROUNDS = {Size.CI: 1, Size.LONG: 12}


def run(size: Size, progress: Progress) -> Iterator[Figure]:
    """Kill and stop workers; yield the figures."""
    parts = CI * ROUNDS[size]
    return made(parts, progress)


def made(parts: tuple[Part, ...], progress: Progress, seed: int = 1) -> Iterator[Figure]:
    """Yield the figures of these parts."""
    seen = Seen()
    of = sum(part.kills + part.deaths + part.stops for part in parts)

    def tell() -> None:
        progress(seen.killed + seen.stopped, of)

    for number, part in enumerate(parts):
        with ExitStack() as stack:
            try:
                Round(part, stack, seen, f"{seed}-{number}").make(tell)
            except Exception as error:
                seen.broken.append(f"{part.kind} over {part.store}: {type(error).__name__}: {error}")
    yield from seen.figures(parts)
