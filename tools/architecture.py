"""Draws docs/pictures/architecture.svg from the imports of the code, so that the picture can't lie.

    python tools/architecture.py            writes the picture
    python tools/architecture.py --check    fails if the picture is not what the code says now

`house.py` finds the rooms and the imports between them. Each room is a row. Its line runs to the right and bends
down into one lane for each room that it imports; a lane ends with the arrow into that room. Rows are ordered so
that all lanes run downward. If an import can't, that is an error.
"""

import argparse
import re
import sys
from collections.abc import Iterator
from html import escape
from pathlib import Path
from textwrap import wrap

from house import House, Room, house_of

ROOT = Path(__file__).resolve().parents[1]
PICTURE = Path("docs/pictures/architecture.svg")

WIDTH = 880
GAP = 8
FLOOR_GAP = 12
LEFT = 24
RIGHT = 500
FIRST_LANE = 534
LANE_GAP = 34
BEND = 9
# As many characters as fit in a box at the sizes below, in the widest of the usual sans-serif fonts.
CHARACTERS = 74
MODULE_CHARACTERS = 76

STYLE = """
    .paper { fill: #ffffff; stroke: #d4d9e0 } .floor { fill: #eef2f6 } .room { fill: #ffffff; stroke: #8b97a6 }
    .ink { fill: #1b2430 } .soft { fill: #4a5564 } .faint { fill: #687486 }
    .line { stroke: #4f7fb5; stroke-width: 1.3; fill: none } .tip { fill: #2f6fb3 }
    @media (prefers-color-scheme: dark) {
      .paper { fill: #0f141a; stroke: #303a46 } .floor { fill: #1a222c } .room { fill: #0f141a; stroke: #5a6778 }
      .ink { fill: #e6eaf0 } .soft { fill: #b3bdca } .faint { fill: #8793a3 }
      .line { stroke: #5b8dc4 } .tip { fill: #82b3e8 }
    }
"""


def drawing(house: House) -> str:
    """Return the picture."""
    tops = _tops(house.rooms)
    targets = [room for room in house.rooms if any(room.path in to for to in house.imports.values())]
    lanes = {room.path: _lane(number, len(targets)) for number, room in enumerate(targets)}
    last = house.rooms[-1]
    parts = [
        *_opening(tops[last.path] + _height(last) + 20, house),
        *_bands(house.rooms, tops),
        *(
            _wires(_level(room, tops), [lanes[target] for target in house.imports[room.path]])
            for room in house.rooms
        ),
        *(part for room in targets for part in _lane_down(room, house, tops, lanes[room.path])),
        *(part for room in house.rooms for part in _box(room, tops[room.path])),
        "</svg>",
    ]
    return "\n".join(filter(None, parts)) + "\n"


def _module_lines(room: Room) -> list[str]:
    """Return the room's modules, in lines that fit."""
    return wrap("   ".join(room.modules), MODULE_CHARACTERS)


def _height(room: Room) -> int:
    """Return how much of the picture the room needs."""
    return 28 + 15 * len(_module_lines(room))


def _tops(rooms: tuple[Room, ...]) -> dict[str, int]:
    """Return where each room begins: a little further down where a new floor does."""
    tops: dict[str, int] = {}
    top, floor = 80, rooms[0].floor
    for room in rooms:
        top += FLOOR_GAP if room.floor != floor else 0
        tops[room.path], floor = top, room.floor
        top += _height(room) + GAP
    return tops


def _lane(number: int, count: int) -> int:
    return FIRST_LANE + number * min(LANE_GAP, (WIDTH - LEFT - FIRST_LANE) // max(count - 1, 1))


def _opening(height: int, house: House) -> Iterator[str]:
    arrows = sum(map(len, house.imports.values()))
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        'font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif" role="img" '
        'aria-labelledby="title">'
    )
    yield (
        f'  <title id="title">The {len(house.rooms)} rooms of the package on their floors, and the {arrows} '
        "imports between rooms, all of which run downward</title>"
    )
    yield f"  <style>{STYLE}  </style>"
    yield f'  <rect class="paper" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="8"/>'
    yield f'  <text class="ink" x="{LEFT}" y="30" font-size="16" font-weight="600">Rooms and imports</text>'
    yield (
        f'  <text class="soft" x="{LEFT}" y="52" font-size="12.5">The line of a room runs to the right, and bends '
        "down once for each room that it imports: the one that the arrow points at.</text>"
    )


def _bands(rooms: tuple[Room, ...], tops: dict[str, int]) -> Iterator[str]:
    for floor in sorted({room.floor for room in rooms}):
        on_it = [room for room in rooms if room.floor == floor]
        top = tops[on_it[0].path] - 6
        height = tops[on_it[-1].path] + _height(on_it[-1]) + 6 - top
        yield f'  <rect class="floor" x="12" y="{top}" width="{WIDTH - 24}" height="{height}" rx="6"/>'


def _level(room: Room, tops: dict[str, int]) -> int:
    """Return where a room's line runs: a little above its middle; the arrow comes in a little below."""
    return tops[room.path] + _height(room) // 2 - 5


def _wires(y: int, lanes: list[int]) -> str:
    """Draw a room's line to the right, and where it bends into each lane."""
    bends = "".join(f"M{x - BEND} {y}Q{x} {y} {x} {y + BEND}" for x in sorted(lanes))
    return f'  <path class="line" d="M{RIGHT} {y}H{max(lanes) - BEND}{bends}"/>' if lanes else ""


def _lane_down(room: Room, house: House, tops: dict[str, int], x: int) -> Iterator[str]:
    """Draw the lane into a room, from its topmost importer."""
    first = next(each for each in house.rooms if room.path in house.imports[each.path])
    start, y = _level(first, tops) + BEND, _level(room, tops) + 10
    yield f'  <path class="line" d="M{x} {start}V{y - BEND}Q{x} {y} {x - BEND} {y}H{RIGHT + 8}"/>'
    yield f'  <path class="tip" d="M{RIGHT + 1} {y}l9 -4.5v9z"/>'


def _box(room: Room, top: int) -> Iterator[str]:
    left = LEFT + (24 if room.parent else 0)
    yield f'  <rect class="room" x="{left}" y="{top}" width="{RIGHT - left}" height="{_height(room)}" rx="5"/>'
    about = _cut(room.about, CHARACTERS - len(room.name) * 3 // 2 - (4 if room.parent else 0))
    yield (
        f'  <text class="ink" x="{left + 10}" y="{top + 19}" font-size="14" font-weight="600">{escape(room.name)}'
        f'<tspan class="soft" dx="10" font-size="12" font-weight="400">{escape(about, quote=False)}</tspan></text>'
    )
    for number, line in enumerate(_module_lines(room)):
        at = f'x="{left + 10}" y="{top + 36 + 15 * number}"'
        yield f'  <text class="faint" {at} font-size="11" xml:space="preserve">{escape(line)}</text>'


def _cut(text: str, characters: int) -> str:
    """Return the first sentence, or what comes before its colon or semicolon, or as many words as fit."""
    sentence = re.split(r"(?<=[.])\s", text)[0].rstrip(".")
    if len(sentence) <= characters:
        return sentence
    beginning = re.split("[;:]", sentence)[0]
    if len(beginning) <= characters and beginning.count(" ") > 1:
        return beginning
    return sentence[:characters].rpartition(" ")[0].rstrip(" ,:;") + " …"


def main(arguments: list[str] | None = None) -> int:
    """Write the picture, or check the one that is there."""
    parser = argparse.ArgumentParser(description="Draw the architecture from the code's imports.")
    parser.add_argument("--check", action="store_true", help="fail if the picture is not what the code says")
    parser.add_argument("--root", type=Path, default=ROOT, help="the project, by default this one")
    parser.add_argument("--to", type=Path, help=f"another file than {PICTURE}")
    asked = parser.parse_args(arguments)
    picture = asked.to or asked.root / PICTURE
    drawn = drawing(house_of(asked.root))
    if not asked.check:
        picture.write_text(drawn, "utf-8")
    elif not picture.is_file() or picture.read_text("utf-8") != drawn:
        print(f"{PICTURE} is not what the imports say now: run make architecture", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
