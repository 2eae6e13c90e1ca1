"""The SQLite layer's file: whose it is, and which one it is."""

import os
import stat
import time
from contextlib import closing

import pytest

from idempotency_mw.core.record import Acquired, Settled
from idempotency_mw.errors import (
    IdempotencyConfigurationError,
    IdempotencyPersistenceConnectionError,
    IdempotencyPersistenceLayerError,
)
from idempotency_mw.persistence import sqlite_file
from idempotency_mw.persistence.sqlite import SQLitePersistenceLayer
from idempotency_mw.testing.harness import a_claim, rival
from tests.sqlite import connection_of, disconnect, rows


@pytest.fixture
def path(tmp_path):
    return tmp_path / "records.db"


@pytest.fixture
def layer(path):
    with SQLitePersistenceLayer(path, timeout_seconds=0.3) as layer:
        yield layer


def modes(folder):
    return {each.name: stat.S_IMODE(each.stat().st_mode) for each in folder.iterdir()}


@pytest.fixture(params=["mknod", "no mknod", "mknod for root only"])
def making(request, monkeypatch):
    """How the file can be made: as on Linux, on Windows and on macOS."""

    def refused(*arguments):
        raise PermissionError

    if request.param == "no mknod":
        monkeypatch.delattr(os, "mknod")
    elif request.param == "mknod for root only":
        monkeypatch.setattr(os, "mknod", refused)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777])
def test_the_file_and_those_beside_it_are_made_for_their_owner_alone(tmp_path, making, umask):
    before = os.umask(umask)
    try:
        with SQLitePersistenceLayer(tmp_path / "records.db") as layer:
            layer.acquire(a_claim())
            made = modes(tmp_path)
    finally:
        os.umask(before)
    assert made == {"records.db": 0o600, "records.db-wal": 0o600, "records.db-shm": 0o600}


def test_a_file_that_another_process_makes_first_is_taken(path, monkeypatch):
    def late(name, mode):
        path.touch(0o600)
        raise FileExistsError

    monkeypatch.setattr(os, "mknod", late)
    with SQLitePersistenceLayer(path) as layer:
        assert layer.acquire(a_claim()) == Acquired(1)


@pytest.mark.parametrize("mode", [0o644, 0o620])
def test_a_file_that_others_may_open_stays_so_and_is_reported_once(path, caplog, mode):
    path.touch()
    path.chmod(mode)
    with SQLitePersistenceLayer(path) as layer:
        for _ in range(2):
            layer.acquire(a_claim())
            disconnect(layer)
        assert modes(path.parent)["records.db"] == mode
    (warning,) = caplog.records
    assert (warning.name, warning.levelname) == ("idempotency_mw", "WARNING")
    assert warning.getMessage().startswith("records.db: others than its owner may read or write it")


def test_where_files_have_no_rights_nothing_is_said_of_them(path, caplog, monkeypatch):
    monkeypatch.setattr(sqlite_file, "_HAS_RIGHTS", False)
    path.touch()
    path.chmod(0o666)
    with SQLitePersistenceLayer(path) as layer:
        layer.acquire(a_claim())
    assert caplog.text == ""


@pytest.mark.parametrize("target", ["real.db", "nowhere.db"])
def test_a_symbolic_link_is_refused(path, target):
    (path.parent / "real.db").touch()
    early = SQLitePersistenceLayer(path)
    path.symlink_to(target)
    with pytest.raises(IdempotencyConfigurationError, match="symbolic link"):
        SQLitePersistenceLayer(path)
    with pytest.raises(IdempotencyPersistenceLayerError, match="symbolic link"):
        early.check()
    assert not (path.parent / "nowhere.db").exists()


def test_a_folder_that_is_a_symbolic_link_is_no_matter(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with SQLitePersistenceLayer(tmp_path / "link" / "records.db") as layer:
        assert layer.acquire(a_claim()) == Acquired(1)
    assert (tmp_path / "real" / "records.db").exists()


def test_a_folder_in_place_of_the_file_is_refused(path):
    path.mkdir()
    with pytest.raises(IdempotencyPersistenceLayerError, match="no file"):
        SQLitePersistenceLayer(path).check()


def remove(path):
    for tail in ("", "-wal", "-shm"):
        path.with_name(path.name + tail).unlink(missing_ok=True)


def every_verb(layer, claim):
    return (
        layer.check,
        lambda: layer.acquire(rival(claim)),
        lambda: layer.extend(claim),
        lambda: layer.complete(claim, b"done"),
        lambda: layer.release(claim),
    )


@pytest.mark.fault(25)
@pytest.mark.parametrize("is_replaced", [False, True], ids=["removed", "replaced"])
@pytest.mark.parametrize("is_connected", [True, False], ids=["connected", "not connected"])
def test_a_process_whose_file_is_gone_acknowledges_nothing_more(layer, path, is_replaced, is_connected):
    claim = a_claim()
    layer.acquire(claim)
    kept = path.open()  # no other file gets its inode
    if not is_connected:
        disconnect(layer)
    remove(path)
    if is_replaced:
        with SQLitePersistenceLayer(path) as other:
            other.acquire(claim)
    for verb in every_verb(layer, claim) * 2:
        with pytest.raises(IdempotencyPersistenceLayerError, match="removed or replaced") as failed:
            verb()
        assert not isinstance(failed.value, IdempotencyPersistenceConnectionError)
        assert "put it back" in str(failed.value)
        assert "runs again" in str(failed.value)  # what a restart would do
    assert path.exists() is is_replaced  # nobody here made a new one
    kept.close()


def test_a_file_that_is_removed_in_the_middle_of_a_verb_acknowledges_nothing(layer, path):
    def clock():
        remove(path)  # a verb asks for the time within its transaction
        return time.time()

    layer.check()
    with (
        SQLitePersistenceLayer(path, clock=clock) as other,
        pytest.raises(IdempotencyPersistenceLayerError, match="removed or replaced"),
    ):
        other.acquire(a_claim())


def test_a_file_that_is_put_back_is_used_again(layer, path):
    claim = a_claim()
    layer.acquire(claim)
    path.rename(path.with_name("elsewhere"))
    with pytest.raises(IdempotencyPersistenceLayerError):
        layer.check()
    path.with_name("elsewhere").rename(path)
    assert layer.complete(claim, b"done") == Settled()


def test_a_layer_that_was_closed_takes_what_is_there(layer, path):
    layer.acquire(a_claim())
    remove(path)
    with pytest.raises(IdempotencyPersistenceLayerError):
        layer.check()
    layer.close()
    layer.check()
    assert rows(path) == 0


def test_a_process_whose_file_is_gone_does_no_harm_to_the_new_one(layer, path):
    layer.acquire(a_claim())
    remove(path)
    claim = a_claim()
    with SQLitePersistenceLayer(path) as other:
        assert other.acquire(claim) == Acquired(1)
        with pytest.raises(IdempotencyPersistenceLayerError):
            layer.acquire(rival(claim))
        layer.close()
        assert other.complete(claim, b"done") == Settled()
    with SQLitePersistenceLayer(path) as later:
        assert later.acquire(rival(claim)).record.result == b"done"


def test_a_forked_child_stays_with_its_parents_file(layer, path, monkeypatch):
    layer.acquire(a_claim())
    with closing(connection_of(layer)):
        monkeypatch.setattr(os, "getpid", lambda: -1)  # from here on as in a child
        remove(path)
        with pytest.raises(IdempotencyPersistenceLayerError, match="removed or replaced"):
            layer.acquire(a_claim())
