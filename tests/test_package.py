"""The package as a whole: its dependencies, its public names, and its wheel."""

import ast
import importlib
import pkgutil
import re
import subprocess
import sys
import tomllib
from itertools import groupby
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest

import idempotency_mw

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
SOURCES = sorted((ROOT / "idempotency_mw").rglob("*.py"))
MODULES = sorted(
    ["idempotency_mw"]
    + [module.name for module in pkgutil.walk_packages(idempotency_mw.__path__, prefix="idempotency_mw.")]
)

# The public names and their modules, as in the documentation.
PUBLIC = {
    "idempotency_mw": [
        "IdempotencyConfig",
        "HTTPConfig",
        "current_execution",
        "idempotent",
        "idempotent_function",
    ],
    "idempotency_mw.calls": ["Call"],
    "idempotency_mw.serializers": ["PydanticSerializer", "DataclassSerializer", "CustomDictSerializer"],
    "idempotency_mw.asgi": ["IdempotencyMiddleware"],
    "idempotency_mw.persistence.base": ["PersistenceLayer", "AsyncPersistenceLayer"],
    "idempotency_mw.persistence.memory": ["MemoryPersistenceLayer"],
    "idempotency_mw.persistence.sqlite": ["SQLitePersistenceLayer"],
    "idempotency_mw.persistence.redis": [
        "AsyncRedisPersistenceLayer",
        "RedisPersistenceLayer",
        "RedisConnection",
        "RedisClientProtocol",
    ],
    "idempotency_mw.handler": ["IdempotencyHandler", "AsyncIdempotencyHandler"],
    "idempotency_mw.core.record": [
        "Operation",
        "Claim",
        "Record",
        "Status",
        "Acquired",
        "Existing",
        "Settled",
        "Lost",
    ],
    "idempotency_mw.http.message": ["Request", "Response"],
    "idempotency_mw.errors": [
        "IdempotencyError",
        "IdempotencyConfigurationError",
        "IdempotencyKeyError",
        "IdempotencyAlreadyInProgressError",
        "IdempotencyValidationError",
        "IdempotencyOutcomeUnknownError",
        "IdempotencyExecutionFailedError",
        "IdempotencyResponseNotKeptError",
        "IdempotencyPersistenceLayerError",
        "IdempotencyPersistenceConnectionError",
        "IdempotencyRecordError",
    ],
}

BLOCKER = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocker())
"""


def run(script: str, *, without: set[str]) -> str:
    """Run a script in a process that can't import these packages, and return its output."""
    code = BLOCKER.format(blocked=without) + script
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def order(name: str) -> tuple[int, list[Any]]:
    """The sort key of ruff's RUF022: constants, classes, the rest; numbers in names in numeric order."""
    kind = 0 if name.isupper() else 1 if name[0].isupper() else 2
    runs = ["".join(run) for _, run in groupby(name, str.isdigit)]
    return kind, [(run.isdigit(), int(run) if run.isdigit() else run) for run in runs]


# Dependencies.

OPTIONAL = {"starlette", "werkzeug", "anyio", "fastapi", "trio", "valkey"}


def test_no_module_needs_an_optional_package() -> None:
    for alone in ("idempotency_mw", "idempotency_mw.asgi", ", ".join(MODULES)):
        assert run(f"import {alone}; print('imported')", without=OPTIONAL) == "imported"


def test_only_the_redis_layers_need_redis() -> None:
    modules = [module for module in PUBLIC if module != "idempotency_mw.persistence.redis"]
    assert run(f"import {', '.join(modules)}; print('imported')", without={*OPTIONAL, "redis"}) == "imported"


ASK = """
import asyncio
from idempotency_mw import HTTPConfig
from idempotency_mw.asgi import IdempotencyMiddleware
from idempotency_mw.errors import IdempotencyConfigurationError
from idempotency_mw.persistence.memory import MemoryPersistenceLayer

async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 201, "headers": []})
    await send({"type": "http.response.body", "body": b"made"})

def wrapped(**options):
    return IdempotencyMiddleware(app, persistence_store=MemoryPersistenceLayer(), **options)

async def ask(middleware):
    sent = []
    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}
    async def send(message):
        sent.append(message)
    headers = [(b"idempotency-key", b"k")]
    scope = {"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": headers}
    await middleware(scope, receive, send)
    return sent[0]["status"], sent[1]["body"], (b"idempotent-replayed", b"true") in sent[0]["headers"]

def refusal(**options):
    try:
        wrapped(**options)
    except IdempotencyConfigurationError as error:
        return str(error)
"""


@pytest.mark.row(34, 35)
def test_the_middleware_serves_without_any_optional_package() -> None:
    script = ASK + "\nmiddleware = wrapped()\nprint(asyncio.run(ask(middleware)), asyncio.run(ask(middleware)))"
    assert run(script, without=OPTIONAL) == "(201, b'made', False) (201, b'made', True)"


@pytest.mark.parametrize("option", ["HTTPConfig(caller=lambda request: 'a')", "lambda request: HTTPConfig()"])
def test_a_hook_without_its_framework_is_refused_with_the_name_of_the_extra(option: str) -> None:
    assert "idempotency_mw[asgi]" in run(ASK + f"\nprint(refusal(http={option}))", without={"starlette"})
    assert run(ASK + f"\nprint(refusal(http={option}))", without=set()) == "None"


def test_the_extras_that_messages_name_exist() -> None:
    named = {
        extra for source in SOURCES for extra in re.findall(r"idempotency_mw\[(\w+)\]", source.read_text("utf-8"))
    }
    assert "asgi" in named
    assert named <= set(PROJECT["optional-dependencies"])


# Public names.


@pytest.mark.parametrize("module", PUBLIC)
def test_every_public_name_can_be_imported(module: str) -> None:
    found = importlib.import_module(module)
    for name in PUBLIC[module]:
        assert getattr(found, name)
        assert name in found.__all__


@pytest.mark.parametrize("module", MODULES)
def test_the_names_in_all_exist_and_are_sorted(module: str) -> None:
    found = importlib.import_module(module)
    offered = getattr(found, "__all__", [])
    assert offered == sorted(set(offered), key=order)
    assert [name for name in offered if not hasattr(found, name)] == []


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: str(source.relative_to(ROOT)))
def test_every_module_has_a_docstring(source: Path) -> None:
    assert ast.get_docstring(ast.parse(source.read_text("utf-8")))


def test_the_docstrings_tree_of_errors_is_complete() -> None:
    errors = importlib.import_module("idempotency_mw.errors")
    drawn = re.findall(r"[├└]── (\w+)", errors.__doc__ or "")
    assert sorted(["IdempotencyError", *drawn]) == errors.__all__
    assert all(issubclass(getattr(errors, name), errors.IdempotencyError) for name in drawn)


SUGGESTED = {
    "IdempotencyError": 500,
    "IdempotencyConfigurationError": 500,
    "IdempotencyKeyError": 400,
    "IdempotencyAlreadyInProgressError": 409,
    "IdempotencyValidationError": 422,
    "IdempotencyOutcomeUnknownError": 409,
    "IdempotencyExecutionFailedError": 500,
    "IdempotencyResponseNotKeptError": 409,
    "IdempotencyPersistenceLayerError": 503,
    "IdempotencyPersistenceConnectionError": 503,
    "IdempotencyRecordError": 503,
}


def test_every_error_suggests_the_status_of_its_problem() -> None:
    errors = importlib.import_module("idempotency_mw.errors")
    assert {name: getattr(errors, name).suggested_status for name in errors.__all__} == SUGGESTED


def test_an_in_progress_error_has_a_retry_time() -> None:
    errors = importlib.import_module("idempotency_mw.errors")
    assert errors.IdempotencyAlreadyInProgressError("busy").retry_after_seconds == 1
    assert errors.IdempotencyAlreadyInProgressError("busy", 7).retry_after_seconds == 7


# Version, imports and wheel.


def test_imports_only_go_downward() -> None:
    pytest.importorskip("importlinter", reason="import-linter is not installed")
    command = [
        sys.executable,
        "-c",
        "from importlinter.cli import lint_imports_command as run; run()",
        "--no-cache",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def test_a_wheel_has_the_sources_the_scripts_and_py_typed_and_nothing_else(tmp_path: Path) -> None:
    pytest.importorskip("hatchling", reason="hatchling is not installed")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with ZipFile(wheel) as opened:
        names = opened.namelist()
    packed = {name for name in names if ".dist-info/" not in name}
    sources = {source.relative_to(ROOT).as_posix() for source in SOURCES}
    scripts = {
        f"idempotency_mw/persistence/redis/scripts/{verb}.lua"
        for verb in ("acquire", "extend", "complete", "complete_large", "release")
    }
    assert packed == sources | scripts | {"idempotency_mw/py.typed"}
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
