"""The picture of the architecture is what the imports of the code say."""

import importlib
import re
import sys
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree as ET

import pytest

ROOT = Path(__file__).resolve().parents[1]

PROJECT = """
[tool.importlinter]
root_package = "shop"

[[tool.importlinter.contracts]]
name = "inside a room"
type = "layers"
containers = ["shop.store"]
layers = ["disk", "frame"]

[[tool.importlinter.contracts]]
name = "downward"
type = "layers"
layers = ["shop.web | (shop.jobs)", "shop.store", "shop.errors"]
"""

SOURCES = {
    "__init__.py": '"""The shop."""\nfrom shop.web import serve\n',
    "door.py": '"""For users."""\nfrom shop import jobs\n',
    "jobs.py": '"""Jobs: what runs by itself. And more."""\nfrom . import errors\n',
    "web/__init__.py": '"""The web."""\nfrom .app import serve\n',
    "web/app.py": '"""App."""\ndef serve():\n    from shop.store.disk import Disk\n',
    "store/__init__.py": '"""Stores & shelves."""\n',
    "store/disk.py": '"""Disk."""\nimport shop.errors\n',
    "store/remote/__init__.py": '"""Remote."""\nfrom ..disk import Disk\n',
    "store/remote/wires/__init__.py": '"""Wires."""\nimport os\n',
    "errors.py": '"""Errors."""\n',
}


def tool(name: str) -> ModuleType:
    """Import a script as it is when it runs: its folder comes first."""
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(ROOT / "tools"))


architecture, house = tool("architecture"), tool("house")


def project(folder: Path, **changed: str) -> Path:
    (folder / "pyproject.toml").write_text(PROJECT)
    for name, source in {**SOURCES, **changed}.items():
        path = folder / "shop" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    return folder


def test_the_picture_is_what_the_imports_say_now() -> None:
    assert architecture.main(["--check"]) == 0


def test_rooms_stand_on_the_floors_of_the_contract_above_what_they_import(tmp_path: Path) -> None:
    rooms = house.house_of(project(tmp_path)).rooms
    assert [(room.path, room.floor, room.modules) for room in rooms] == [
        ("doors", -1, ("shop", "door")),
        ("web", 0, ("app",)),
        ("jobs", 0, ()),
        ("store.remote", 1, ("wires",)),
        ("store", 1, ("disk",)),
        ("errors", 2, ()),
    ]


def test_every_import_between_two_rooms_is_found_and_no_other(tmp_path: Path) -> None:
    assert house.house_of(project(tmp_path)).imports == {
        "doors": {"web", "jobs"},
        "web": {"store"},
        "jobs": {"errors"},
        "store": {"errors"},
        "store.remote": {"store"},
        "errors": set(),
    }


def test_the_picture_shows_each_room_and_an_arrow_into_each_room_that_is_imported(tmp_path: Path) -> None:
    drawn = architecture.drawing(house.house_of(project(tmp_path)))
    told = [" ".join(text.itertext()) for text in ET.fromstring(drawn).iter() if text.tag.endswith("text")]
    assert [line for line in told if line.startswith(("store", "jobs"))] == [
        "jobs Jobs: what runs by itself",
        "store/remote Remote",
        "store Stores & shelves",
    ]
    assert drawn.count('class="tip"') == 4
    assert drawn.count("Q") - drawn.count('class="tip"') == 6  # a bend for each import
    assert "6 imports" in drawn


def test_an_import_that_runs_upward_is_an_error(tmp_path: Path) -> None:
    root = project(tmp_path, **{"errors.py": '"""Errors."""\nfrom shop.web import serve\n'})
    with pytest.raises(house.ArchitectureError, match="upward"):
        house.house_of(root)


def test_a_module_without_a_floor_is_an_error(tmp_path: Path) -> None:
    root = project(tmp_path, **{"helpers.py": "", "jobs.py": '"""Jobs."""\nfrom shop import helpers\n'})
    with pytest.raises(house.ArchitectureError, match=re.escape("shop.helpers is on no floor")):
        house.house_of(root)


def test_a_picture_that_is_older_than_the_code_fails_the_check(tmp_path: Path, capsys) -> None:
    root = project(tmp_path)
    (root / "docs/pictures").mkdir(parents=True)
    arguments = ["--root", str(root)]
    assert architecture.main([*arguments, "--check"]) == 1
    assert "make architecture" in capsys.readouterr().err
    assert architecture.main(arguments) == 0
    assert architecture.main([*arguments, "--check"]) == 0
    project(root, **{"jobs.py": '"""Jobs."""\n'})
    assert architecture.main([*arguments, "--check"]) == 1
