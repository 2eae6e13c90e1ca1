"""I12: no key, credential, caller, body or token in a message, a log or a `repr`, whatever fails."""

import asyncio
import inspect
import logging
import os
import subprocess
import sys
import time
import traceback
import warnings
from pathlib import Path

import pytest
import redis.exceptions

import idempotency_mw
from idempotency_mw import HTTPConfig, IdempotencyConfig, idempotent_function
from idempotency_mw.asgi import IdempotencyMiddleware
from idempotency_mw.calls import Call
from idempotency_mw.core.record import Claim, Operation, Record, Status
from idempotency_mw.errors import (
    IdempotencyError,
    IdempotencyPersistenceConnectionError,
    IdempotencyPersistenceLayerError,
    IdempotencyRecordError,
)
from idempotency_mw.execution import Discard, Execution
from idempotency_mw.functions.serializers import StoredValue
from idempotency_mw.handler import AsyncIdempotencyHandler, IdempotencyHandler
from idempotency_mw.http.message import Request, Response
from idempotency_mw.persistence.frame import Frame
from idempotency_mw.persistence.memory import MemoryPersistenceLayer
from idempotency_mw.persistence.redis import AsyncRedisPersistenceLayer, RedisConnection, RedisPersistenceLayer
from idempotency_mw.persistence.redis.errors import translated
from idempotency_mw.serializers import CustomDictSerializer
from idempotency_mw.testing import FailingPersistenceLayer, ManualClock
from idempotency_mw.testing.harness import a_claim
from tests.memory import rewrite_results
from tests.servers import RedisServer, binaries

needs_a_server = pytest.mark.skipif(not binaries(), reason="no Redis or Valkey server was found")
ROOT = Path(__file__).parents[1]
CANARY = "canary"
PASSWORD = "canary-password-5f1e"


def clean(text):
    at = text.find(CANARY)
    assert at < 0, text[max(at - 200, 0) : at + 50]


@pytest.mark.row(59)
@needs_a_server
def test_the_error_of_a_server_that_quotes_the_command_is_shortened():
    """Managed servers rename commands to forbid them; their error then quotes the whole command."""
    claim = a_claim(token="canary-token" + "0" * 20)
    with (
        RedisServer(next(iter(binaries().values())), "--rename-command", "EVALSHA", "") as server,
        RedisPersistenceLayer.from_url(server.url, key_prefix="") as layer,
        pytest.raises(IdempotencyPersistenceLayerError) as refused,
    ):
        layer.acquire(claim)
    assert str(refused.value) == "Redis refused: unknown command 'EVALSHA'"
    assert claim.storage_key in str(refused.value.__cause__)


@pytest.mark.row(59)
def test_the_error_of_a_pipeline_that_quotes_its_command_is_shortened():
    said = "Command # 1 (EVALSHA abc 1 key canary-token) of pipeline caused error: NOPERM no (such) thing"
    assert str(translated(redis.exceptions.ResponseError(said))) == "Redis refused: NOPERM no (such) thing"


@pytest.mark.row(59)
def test_the_error_of_a_driver_that_quotes_an_invalid_reply_is_shortened():
    said = "Protocol Error: b'canary-body-1\\n'"
    assert str(translated(redis.exceptions.InvalidResponse(said))) == "Redis can't be reached: Protocol Error"


def test_a_very_long_error_of_a_server_is_read_in_time():
    begun = time.process_time()
    translated(redis.exceptions.ResponseError("Command # 1 (" * 20_000))
    assert time.process_time() - begun < 0.5


# Functions: each kind of refusal, with its traceback as a server would log it.


class Charge:
    """A protected function over a store in memory whose verbs fail on demand."""

    def __init__(self):
        self.clock = ManualClock()
        self.memory = MemoryPersistenceLayer(clock=self.clock)
        self.failing = FailingPersistenceLayer(self.memory)
        self.told = []

    def refused(self, key, body=None, *, payload="canary-body-1", **options):
        """Call the function; record the package's error and its traceback, and return the name of its class."""
        config = IdempotencyConfig(
            event_key_jmespath="key", payload_validation_jmespath="body", heartbeat=False, **options
        )

        @idempotent_function(persistence_store=self.failing, config=config, key_prefix="charge")
        def charge(given):
            return body() if body is not None else {"paid": "canary-result"}

        given = {"key": f"canary-key-{key}", "body": payload, "caller": "canary-caller"}
        try:
            return charge(given)
        except IdempotencyError as error:
            self.told += traceback.format_exception(error, chain=not isinstance(error, IdempotencyRecordError))
            self.told += [repr(error), str(error)]
            return type(error).__name__
        except ValueError as error:
            return error


def canary_failure():
    raise ValueError("canary-in-an-exception")


@pytest.mark.row(59)
def test_no_canary_is_in_the_errors_and_logs_of_refused_calls(caplog):
    caplog.set_level(logging.DEBUG)
    charge = Charge()
    failed = IdempotencyPersistenceConnectionError
    assert charge.refused(1) == {"paid": "canary-result"}
    assert charge.refused(1, payload="canary-body-2") == "IdempotencyValidationError"
    assert isinstance(charge.refused(2, canary_failure, on_error="store"), ValueError)
    assert charge.refused(2, on_error="store") == "IdempotencyExecutionFailedError"
    assert charge.refused(3, lambda: {"canary": object()})
    assert charge.refused(3) == "IdempotencyResponseNotKeptError"
    charge.failing.fail_before("acquire", failed("no store"))
    assert charge.refused(4) == "IdempotencyPersistenceConnectionError"
    charge.failing.fail_before("complete", failed("no store"))
    assert charge.refused(5) == {"paid": "canary-result"}
    assert charge.refused(5) == "IdempotencyAlreadyInProgressError"
    charge.clock.advance(100)
    assert charge.refused(5, after_crash="refuse") == "IdempotencyOutcomeUnknownError"
    rewrite_results(charge.memory, lambda result: b'1V{"canary')
    assert charge.refused(1) == "IdempotencyRecordError"
    assert len(caplog.records) >= 4
    clean(str([record.__dict__ for record in caplog.records]))
    for text in charge.told:
        clean(
            "\n".join(line for line in text.splitlines() if not line.startswith("    "))
        )  # without the source lines


@pytest.mark.row(59)
@pytest.mark.parametrize("payload", [{"key": None, "x": "canary-1"}, {"key": "canary-1"}, "canary-2"])
def test_no_canary_is_in_the_error_for_a_payload_without_a_key(payload, caplog):
    caplog.set_level(logging.DEBUG)
    config = IdempotencyConfig(event_key_jmespath="abs(key)", raise_on_no_idempotency_key=True)
    function = idempotent_function(
        lambda given: given, persistence_store=MemoryPersistenceLayer(), config=config, key_prefix="given"
    )
    with pytest.raises(IdempotencyError) as refused:
        function(payload)
    for line in traceback.format_exception_only(refused.value):
        clean(line)
    assert refused.value.__suppress_context__ or refused.value.__context__ is None
    clean(caplog.text)


# Redis: its password and its records.


@pytest.mark.row(59)
@needs_a_server
@pytest.mark.parametrize("binary", sorted(binaries()))
@pytest.mark.parametrize("password", [PASSWORD, "canary-wrong-password"], ids=["right", "wrong"])
def test_a_password_is_in_no_log_no_repr_and_no_error(binary, password, caplog):
    caplog.set_level(logging.DEBUG)
    told = []

    async def with_async(layer):
        async with layer:
            try:
                await layer.acquire(a_claim())
                await layer.acheck()
            except IdempotencyPersistenceLayerError as error:
                told.extend(traceback.format_exception(error))
            return repr(layer)

    with RedisServer(binaries()[binary], "--requirepass", PASSWORD) as server, warnings.catch_warnings():
        warnings.simplefilter("error")
        url = f"redis://default:{password}@127.0.0.1:{server.port}/0"
        connection = RedisConnection(host="127.0.0.1", port=server.port, username="default", password=password)
        for layer in (RedisPersistenceLayer.from_url(url), RedisPersistenceLayer.connect(connection)):
            with layer:
                try:
                    layer.acquire(a_claim())
                    layer.check()
                except IdempotencyPersistenceLayerError as error:
                    told += traceback.format_exception(error)
                told.append(repr(layer))
        told.append(asyncio.run(with_async(AsyncRedisPersistenceLayer.from_url(url))))
    told += [repr(connection), str([record.__dict__ for record in caplog.records])]
    assert ("invalid username-password" in "".join(told)) is (password != PASSWORD)
    for text in told:
        clean(text)


@pytest.mark.row(59)
@needs_a_server
def test_redis_holds_only_the_result_of_a_call(any_server):
    config = IdempotencyConfig(event_key_jmespath="key", payload_validation_jmespath="body")
    with (
        RedisPersistenceLayer.from_url(any_server.url, key_prefix="secrets-test:") as layer,
        any_server.client() as store,
    ):
        charge = idempotent_function(lambda given: "canary-result", persistence_store=layer, config=config)
        charge({"key": "canary-key-9", "body": "canary-body-9"})
        (name,) = store.keys("secrets-test:*")
        value = store.get(name)
        store.delete(name)
    clean(name.decode())
    clean(value[:119].decode())
    assert value[119:] == b'1V"canary-result"'


# The repr of every public object that gets a secret.


@pytest.mark.row(59)
def test_no_canary_is_in_the_repr_of_a_public_object():
    claim = Claim(Operation("5" * 64, "f" * 64), "canary-token", 1, 1)
    memory = MemoryPersistenceLayer()
    config = IdempotencyConfig()
    headers = ((b"authorization", b"canary-1"), (b"cookie", b"canary-2"))
    objects = [
        claim,
        Record(Status.COMPLETED, 1, "f" * 64, 1, b"canary-body"),
        Frame(Status.COMPLETED, "canary-token", 1, 1, "f" * 64, b"canary-body"),
        Request("POST", "/pay", b"canary-query", {name: [value] for name, value in headers}),
        Response(200, headers, b"canary-body"),
        Execution(key="canary-key", storage_key="5" * 64, attempt=1, discard=Discard()),
        Call("canary-key", "charge", {"card": "canary-body"}, CustomDictSerializer(dict, dict)),
        Call("canary-key", "charge", {"card": "canary-body"}).keyed(config),
        StoredValue("canary-body"),
        RedisConnection(url="redis://canary:canary@localhost"),
        RedisConnection(username="canary-user", password=PASSWORD),
        IdempotencyHandler(memory, config),
        AsyncIdempotencyHandler(memory, config),
        IdempotencyMiddleware(print, persistence_store=memory, http=HTTPConfig()),
        memory,
    ]
    for each in objects:
        clean(repr(each))
        clean(str(each))


def test_every_public_class_is_known_to_this_module():
    """A new public class that holds parts of a request belongs in the list above."""
    classes = {name for name in idempotency_mw.__all__ if inspect.isclass(getattr(idempotency_mw, name))}
    known = {"HTTPConfig", "IdempotencyConfig"}
    assert {name for name in classes if not issubclass(getattr(idempotency_mw, name), Exception)} <= known


# The watch over the whole suite fails it if something leaks.

LEAKING = """
import logging
import warnings

from idempotency_mw.core.record import Claim, Operation
from idempotency_mw.errors import IdempotencyKeyError
from idempotency_mw.http import replies
from idempotency_mw.http.problem import Problem, Refusal
from idempotency_mw.persistence.redis import commands
from tests.canaries import secret_body, secret_headers

SENT = "canary-sent-4711"


def test_it_is_sent():
    secret_headers([(b"Idempotency-Key", SENT.encode())])
    secret_body(b'{"card": "canary-card-4712"}')


def test_that_tells_in_a_log():
    logging.getLogger("idempotency_mw.x").debug("the key is %s", SENT)


def test_that_tells_in_a_problem():
    replies.problem_response(Refusal(Problem.KEY_INVALID, "not canary-card-4712"))


def test_that_tells_in_an_error():
    IdempotencyKeyError("no " + SENT)


def test_that_tells_in_a_warning():
    warnings.warn("canary-card-4712 is a card")


def test_that_tells_in_a_name():
    commands.acquire("prefix:" + SENT, Claim(Operation(SENT, "f" * 64), "0" * 32, 1, 1))


def test_that_tells_nothing():
    logging.getLogger("idempotency_mw").warning("the key is none of yours")
"""


@pytest.mark.row(59)
def test_a_leak_anywhere_in_the_suite_fails_the_session(tmp_path):
    """Run with xdist as in `make test`. The suite itself shows that a session without a leak passes."""
    (tmp_path / "test_leaking.py").write_text(LEAKING)
    options = ["-q", "-p", "xdist", "-p", "tests.canary_watch", "-p", "no:cacheprovider", "-n", "1"]
    made = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "--rootdir", tmp_path, "-c", os.devnull, tmp_path],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=55,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
    )
    assert "7 passed" in made.stdout, made.stdout + made.stderr
    assert made.returncode == 1, made.stdout
    assert "5 secrets were told" in made.stdout
    for where in ("in_a_log", "in_a_problem", "in_an_error", "in_a_warning", "in_a_name"):
        assert f"test_that_tells_{where}" in made.stdout
    assert "test_that_tells_nothing" not in made.stdout
