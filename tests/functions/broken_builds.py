"""Builds of this package that have a fault of the reference system, one at least for each, and what runs them.

A build is the package with a few of its lines changed: a copy, which comes first on the path of a process of its
own. There the tests that show the fault absent are run, and have to fail. This module imports nothing of the
package, so that such a process knows only the copy.
"""

import contextlib
import json
import multiprocessing
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from textwrap import indent

__all__ = ["BUILDS", "Build", "Seen", "run"]

ROOT = Path(__file__).parents[2]
PACKAGE = "idempotency_mw"
WITHIN_SECONDS = 50

SCRIPTS = "persistence/redis/scripts"
ENCODED = "_ENCODER.encode(data)"


@dataclass(frozen=True)
class Build:
    """The package with these changes: file, what stands there, what stands there instead."""

    fault: int
    what: str
    changes: tuple[tuple[str, str, str], ...]
    tests: str = ""
    """What is in the names of the tests that are run; without it, all that show the fault absent."""

    def make(self, folder: Path) -> None:
        """Put the changed copy into the folder."""
        copy = folder / PACKAGE
        shutil.copytree(ROOT / PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
        for name, old, new in self.changes:
            text = (copy / name).read_text("utf-8")
            if old not in text:
                raise LookupError(f"{name} has changed: there is no {old!r}")
            (copy / name).write_text(text.replace(old, new), "utf-8")


# A stalled caller: the verdict on what stands there, and after that the write.
STALLED_IN_MEMORY = """        with self._lock:
            now_ms = self._now_ms()
            self._purge(now_ms)
            found, write = verbs.acquire(self._standing(claim, now_ms), claim, now_ms)
        time.sleep(0.02)
        with self._lock:
"""
STALLED_IN_SQLITE = """        with self._transaction() as connection:
            now_ms = self._now_ms()
            found, write = verbs.acquire(_find(connection, claim, now_ms), claim, now_ms)
        time.sleep(0.02)
        with self._transaction() as connection:
"""
STALLED_ON_A_SERVER = """            from idempotency_mw.persistence import verbs
            from idempotency_mw.persistence.frame import Frame
            from idempotency_mw.persistence.verbs import Held
            import asyncio, time

            client, key = self._client(), self._key(claim)
            data = AWAIT client.execute_command("GET", key)
            now_ms = int(time.time() * 1000)
            found, write = verbs.acquire(Held(Frame.decode(data), 0) if data else None, claim, now_ms)
            AWAIT SLEEP(0.02)
            if write is not None:
                AWAIT client.execute_command("SET", key, write.frame.encode(), "PX", write.expires_ms - now_ms)
            return found
"""

BUILDS = (
    Build(
        1,
        "completing drops the fingerprint",
        (
            (
                "persistence/verbs.py",
                'result=result or b"")',
                "result=result or b\"\", fingerprint='0' * 64)",
            ),
            (
                f"{SCRIPTS}/complete.lua",
                "string.sub(record, 3) .. ARGV[4]",
                "string.sub(record, 3, 55) .. string.rep('0', 64) .. ARGV[4]",
            ),
        ),
    ),
    Build(
        2,
        "completing asks for no token",
        (
            ("persistence/verbs.py", "if standing.frame.token != claim.token:", "if False:"),
            ("persistence/verbs.py", "if standing.frame.status is not Status.IN_PROGRESS:", "if False:"),
            (f"{SCRIPTS}/complete.lua", "if #record == 119\n", "if true or #record == 119\n"),
        ),
    ),
    Build(
        3,
        "releasing asks for no token",
        (
            (
                "persistence/verbs.py",
                "return standing is not None and _owns(claim, standing)",
                "return standing is not None",
            ),
            (f"{SCRIPTS}/release.lua", "if #record == 119\n", "if true or #record == 119\n"),
        ),
    ),
    Build(
        4,
        "a claim's record has no deadline",
        (
            (
                "persistence/verbs.py",
                "expires_ms=now_ms + max(claim.retention_ms, claim.lease_ms)",
                "expires_ms=2**62",
            ),
            (f"{SCRIPTS}/acquire.lua", ", 'PX', lease > tonumber(ARGV[4]) and ARGV[3] or ARGV[4]", ""),
        ),
    ),
    Build(
        5,
        "what was found is not looked at again when it is written",
        (
            (
                "persistence/memory.py",
                "        with self._lock:\n            now_ms = self._now_ms()\n            self._purge(now_ms)\n"
                "            found, write = verbs.acquire(self._standing(claim, now_ms), claim, now_ms)\n",
                STALLED_IN_MEMORY,
            ),
            (
                "persistence/sqlite.py",
                "        with self._transaction() as connection:\n            now_ms = self._now_ms()\n"
                "            found, write = verbs.acquire(_find(connection, claim, now_ms), claim, now_ms)\n",
                STALLED_IN_SQLITE,
            ),
            (
                "persistence/redis/blocking.py",
                "                return self._run("
                "commands.acquire(self._key(claim), claim), commands.read_acquire)\n",
                "                self._deadline.start(self.timeout_seconds)\n"
                + indent(STALLED_ON_A_SERVER.replace("AWAIT ", "").replace("SLEEP", "time.sleep"), "    "),
            ),
            (
                "persistence/redis/asynchronous.py",
                "                return await self._run("
                "commands.acquire(self._key(claim), claim), commands.read_acquire)\n",
                indent(STALLED_ON_A_SERVER.replace("AWAIT", "await").replace("SLEEP", "asyncio.sleep"), "    "),
            ),
        ),
    ),
    Build(
        6,
        "a claim is taken over only once",
        (
            (
                "persistence/verbs.py",
                "        and standing.frame.lease_until_ms <= now_ms\n",
                "        and standing.frame.lease_until_ms <= now_ms\n        and standing.frame.attempt < 2\n",
            ),
            (f"{SCRIPTS}/acquire.lua", "elseif ARGV[5] == '1' and", "elseif ARGV[5] == '1' and attempts < 2 and"),
        ),
    ),
    Build(
        7,
        "a refused acquire reads the record again",
        (
            (
                "handler.py",
                "            return on_acquired(claim, self.store.acquire(claim))\n",
                "            self.store.acquire(claim)\n"
                "            return on_acquired(claim, self.store.acquire(claim))\n",
            ),
            (
                "handler.py",
                "            return on_acquired(claim, await self.store.acquire(claim))\n",
                "            await self.store.acquire(claim)\n"
                "            return on_acquired(claim, await self.store.acquire(claim))\n",
            ),
        ),
    ),
    Build(
        8,
        "the layer holds the function's name",
        (
            (
                "functions/guard.py",
                "        self._name = key_prefix or _name(function)\n",
                "        self._name = key_prefix or _name(function)\n        self._layer = persistence_store\n"
                "        NAMES[id(persistence_store)] = self._name\n",
            ),
            (
                "functions/guard.py",
                "operation_of(self._namespace,",
                "operation_of(namespace_of(self._config, NAMES[id(self._layer)]),",
            ),
            ("functions/guard.py", "class Guard:", "NAMES = {}\n\n\nclass Guard:"),
        ),
        tests="nested",
    ),
    Build(
        9,
        "a layer's first configuration holds for all",
        (
            (
                "functions/guard.py",
                "        self._config = IdempotencyConfig() if config is None else config\n",
                "        self._config = FIRST.setdefault(id(persistence_store), config)\n",
            ),
            ("functions/guard.py", "class Guard:", "FIRST = {}\n\n\nclass Guard:"),
        ),
    ),
    Build(
        10,
        "the invocation's context is kept on the function",
        (
            (
                "functions/guard.py",
                "        return operation, key, lifetime(context) or _left.get()\n",
                "        self._shared = getattr(self, '_shared', None) or lifetime(context)\n"
                "        return operation, key, self._shared\n",
            ),
        ),
    ),
    Build(
        11,
        "the function runs again after an error of the store",
        (
            (
                "calls.py",
                "            result = _ended(function(), execution)\n",
                "            try:\n                result = function()\n"
                "            except IdempotencyPersistenceLayerError:\n                result = function()\n",
            ),
            (
                "calls.py",
                "            result = await function()\n",
                "            try:\n                result = await function()\n"
                "            except IdempotencyPersistenceLayerError:\n"
                "                result = await function()\n",
            ),
        ),
    ),
    Build(
        12,
        "the lease is the record's life",
        (("handler.py", "self._lease_ms = config.lease_ms", "self._lease_ms = config.retention_ms"),),
        tests="KeyboardInterrupt",
    ),
    Build(
        12,
        "what is interrupted or cancelled is settled as if it had ended",
        (
            (
                "calls.py",
                "    except Exception as error:\n        heartbeat.stop()",
                "    except BaseException as error:",
            ),
        ),
        tests="CancelledError",
    ),
    Build(
        13,
        "what can't be serialised is an error",
        (
            (
                "serializers.py",
                "    except Exception:  # noqa: BLE001 - the caller",
                "    except KeyError:  # the caller",
            ),
        ),
    ),
    Build(
        13,
        "a store that fails at the end is an error",
        (
            (
                "handler.py",
                "        except Exception as error:  # noqa: BLE001 - a layer",
                "        except KeyError as error:  # a layer",
            ),
        ),
    ),
    Build(14, "nobody extends the lease", (("calls.py", "    heartbeat.start()\n", ""),), tests="memory"),
    Build(
        15,
        "the app's clock decides",
        (
            ("persistence/memory.py", "return int(self._clock() * 1000)", "return int(time.time() * 1000)"),
            ("persistence/sqlite.py", "return int(self._clock() * 1000)", "return int(time.time() * 1000)"),
            (
                "persistence/redis/commands.py",
                "retention, may)",
                "retention, may, int(time.time() * 1000))",
            ),
            ("persistence/redis/commands.py", '_load("acquire", arguments=5)', '_load("acquire", arguments=6)'),
            (
                "persistence/redis/commands.py",
                "from hashlib import sha1\n",
                "import time\nfrom hashlib import sha1\n",
            ),
            (
                f"{SCRIPTS}/acquire.lua",
                "local now = time[1] * 1000 + math.floor(time[2] / 1000)",
                "local now = tonumber(ARGV[6])",
            ),
        ),
    ),
    Build(
        16,
        "the own token is a stranger's",
        (
            (
                "persistence/verbs.py",
                "    elif _owns(claim, standing):\n        attempt = standing.frame.attempt\n",
                "",
            ),
            (f"{SCRIPTS}/acquire.lua", "if string.sub(record, 3, 34) == ARGV[1] then", "if false then"),
        ),
    ),
    Build(17, "a cached record never expires", (("persistence/local_cache.py", "if left_ms <= 0:", "if False:"),)),
    Build(
        18,
        "expiry in whole seconds",
        (
            (
                "core/config.py",
                "math.ceil(self.expires_after_seconds * 1000)",
                "int(self.expires_after_seconds) * 1000",
            ),
        ),
    ),
    Build(
        19,
        "None becomes text",
        (("serializers.py", "return value if value is None or", "return str(value) if value is None or"),),
    ),
    Build(
        20,
        "what is falsy becomes None",
        (
            (
                "serializers.py",
                "return value if value is None or serializer",
                "return (value or None) if value is None or serializer",
            ),
        ),
    ),
    Build(
        21, "an unreadable record is passed by", (("core/machine.py", "    if unreadable:\n", "    if False:\n"),)
    ),
    Build(22, "the local cache has no lock", (("persistence/local_cache.py", "with self._lock:", "if True:"),)),
    Build(
        23,
        "a plain function takes an async layer",
        (("functions/guard.py", "    if is_async_layer(store):", "    if False:"),),
        tests="an_async_layer",
    ),
    Build(
        23,
        "an async function is taken for a plain one",
        (
            (
                "functions/guard.py",
                "        self._is_async = _runs_async(function)\n",
                "        self._is_async = False\n",
            ),
            ("calls.py", "    if runs_async(function):\n", "    if False:\n"),
            ("calls.py", "    if type(result) in _DATA or not isawaitable(result):\n", "    if True:\n"),
        ),
        tests="an_async_function",
    ),
    Build(
        24,
        "a connection that fails is an error like any other",
        (
            (
                "persistence/redis/errors.py",
                "    if is_passing(error):\n        return Idem",
                "    if False:\n        return Idem",
            ),
        ),
        tests="unreachable",
    ),
    Build(
        24,
        "URL and arguments mix",
        (("persistence/redis/address.py", "        if given:\n", "        if False:\n"),),
        tests="contradict",
    ),
    Build(
        25, "NaN is stored as something else", (("serializers.py", ENCODED, f'{ENCODED}.replace("NaN", "null")'),)
    ),
)


@dataclass(frozen=True)
class Seen:
    """What the tests of a fault made of a build: the kinds and stores that they were run over, and that saw it."""

    over: set[str]
    by: set[str]
    output: str


class _Watching:
    """A plugin of pytest that picks the tests of one fault, and notes which of them fail."""

    def __init__(self, fault: int, tests: str) -> None:
        self.fault = fault
        self.tests = tests
        self.over: dict[str, list[str]] = {}
        self.by: set[str] = set()

    def pytest_collection_modifyitems(self, items):
        items[:] = [
            item
            for item in items
            if self.tests in item.name
            and any(self.fault in mark.args for mark in item.iter_markers("reference_fault"))
        ]
        for item in items:
            parameters = item.callspec.params.items() if hasattr(item, "callspec") else ()
            self.over[item.nodeid] = [
                value for name, value in parameters if name in ("kind", "store", "file_or_server", "server_store")
            ] or ["once"]

    def pytest_runtest_logreport(self, report):
        if report.when == "call" and report.failed:
            self.by.update(self.over[report.nodeid])


def run(build: Build, folder: Path) -> Seen:
    """Make the build in the folder, and run the tests of its fault on it, in a process of their own."""
    build.make(folder)
    context = multiprocessing.get_context("forkserver")
    # What takes long to import is imported once; the copy, and the tests, in each process anew.
    context.set_forkserver_preload(
        ["pytest", "pytest_asyncio.plugin", "pytest_timeout", "hypothesis", "redis.asyncio"]
    )
    process = context.Process(target=_run_tests, args=(build.fault, build.tests, folder))
    process.start()
    process.join(WITHIN_SECONDS)
    if process.is_alive():
        process.kill()
        process.join()
    output = (folder / "output").read_text("utf-8", "replace")
    seen = folder / "seen.json"
    over, by = json.loads(seen.read_text()) if seen.exists() else ([], [])
    return Seen(set(over), set(by), output)


def _run_tests(fault: int, tests: str, folder: Path) -> None:
    sys.path.insert(0, str(folder))
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    import pytest
    import pytest_asyncio.plugin
    import pytest_timeout

    with (
        (folder / "output").open("w") as output,
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(output),
    ):
        package = __import__(PACKAGE)
        watching = _Watching(fault, tests)
        if Path(package.__file__).is_relative_to(folder):
            options = [
                "-q",
                "--tb=short",
                "--assert=plain",
                "-p",
                "no:cacheprovider",
                "-p",
                "no:unraisableexception",
                "--timeout=20",
            ]
            module = Path(__file__).with_name("test_reference_faults.py")
            plugins = [pytest_asyncio.plugin, pytest_timeout, watching]
            pytest.main([*options, f"--rootdir={ROOT}", str(module)], plugins=plugins)
    over = sorted({value for values in watching.over.values() for value in values})
    (folder / "seen.json").write_text(json.dumps([over, sorted(watching.by)]))
