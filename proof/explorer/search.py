"""Breadth-first search through all states. The first path found to a violation is therefore a shortest one."""

from collections.abc import Callable
from dataclasses import dataclass

from proof.explorer.states import Setting, State, Step, in_order
from proof.explorer.system import System
from proof.explorer.workers import PHASES
from proof.explorer.world import World, first, make_world, steps

__all__ = ["Explored", "explore", "is_wrong"]


@dataclass(frozen=True, slots=True)
class Explored:
    """The result of a search."""

    states: int
    steps: int
    path: tuple[tuple[State, Step], ...] = ()
    """The steps to the state that was looked for, each with the state before it; empty if it was not found."""


def is_wrong(step: Step) -> bool:
    """Tell whether a step violates a rule."""
    return bool(step.wrong)


def explore(system: System, setting: Setting, until: Callable[[Step], bool] = is_wrong) -> Explored:
    """Take every step from every reachable state, until one satisfies `until`."""
    world = make_world(system, setting, PHASES)
    start = first(setting)
    came_from: dict[State, State | None] = {start: None}
    states, made = [start], 0
    for state in states:  # the list grows during the loop
        for step in steps(world, state):
            made += 1
            if until(step):
                return Explored(len(states), made, _path(world, came_from, state, step))
            after, _ = in_order(step.state)
            if after not in came_from:
                came_from[after] = state
                states.append(after)
    return Explored(len(states), made)


def _path(
    world: World, came_from: dict[State, State | None], state: State, step: Step
) -> tuple[tuple[State, Step], ...]:
    """Go back to the beginning; from each state, find again the step that led to the next."""
    path = [(state, step)]
    while (before := came_from[state]) is not None:
        path.append((before, _step_to(world, before, state)))
        state = before
    return tuple(reversed(path))


def _step_to(world: World, before: State, state: State) -> Step:
    return next(step for step in steps(world, before) if in_order(step.state)[0] == state)
