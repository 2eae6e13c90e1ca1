"""Properties of the SQLite layer alone: its locks, its transactions, and several processes."""

import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import warnings
from contextlib import closing

import pytest

from idempotency_mw.core.record import Acquired, Existing, Lost, Settled
from idempotency_mw.errors import (
    IdempotencyConfigurationError,
    IdempotencyPersistenceConnectionError,
    IdempotencyPersistenceLayerError,
    IdempotencyRecordError,
)
from idempotency_mw.persistence.sqlite import SQLitePersistenceLayer, _until
from idempotency_mw.testing import ManualClock
from idempotency_mw.testing.harness import a_claim, rival
from tests.sqlite import connection_of, rows
from tests.timing import fastest, seconds

SLACK = 0.1


@pytest.fixture
def path(tmp_path):
    return tmp_path / "records.db"


@pytest.fixture
def layer(path):
    with SQLitePersistenceLayer(path, timeout_seconds=0.3) as layer:
        yield layer


@pytest.mark.parametrize(
    "values",
    [
        {"path": ""},
        {"path": ":memory:"},
        {"path": "file::memory:?cache=shared"},
        {"path": "file:records.db"},
        {"path": "FILE:/srv/records.db?mode=rwc"},
        {"path": "x.db", "durability": "off"},
        {"path": "x.db", "timeout_seconds": 0},
        {"path": "x.db", "timeout_seconds": 3601},
        {"path": "x.db", "timeout_seconds": float("nan")},
    ],
    ids=str,
)
def test_invalid_options_are_refused(values):
    with pytest.raises(IdempotencyConfigurationError):
        SQLitePersistenceLayer(**values)


@pytest.mark.row(59)
def test_its_repr_has_the_file_name_and_not_the_folder(layer):
    assert repr(layer) == "<SQLitePersistenceLayer 'records.db'>"


def test_a_relative_path_stays_the_same_file_when_the_folder_changes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with SQLitePersistenceLayer("records.db") as layer:
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        layer.check()
    assert (tmp_path / "records.db").exists()


@pytest.mark.parametrize(("durability", "expected"), [("full", 2), ("normal", 1)])
def test_durability_sets_the_pragma_synchronous(path, durability, expected):
    with SQLitePersistenceLayer(path, durability=durability) as layer:
        layer.acquire(a_claim())
        connection = connection_of(layer)
        assert connection.execute("PRAGMA synchronous").fetchone()[0] == expected
        assert connection.execute("PRAGMA journal_mode").fetchone()[0] == b"wal"


def test_a_closed_layer_opens_the_file_again(layer):
    claim = a_claim()
    layer.close()
    assert layer.acquire(claim) == Acquired(1)
    layer.close()
    layer.close()
    assert layer.complete(claim, b"done") == Settled()


def test_two_layers_on_one_file_see_the_same_records(layer, path):
    claim = a_claim()
    assert layer.acquire(claim) == Acquired(1)
    with SQLitePersistenceLayer(path) as other:
        assert isinstance(other.acquire(rival(claim)), Existing)


def first_verb(path, start, answers):
    """The body of a process: open a new file at the same moment as the others."""
    for number in range(20):
        start.wait()
        with SQLitePersistenceLayer(f"{path}-{number}", timeout_seconds=20) as layer:
            answers.put(type(layer.acquire(a_claim())).__name__)


def test_many_processes_can_create_the_file_at_once(path):
    apart = multiprocessing.get_context("spawn")
    start, answers = apart.Barrier(4), apart.Queue()
    processes = [apart.Process(target=first_verb, args=(path, start, answers)) for _ in range(4)]
    for process in processes:
        process.start()
    got = [answers.get(timeout=40) for _ in range(4 * 20)]
    for process in processes:
        process.join()
    assert set(got) == {"Acquired"}


def test_a_forked_child_can_use_a_layer_that_was_used_before(layer):
    claim, other = a_claim(), a_claim()
    assert layer.acquire(claim) == Acquired(1)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # Python 3.12 warns of a fork in a process with threads
        child = os.fork()
    if child == 0:
        done = layer.complete(claim, b"the child's") == Settled() and layer.acquire(other) == Acquired(1)
        layer.close()
        os._exit(0 if done else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert layer.acquire(rival(claim)).record.result == b"the child's"
    assert isinstance(layer.acquire(rival(other)), Existing)


def test_closing_in_a_forked_child_does_not_close_the_parents_connection(layer, monkeypatch):
    layer.acquire(a_claim())
    parents = connection_of(layer)
    monkeypatch.setattr(os, "getpid", lambda: -1)  # from here on as in a child
    layer.close()
    assert parents.execute("SELECT 1").fetchone() is not None
    layer.acquire(a_claim())
    assert connection_of(layer) is not parents
    layer.close()
    parents.close()


@pytest.mark.row(102)
@pytest.mark.fault(25)
@pytest.mark.parametrize("connected", [True, False], ids=["connected before", "not connected before"])
def test_every_verb_on_a_locked_file_fails_in_time(layer, path, connected):
    if connected:
        layer.check()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA journal_mode = WAL")
        other.execute("BEGIN EXCLUSIVE")
        for verb in (
            layer.check,
            lambda: layer.acquire(a_claim()),
            lambda: layer.extend(a_claim()),
            lambda: layer.complete(a_claim(), b""),
            lambda: layer.release(a_claim()),
        ):

            def failing(verb=verb):
                with pytest.raises(IdempotencyPersistenceConnectionError) as failed:
                    verb()
                assert isinstance(failed.value.__cause__, sqlite3.OperationalError)

            bound = layer.timeout_seconds + SLACK
            assert 0.25 < fastest(lambda failing=failing: seconds(failing), bound) <= bound
        other.execute("ROLLBACK")
    assert layer.acquire(a_claim()) == Acquired(1)


def test_a_verb_waits_for_a_lock_that_is_released_in_time(path):
    with (
        SQLitePersistenceLayer(path, timeout_seconds=20) as layer,
        closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other,
    ):
        layer.check()
        other.execute("BEGIN IMMEDIATE")
        later = threading.Timer(0.1, other.execute, ["ROLLBACK"])
        later.start()
        assert layer.acquire(a_claim()) == Acquired(1)
        later.join()


@pytest.mark.fault(25)
def test_a_thread_that_waits_for_another_keeps_to_the_deadline(path):
    inside, go = threading.Event(), threading.Event()

    def clock():
        if threading.current_thread() is slow:
            inside.set()
            go.wait(30)
        return time.time()

    with SQLitePersistenceLayer(path, timeout_seconds=0.3, clock=clock) as layer:
        layer.check()
        slow = threading.Thread(target=layer.acquire, args=[a_claim()])
        slow.start()
        inside.wait(10)

        def failing():
            with pytest.raises(IdempotencyPersistenceConnectionError):
                layer.acquire(a_claim())

        bound = layer.timeout_seconds + SLACK
        assert fastest(lambda: seconds(failing), bound) <= bound
        go.set()
        slow.join()
        assert layer.acquire(a_claim()) == Acquired(1)


@pytest.mark.fault(25)
def test_a_missing_folder_is_an_error(tmp_path):
    layer = SQLitePersistenceLayer(tmp_path / "nowhere" / "records.db")
    with pytest.raises(IdempotencyPersistenceLayerError) as failed:
        layer.acquire(a_claim())
    assert isinstance(failed.value.__cause__, FileNotFoundError)


@pytest.mark.fault(25)
def test_a_file_that_can_not_be_written_is_an_error(layer):
    claim = a_claim()
    layer.acquire(claim)
    connection_of(layer).execute("PRAGMA query_only = ON")  # like a read-only file, for root too
    with pytest.raises(IdempotencyPersistenceLayerError):
        layer.complete(claim, b"done")
    assert layer.complete(claim, b"done") == Settled()  # on a new connection


@pytest.mark.fault(25)
@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everything")
def test_a_read_only_folder_is_an_error(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(IdempotencyPersistenceLayerError):
        SQLitePersistenceLayer(tmp_path / "records.db").acquire(a_claim())


@pytest.mark.fault(25)
def test_a_full_disk_is_an_error_and_undoes_the_transaction(layer, path):
    claim = a_claim()
    layer.acquire(claim)
    connection = connection_of(layer)
    connection.execute(f"PRAGMA max_page_count = {connection.execute('PRAGMA page_count').fetchone()[0]}")
    with pytest.raises(IdempotencyPersistenceLayerError) as failed:
        layer.complete(claim, b"x" * 1_000_000)
    assert "full" in str(failed.value)
    assert not isinstance(failed.value, IdempotencyPersistenceConnectionError)
    assert layer.complete(claim, b"small") == Settled()
    assert rows(path) == 1


def test_a_file_that_is_no_database_is_an_error_and_stays_unchanged(path):
    path.write_bytes(b"not a database " * 1000)
    layer = SQLitePersistenceLayer(path)
    with pytest.raises(IdempotencyPersistenceLayerError):
        layer.acquire(a_claim())
    assert path.read_bytes() == b"not a database " * 1000


@pytest.mark.row(52)
@pytest.mark.fault(22)
@pytest.mark.parametrize("value", ["text", 5, 5.5])
def test_a_record_of_another_type_is_unreadable_and_stays_unchanged(layer, path, value):
    claim = a_claim()
    layer.check()
    with closing(sqlite3.connect(path)) as file, file:
        file.execute("INSERT INTO idempotency_records VALUES (?, ?, ?)", (claim.storage_key, value, 10**15))
    for verb in (layer.acquire, layer.extend, layer.release, lambda claim: layer.complete(claim, b"done")):
        with pytest.raises(IdempotencyRecordError):
            verb(claim)
    with closing(sqlite3.connect(path)) as file:
        assert file.execute("SELECT record FROM idempotency_records").fetchone()[0] == value


@pytest.mark.row(52)
@pytest.mark.fault(22)
@pytest.mark.parametrize("expires_ms", ["text", 1e15 + 0.5])
def test_an_expiry_of_another_type_makes_a_record_unreadable(layer, path, expires_ms):
    claim = a_claim()
    layer.acquire(claim)
    with closing(sqlite3.connect(path)) as file, file:
        file.execute("UPDATE idempotency_records SET expires_ms = ?", (expires_ms,))
    for verb in (layer.acquire, layer.extend, layer.release, lambda claim: layer.complete(claim, b"done")):
        with pytest.raises(IdempotencyRecordError):
            verb(claim)


def test_each_acquire_deletes_some_expired_records(path):
    clock = ManualClock()
    with SQLitePersistenceLayer(path, clock=clock, durability="normal") as layer:
        for _ in range(40):
            layer.acquire(a_claim(lease_ms=1000, retention_ms=1000))
        living = a_claim()
        layer.acquire(living)
        clock.advance(2)
        counts = []
        for _ in range(6):
            layer.acquire(a_claim())
            counts.append(rows(path))
        assert counts == [34, 27, 20, 13, 6, 7]
        assert isinstance(layer.acquire(rival(living)), Existing)


def test_an_expired_record_does_not_exist_for_any_verb(path):
    clock = ManualClock()
    with SQLitePersistenceLayer(path, clock=clock) as layer:
        claim = a_claim(lease_ms=1000, retention_ms=1000)
        layer.acquire(claim)
        clock.advance(1)
        assert layer.extend(claim) is False
        assert layer.release(claim) is False
        assert layer.complete(claim, b"done") == Lost(None)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_in_a_transaction_undoes_it_and_leaves_the_layer_usable(path, error):
    class Interrupted(SQLitePersistenceLayer):
        def delete_all(self):
            with self._transaction() as connection:
                connection.execute("DELETE FROM idempotency_records")
                raise error

    claim = a_claim()
    with Interrupted(path) as layer:
        layer.acquire(claim)
        with pytest.raises(error):
            layer.delete_all()
        assert rows(path) == 1
        assert layer.complete(claim, b"done") == Settled()


WRITER = """
import sys
from idempotency_mw.persistence import sqlite_file
from idempotency_mw.persistence.sqlite import SQLitePersistenceLayer
from idempotency_mw.testing.harness import a_claim
layer = SQLitePersistenceLayer(sys.argv[1], durability=sys.argv[2], timeout_seconds=20)
while True:
    claim = a_claim()
    layer.acquire(claim)
    layer.complete(claim, claim.token.encode())
    print(claim.storage_key, claim.token, flush=True)
"""


@pytest.mark.fault(7)
@pytest.mark.parametrize("durability", ["full", "normal"])
def test_killed_writers_lose_no_acknowledged_completion(path, durability):
    acknowledged = {}
    for _ in range(2):
        writers = [
            subprocess.Popen(
                [sys.executable, "-c", WRITER, str(path), durability], stdout=subprocess.PIPE, text=True
            )
            for _ in range(2)
        ]
        first = [writer.stdout.readline() for writer in writers]
        time.sleep(0.2)
        for writer in writers:
            writer.send_signal(signal.SIGKILL)
        for line in [*first, *(line for writer in writers for line in writer.communicate()[0].splitlines())]:
            if len(line.split()) == 2 and len(line.split()[1]) == 32:
                acknowledged.update([line.split()])
    assert len(acknowledged) >= 4
    with closing(sqlite3.connect(path)) as file:
        kept = dict(file.execute("SELECT storage_key, substr(record, 120) FROM idempotency_records"))
        assert file.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
    assert {key: kept.get(key) for key in acknowledged} == {k: token.encode() for k, token in acknowledged.items()}


@pytest.mark.fault(25)
def test_a_change_to_wal_that_sqlite_refuses_as_busy_is_tried_again():
    refusals = [refusal(sqlite3.SQLITE_BUSY), refusal(sqlite3.SQLITE_LOCKED)]

    def action():
        if refusals:
            raise refusals.pop()

    _until(time.monotonic() + 5, action)
    assert refusals == []


@pytest.mark.fault(25)
@pytest.mark.parametrize(("code", "seconds"), [(sqlite3.SQLITE_IOERR, 5), (sqlite3.SQLITE_BUSY, -1)])
def test_a_change_to_wal_that_fails_otherwise_or_too_late_is_not_tried_again(code, seconds):
    tried = []

    def action():
        tried.append(code)
        raise refusal(code)

    with pytest.raises(sqlite3.OperationalError):
        _until(time.monotonic() + seconds, action)
    assert len(tried) == 1


def refusal(code):
    error = sqlite3.OperationalError("refused")
    error.sqlite_errorcode = code
    return error
