"""Reads the rooms of the package, their floors and the imports between them, from the code.

The floors are those of the first import-linter contract of layers in pyproject.toml. A room is a module or a
folder that the contract names; a folder inside a room is a room of its own. The package itself, and modules that
nothing imports, are doors: what users import.
"""

import ast
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


class ArchitectureError(Exception):
    """The code has no plan: a module has no floor, or an import runs upward."""


@dataclass(frozen=True)
class Room:
    """A module or a folder. `path` is dotted, without the package; `modules` are the files in it.

    `place` is where the contract names it: the floor, then the place on that floor.
    """

    path: str
    place: tuple[int, int]
    about: str
    modules: tuple[str, ...]

    @property
    def name(self) -> str:
        """Its path, as in the file system."""
        return self.path.replace(".", "/")

    @property
    def floor(self) -> int:
        """The floor, counted from the top; doors stand above all if the contract does not name them."""
        return self.place[0]

    @property
    def parent(self) -> str:
        """The room that this one is a part of, or nothing."""
        return self.path.rpartition(".")[0]


@dataclass(frozen=True)
class House:
    """The rooms from top to bottom, and for each the rooms that it imports."""

    rooms: tuple[Room, ...]
    imports: dict[str, frozenset[str]]


def house_of(root: Path) -> House:
    """Read the package whose name and floors stand in pyproject.toml. Raises `ArchitectureError`."""
    linter = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]
    package: str = linter["root_package"]
    places = _places(linter["contracts"], package)
    sources = {_dotted(path, root): path for path in sorted((root / package).rglob("*.py"))}
    wanted = {name: set(_imported(path, name, sources)) for name, path in sources.items()}
    used = set().union(*wanted.values())
    room_of = {name: _room(name, package, places, used, sources) for name in sources}
    imports: dict[str, set[str]] = {room: set() for room in room_of.values()}
    for name, targets in wanted.items():
        imports[room_of[name]] |= {room_of[target] for target in targets} - {room_of[name]}
    rooms = [_described(room, room_of, sources, package, places) for room in imports]
    frozen = {room: frozenset(targets) for room, targets in imports.items()}
    return House(tuple(_from_top_to_bottom(rooms, frozen)), frozen)


DOORS = "doors"


def _places(contracts: list[dict], package: str) -> dict[str, tuple[int, int]]:
    """Return the floor of each module or folder that the contract names, and its place on it."""
    layers = next(
        each["layers"]
        for each in contracts
        if each["type"] == "layers" and each.get("containers", [package]) == [package]
    )
    return {
        name.strip(" ()").removeprefix(f"{package}."): (floor, place)
        for floor, layer in enumerate(layers)
        for place, name in enumerate(re.split(r"[|:]", layer))
    }


def _dotted(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imported(path: Path, name: str, sources: dict[str, Path]) -> Iterator[str]:
    """Yield the modules of the package that a module imports, wherever in its source."""
    home = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in sources)
        elif isinstance(node, ast.ImportFrom):
            base = _base(node, home)
            for alias in node.names:
                inside = f"{base}.{alias.name}"
                if inside in sources or base in sources:
                    yield inside if inside in sources else base


def _base(node: ast.ImportFrom, home: str) -> str:
    if not node.level:
        return node.module or ""
    parts = home.split(".")
    return ".".join([*parts[: len(parts) + 1 - node.level], *([node.module] if node.module else [])])


def _room(
    name: str, package: str, places: dict[str, tuple[int, int]], used: set[str], sources: dict[str, Path]
) -> str:
    """Return the room that a module is in: the package's own file and unused modules at the top are doors."""
    inner = name.removeprefix(package).strip(".")
    top, _, rest = inner.partition(".")
    is_folder = not top or sources[f"{package}.{top}"].name == "__init__.py"
    if not top or not (is_folder or name in used):
        return DOORS
    if top not in places:
        raise ArchitectureError(f"{name} is on no floor of the contract of layers in pyproject.toml")
    folder = rest.partition(".")[0]
    is_inner_folder = bool(folder) and sources[f"{package}.{top}.{folder}"].name == "__init__.py"
    return f"{top}.{folder}" if is_inner_folder else top


def _described(
    room: str, room_of: dict[str, str], sources: dict[str, Path], package: str, places: dict[str, tuple[int, int]]
) -> Room:
    inside = [name for name, its in room_of.items() if its == room]
    if room == DOORS:
        names = _names_within(inside, package, package)
        place = min((places[name] for name in names if name in places), default=(-1, 0))
        return Room(room, place, "What users import; nothing imports them.", names)
    home = f"{package}.{room}"
    about = (ast.get_docstring(ast.parse(sources[home].read_text("utf-8"))) or "").partition("\n\n")[0]
    return Room(room, places[room.partition(".")[0]], " ".join(about.split()), _names_within(inside, home, ""))


def _names_within(names: list[str], home: str, own: str) -> tuple[str, ...]:
    """Return the names within a room; of a folder in it, only that it is there."""
    parts = [name.removeprefix(home).strip(".").partition(".") for name in names]
    folders = {folder for folder, _, rest in parts if rest}
    return tuple(
        dict.fromkeys(f"{name}/" if name in folders else name or own for name, _, _ in parts if name or own)
    )


def _from_top_to_bottom(rooms: list[Room], imports: dict[str, frozenset[str]]) -> Iterator[Room]:
    """Yield the rooms floor by floor; on one floor, a room comes before those that it imports."""
    left = sorted(rooms, key=lambda room: (room.place, room.path))
    while left:
        floor = [room for room in left if room.floor == left[0].floor]
        free = [room for room in floor if not any(room.path in imports[other.path] for other in left)]
        if not free:
            raise ArchitectureError(f"an import runs upward, or in a circle: {', '.join(r.path for r in floor)}")
        yield free[0]
        left.remove(free[0])
