"""Broken builds: copies of the package with a fault of the reference system put back, at least one for each fault.

`test_reference_faults.py` shows each of the 25 faults absent. A test that passes proves little until it has been
seen to fail. So `building.py` runs these tests on the build that has their fault, and they have to fail there.
"""

from textwrap import indent

from tests.functions.building import Build

__all__ = ["BUILDS"]

SCRIPTS = "persistence/redis/scripts"
SERIALIZERS = "functions/serializers.py"
ENCODED = "_ENCODER.encode(data)"

# Fault 5: acquire reads and writes in two steps, and another caller gets in between.
#   time 0: A finds no record
#   time 1: B finds no record
#   time 2: A writes its claim, and runs
#   time 3: B writes its claim over it, and runs too
# The sleep between the two steps lets every caller of the test find no record before one writes.
TWO_STEPS_IN_MEMORY = """        with self._lock:
            now_ms = self._now_ms()
            self._purge(now_ms)
            found, write = verbs.acquire(self._standing(claim, now_ms), claim, now_ms)
        time.sleep(0.02)
        with self._lock:
"""
TWO_STEPS_IN_SQLITE = """        with self._transaction() as connection:
            now_ms = self._now_ms()
            found, write = verbs.acquire(_find(connection, claim, now_ms), claim, now_ms)
        time.sleep(0.02)
        with self._transaction() as connection:
"""
TWO_STEPS_ON_A_SERVER = """            from idempotency_mw.persistence import verbs
            from idempotency_mw.persistence.frame import Frame
            from idempotency_mw.persistence.verbs import StoredFrame
            import asyncio, time

            client, key = self._client(), self._key(claim)
            data = AWAIT client.execute_command("GET", key)
            now_ms = int(time.time() * 1000)
            found, write = verbs.acquire(StoredFrame(Frame.decode(data), 0) if data else None, claim, now_ms)
            AWAIT SLEEP(0.02)
            if write is not None:
                AWAIT client.execute_command("SET", key, write.frame.encode(), "PX", write.expires_ms - now_ms)
            return found
"""

BUILDS = (
    Build(
        1,
        "complete drops the fingerprint",
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
        "complete does not check the token",
        (
            ("persistence/verbs.py", "if standing.frame.token != claim.token:", "if False:"),
            ("persistence/verbs.py", "if standing.frame.status is not Status.IN_PROGRESS:", "if False:"),
            (f"{SCRIPTS}/complete.lua", "if #record == 119\n", "if true or #record == 119\n"),
        ),
    ),
    Build(
        3,
        "release does not check the token",
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
        "the record of a claim never expires",
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
        "acquire reads and writes in two steps",
        (
            (
                "persistence/memory.py",
                "        with self._lock:\n            now_ms = self._now_ms()\n            self._purge(now_ms)\n"
                "            found, write = verbs.acquire(self._standing(claim, now_ms), claim, now_ms)\n",
                TWO_STEPS_IN_MEMORY,
            ),
            (
                "persistence/sqlite.py",
                "        with self._transaction() as connection:\n            now_ms = self._now_ms()\n"
                "            found, write = verbs.acquire(_find(connection, claim, now_ms), claim, now_ms)\n",
                TWO_STEPS_IN_SQLITE,
            ),
            (
                "persistence/redis/blocking.py",
                "                return self._run("
                "commands.acquire(self._key(claim), claim), commands.read_acquire)\n",
                "                self._deadline.start(self.timeout_seconds)\n"
                + indent(TWO_STEPS_ON_A_SERVER.replace("AWAIT ", "").replace("SLEEP", "time.sleep"), "    "),
            ),
            (
                "persistence/redis/asynchronous.py",
                "                return await self._run("
                "commands.acquire(self._key(claim), claim), commands.read_acquire)\n",
                indent(TWO_STEPS_ON_A_SERVER.replace("AWAIT", "await").replace("SLEEP", "asyncio.sleep"), "    "),
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
        "acquire is called twice",
        (
            (
                "lifecycle/claims.py",
                "            return on_acquired(claim, self.store.acquire(claim))\n",
                "            self.store.acquire(claim)\n"
                "            return on_acquired(claim, self.store.acquire(claim))\n",
            ),
            (
                "lifecycle/claims.py",
                "            return on_acquired(claim, await self.store.acquire(claim))\n",
                "            await self.store.acquire(claim)\n"
                "            return on_acquired(claim, await self.store.acquire(claim))\n",
            ),
        ),
    ),
    Build(
        8,
        "the layer keeps the name of its last function",
        (
            (
                "functions/guard.py",
                "        self._name = options.key_prefix or _name(function)\n",
                "        self._name = options.key_prefix or _name(function)\n"
                "        self._layer = options.persistence_store\n"
                "        NAMES[id(self._layer)] = self._name\n",
            ),
            (
                "functions/guard.py",
                "operation_of(self._namespace,",
                "operation_of(namespace_of(self._config, NAMES[id(self._layer)]),",
            ),
            ("functions/guard.py", "class _Guard:", "NAMES = {}\n\n\nclass _Guard:"),
        ),
        tests="nested",
    ),
    Build(
        9,
        "a layer's first configuration holds for all",
        (
            (
                "functions/guard.py",
                "        config = IdempotencyConfig() if options.config is None else options.config\n",
                "        config = FIRST.setdefault(id(options.persistence_store), options.config)\n",
            ),
            ("functions/guard.py", "class _Guard:", "FIRST = {}\n\n\nclass _Guard:"),
        ),
    ),
    Build(
        10,
        "the invocation's context is kept on the function",
        (
            (
                "functions/guard.py",
                "        return KeyedCall(operation, key, self._serializer), "
                "lifetime(context) or _remaining.get()\n",
                "        self._shared = getattr(self, '_shared', None) or lifetime(context)\n"
                "        return KeyedCall(operation, key, self._serializer), self._shared\n",
            ),
        ),
    ),
    Build(
        11,
        "the function runs again after an error of the store",
        (
            (
                "functions/run.py",
                "            result = _checked(function(), discard)\n",
                "            try:\n                result = function()\n"
                "            except IdempotencyPersistenceLayerError:\n                result = function()\n",
            ),
            (
                "functions/run.py",
                "            result = await function()\n",
                "            try:\n                result = await function()\n"
                "            except IdempotencyPersistenceLayerError:\n"
                "                result = await function()\n",
            ),
        ),
    ),
    Build(
        12,
        "the lease is as long as the retention",
        (("lifecycle/claims.py", "self._lease_ms = config.lease_ms", "self._lease_ms = config.retention_ms"),),
        tests="KeyboardInterrupt",
    ),
    Build(
        12,
        "an interrupted or cancelled run is settled as if it had failed",
        (
            (
                "functions/run.py",
                "    except Exception as error:\n        heartbeat.stop()",
                "    except BaseException as error:\n        heartbeat.stop()",
            ),
        ),
        tests="CancelledError",
    ),
    Build(
        13,
        "a result that can't be serialised raises",
        (
            (
                SERIALIZERS,
                "    except Exception:  # noqa: BLE001 - the caller",
                "    except KeyError:  # the caller",
            ),
        ),
    ),
    Build(
        13,
        "a store failure at the end raises",
        (
            (
                "lifecycle/claims.py",
                "        except Exception as error:  # noqa: BLE001 - a user",
                "        except KeyError as error:  # a layer",
            ),
        ),
    ),
    Build(14, "no heartbeat is started", (("functions/run.py", "    heartbeat.start()\n", ""),), tests="memory"),
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
        "acquire does not recognise its own token",
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
        "expiry is cut to whole seconds",
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
        (
            (
                SERIALIZERS,
                "StoredValue(value if value is None or",
                "StoredValue(str(value) if value is None or",
            ),
        ),
    ),
    Build(
        20,
        "a falsy result becomes None",
        (
            (
                SERIALIZERS,
                "StoredValue(value if value is None or serializer",
                "StoredValue((value or None) if value is None or serializer",
            ),
        ),
    ),
    Build(
        21,
        "an unreadable record is treated as a store failure",
        (("core/machine.py", "    if unreadable:\n", "    if False:\n"),),
    ),
    Build(22, "the local cache has no lock", (("persistence/local_cache.py", "with self._lock:", "if True:"),)),
    Build(
        23,
        "a blocking function accepts an async layer",
        (("persistence/adapted.py", "    if is_async(layer):", "    if False:"),),
        tests="an_async_layer",
    ),
    Build(
        23,
        "an async function is run as a blocking one",
        (
            (
                "functions/guard.py",
                "    return (AsyncGuard if _is_async(function) else Guard)(",
                "    return Guard(",
            ),
            ("functions/handler.py", "        if runs_async(function):\n", "        if False:\n"),
            ("functions/run.py", "    if type(result) in _DATA or not isawaitable(result):\n", "    if True:\n"),
        ),
        tests="an_async_function",
    ),
    Build(
        24,
        "a connection failure is not told from other errors",
        (
            (
                "persistence/redis/errors.py",
                "    if is_transient(error):\n        return Idem",
                "    if False:\n        return Idem",
            ),
        ),
        tests="unreachable",
    ),
    Build(
        24,
        "a URL and single arguments may be mixed",
        (("persistence/redis/address.py", "        if given:\n", "        if False:\n"),),
        tests="contradict",
    ),
    Build(
        25,
        "NaN is stored as null",
        ((SERIALIZERS, ENCODED, f'{ENCODED}.replace("NaN", "null")'),),
    ),
)
