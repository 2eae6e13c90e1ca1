"""Every report is on one logger. Those about a record are warnings that say nothing but its key's beginning."""

import inspect
import logging

import pytest

from idempotency_mw import report
from idempotency_mw.errors import IdempotencyPersistenceConnectionError

STORAGE_KEY = "0123456789abcdef" * 4
ERROR = IdempotencyPersistenceConnectionError("connection refused")

OF_FUNCTIONS = ("key_missing", "protection_disabled")
OF_SURFACES = ("built", "file_open_to_others", "namespace_shared", "senders_bound_by_default")
OF_RECORDS = sorted({*report.__all__} - {*OF_FUNCTIONS, *OF_SURFACES})


@pytest.mark.parametrize("name", OF_RECORDS)
def test_each_report_is_one_warning_with_the_beginning_of_the_storage_key(name, caplog):
    function = getattr(report, name)
    given = {"storage_key": STORAGE_KEY, "error": ERROR, "verb": "complete"}
    function(*(given[parameter] for parameter in inspect.signature(function).parameters))
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.name == "idempotency_mw"
    message = record.getMessage()
    assert message.startswith("0123456789ab: ")
    assert STORAGE_KEY[:13] not in message
    has_error = "error" in inspect.signature(function).parameters
    assert ("IdempotencyPersistenceConnectionError: connection refused" in message) is has_error


@pytest.mark.parametrize("verb", ["complete", "release"])
def test_the_verb_that_failed_is_named(verb, caplog):
    report.claim_not_settled(STORAGE_KEY, verb, ERROR)
    assert f"{verb} failed" in caplog.text


def test_no_two_reports_say_the_same():
    source = inspect.getsource(report)
    messages = [line for line in source.splitlines() if line.strip().startswith("_warn(storage_key")]
    assert len(messages) == len(set(messages)) == len(OF_RECORDS)


@pytest.mark.parametrize("name", OF_FUNCTIONS)
def test_a_function_that_runs_unprotected_is_named(name, caplog):
    getattr(report, name)("shop.charge")
    (record,) = caplog.records
    assert (record.levelno, record.name) == (logging.WARNING, "idempotency_mw")
    assert record.getMessage().startswith("shop.charge runs unprotected: ")
