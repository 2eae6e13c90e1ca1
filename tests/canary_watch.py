"""I12 over the whole suite: no secret that a test sends is in anything that the package says.

The drivers of the tests register their secrets (`canaries`). While the tests run, this plugin records every log
record under `idempotency_mw`, every problem, every warning, the message of every error of the package, and the
name of every key that it claims in Redis, without the digest. At the end of the session it searches these texts
for the secrets, in each worker of xdist separately; a match fails the session.

Results are not searched, since an app may answer with anything, nor configuration errors, which are about options.
"""

import logging
import re
from typing import Any

import pytest

from idempotency_mw import errors
from idempotency_mw.http import replies
from idempotency_mw.persistence.redis import commands
from tests.canaries import SECRETS, current_test

__all__ = ["leaks"]

_said: dict[str, str] = {}
_leaks: list[str] = []
_DIGEST = re.compile("[0-9a-f]{64}")


def leaks() -> list[str]:
    """Return a line for each text that has a secret, with the tests that sent and said it."""
    said = "\n".join(_said)
    found = [text for text in SECRETS if text in said]
    return [
        f"{text!r} of {SECRETS[text]} is in {line[:300]!r} of {test}"
        for text in found
        for line, test in _said.items()
        if text in line
    ]


def _say(text: str) -> None:
    _said.setdefault(text, current_test())


# What is recorded.


class _Taking(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        _say(f"{record.name}: {record.getMessage()} {record.args!r} {record.exc_info!r}")


def _take_problems() -> None:
    answer = replies.problem_response

    def taking(*args: Any, **options: Any) -> Any:
        response = answer(*args, **options)
        _say(f"{response.body.decode('latin-1')} {response.headers!r} {response!r} {args!r}")
        return response

    replies.problem_response = taking


def _take_errors() -> None:
    def taking(self: Exception, *args: Any) -> None:
        Exception.__init__(self, *args)
        if not isinstance(self, errors.IdempotencyConfigurationError):
            _say(f"{type(self).__name__}: {self}")

    errors.IdempotencyError.__init__ = taking  # type: ignore[method-assign,assignment]


def _take_names(verb: str) -> None:
    command = getattr(commands, verb)

    def taking(key: str, *args: Any) -> Any:
        _say(f"a Redis key: {_DIGEST.sub('', key)}")
        return command(key, *args)

    setattr(commands, verb, taking)


def pytest_configure(config: pytest.Config) -> None:
    logger = logging.getLogger("idempotency_mw")
    logger.setLevel(logging.DEBUG)
    logger.addHandler(_Taking())
    _take_problems()
    _take_errors()
    for verb in ("acquire", "acquire_acknowledged"):
        _take_names(verb)


def pytest_warning_recorded(warning_message: Any) -> None:
    _say(str(warning_message.message))


# The end of the session.


def pytest_sessionfinish(session: pytest.Session) -> None:
    here = leaks()
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["leaks"] = here
        return
    _leaks.extend(here)
    if _leaks:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: Any) -> None:
    _leaks.extend(getattr(node, "workeroutput", {}).get("leaks", []))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if _leaks:
        terminalreporter.section(f"{len(_leaks)} secrets were told", red=True)
        for leak in _leaks[:50]:
            terminalreporter.write_line(leak)
