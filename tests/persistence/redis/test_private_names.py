"""Private names of redis-py stand in `redis_py.py`, and nowhere else in the package."""

import ast
import re
from pathlib import Path

import pytest

import idempotency_mw.persistence.redis as package

FOLDER = Path(package.__file__).parent
MODULES = {
    path.relative_to(FOLDER).as_posix(): path for path in FOLDER.rglob("*.py") if path.name != "redis_py.py"
}
PRIVATE = re.compile(r"_[a-z]\w*")
ASYNCIO = {"clients/foreign_loop.py": {"_remove_reader", "_remove_writer"}}


def tree_of(source):
    return ast.parse(source)


def defined(tree):
    """Return the private names that a module gives to what is its own."""
    names = set()
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
            case ast.Attribute(attr=name, ctx=ast.Store()) | ast.Name(id=name, ctx=ast.Store()):
                names.add(name)
    return names


OWN = set().union(*(defined(tree_of(path.read_text("utf-8"))) for path in MODULES.values()))


def foreign(source, own):
    """Return the private names in a module that are not the package's own, and those read from another object."""
    tree, found = tree_of(source), set()
    listed = {
        id(each)
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__slots__"
        for each in ast.walk(node)
    }
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id="self" | "cls"), attr=name) if name in own:
                pass
            case ast.Attribute(attr=name):
                found.add(name)
            case ast.ImportFrom(module=module, names=names):
                found.update({*(module or "").split("."), *(each.name for each in names)} - own)
            case ast.Import(names=names):
                found.update(part for each in names for part in each.name.split("."))
            case ast.Constant(value=str() as text) if id(node) not in listed:
                found.add(text)
    return set(filter(PRIVATE.fullmatch, found))


@pytest.mark.parametrize("name", MODULES)
def test_no_module_reaches_for_a_private_name_of_another_library(name):
    assert foreign(MODULES[name].read_text("utf-8"), OWN) == ASYNCIO.get(name, set())


@pytest.mark.parametrize(
    "source",
    [
        "connection._sock",
        "connection._sock = None",
        "super()._connect()",
        "self.pool._in_use_connections.add(1)",
        "self._sock.settimeout(1)",
        "getattr(connection, '_sock')",
        "attrgetter('_reader')",
        "import redis._parsers",
        "from redis._parsers import BaseParser",
        "from redis import _parsers",
    ],
)
def test_each_way_to_reach_for_one_is_seen(source):
    assert foreign(source, set())


@pytest.mark.parametrize(
    "source",
    ["self._mine", "self._mine = 1", "__slots__ = ('_mine',)", "self.__dict__", "__name__", "'_ and text'"],
)
def test_names_of_the_packages_own_are_not_meant(source):
    assert foreign(source, {"_mine"}) == set()
