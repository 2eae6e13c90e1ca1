"""Every report is on one logger. Those about a request are warnings and have of it the start of a storage key."""

import inspect
import logging

import pytest

from idempotency_mw import report
from idempotency_mw.errors import IdempotencyPersistenceConnectionError

STORAGE_KEY = "0123456789abcdef" * 4
ERROR = IdempotencyPersistenceConnectionError("connection refused")

OF_FUNCTIONS = ("key_missing", "protection_disabled")
"""Reports that take a function's name."""

OF_SURFACES = ("built", "file_open_to_others", "namespace_shared", "senders_bound_by_default")
"""Reports made when a surface or a layer is built; `test_startup` and the tests of the layers cover them."""

OF_RECORDS = sorted({*report.__all__} - {*OF_FUNCTIONS, *OF_SURFACES})
"""Reports that take a storage key."""


def make_report(name):
    """Call the function of `report` that has this name, and return the names of its parameters."""
    function = getattr(report, name)
    given = {"storage_key": STORAGE_KEY, "error": ERROR, "verb": "complete"}
    parameters = list(inspect.signature(function).parameters)
    function(*(given[parameter] for parameter in parameters))
    return parameters


@pytest.mark.parametrize("name", OF_RECORDS)
def test_each_report_is_one_warning_with_the_first_characters_of_the_storage_key(name, caplog):
    parameters = make_report(name)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.name == "idempotency_mw"
    message = record.getMessage()
    assert message.startswith("0123456789ab: ")
    assert STORAGE_KEY[:13] not in message
    assert ("IdempotencyPersistenceConnectionError: connection refused" in message) is ("error" in parameters)


@pytest.mark.parametrize("verb", ["complete", "release"])
def test_the_report_of_a_failed_verb_names_it(verb, caplog):
    report.claim_not_settled(STORAGE_KEY, verb, ERROR)
    assert f"{verb} failed" in caplog.text


def test_no_two_reports_say_the_same(caplog):
    for name in OF_RECORDS:
        make_report(name)
    assert len(set(caplog.messages)) == len(caplog.messages) == len(OF_RECORDS)


@pytest.mark.parametrize("name", OF_FUNCTIONS)
def test_the_report_of_an_unprotected_function_names_it(name, caplog):
    getattr(report, name)("shop.charge")
    (record,) = caplog.records
    assert (record.levelno, record.name) == (logging.WARNING, "idempotency_mw")
    assert record.getMessage().startswith("shop.charge runs unprotected: ")
