"""The layer below SQLite and the disk that it records: what they note, what they make fail, what they may lose."""

from __future__ import annotations

import sqlite3
from collections import Counter
from contextlib import closing
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datahall.testing import vfs
from datahall.testing.powercut import Disk, images, lay_out
from datahall.testing.vfs import DiskLayer, Fault, Operation

FOLDER = "/hall"
FILE = f"{FOLDER}/file"


@pytest.fixture
def layer():
    made = DiskLayer()
    yield made
    assert made.problems == []


def seeded(seed):
    return Random(seed)  # noqa: S311  (a repeatable accident, no secret)


def connect(path):
    return closing(sqlite3.connect(path, isolation_level=None))


def test_it_sees_what_a_connection_by_plain_path_does_and_only_while_installed(tmp_path, layer):
    with layer.installed(), connect(tmp_path / "a") as connection:
        connection.execute("CREATE TABLE t (x)")
    seen = Counter(operation.kind for operation in layer.log)
    assert seen["sync"] >= 2
    assert seen["open"] == seen["close"] == 2, "the file and its journal"
    num = len(layer.log)
    with connect(tmp_path / "a") as connection:
        connection.execute("INSERT INTO t VALUES (1)")
        assert connection.execute("SELECT count(*) FROM t").fetchone() == (1,)
    assert len(layer.log) == num


def test_the_log_of_a_folder_is_the_folder(tmp_path, layer):
    with layer.installed(), connect(tmp_path / "a") as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE t (x)")
        connection.execute("INSERT INTO t VALUES (randomblob(100000))")
        disk = Disk(tmp_path)
        for operation in layer.log:
            disk.apply(operation)
        whole = next(image for seed in range(100) if (image := disk.image(seeded(seed))).keys() >= {"a-wal"})
        assert whole["a-wal"] == (tmp_path / "a-wal").read_bytes()
        assert whole["a"] == (tmp_path / "a").read_bytes()


@pytest.mark.parametrize(
    ("kind", "code", "said"),
    [("write", vfs.FULL, "full"), ("write", vfs.IOERR_WRITE, "I/O"), ("sync", vfs.IOERR_FSYNC, "I/O")],
)
def test_what_is_to_fail_fails_until_it_heals(tmp_path, layer, kind, code, said):
    with layer.installed(), connect(tmp_path / "a") as connection:
        connection.execute("CREATE TABLE t (x)")
        layer.fail(Fault(kind=kind, nth=0, code=code, lasts=True))
        for _ in range(2):
            with pytest.raises(sqlite3.OperationalError, match=said):
                connection.execute("INSERT INTO t VALUES (1)")
        layer.heal()
        connection.execute("INSERT INTO t VALUES (2)")
        assert connection.execute("SELECT x FROM t").fetchall() == [(2,)]
    assert layer.num_failed >= 2


def test_an_open_that_fails_is_no_crash(tmp_path, layer):
    with layer.installed():
        layer.fail(Fault(kind="open", nth=0, code=vfs.IOERR, suffix="a"))
        with pytest.raises(sqlite3.OperationalError), connect(tmp_path / "a") as connection:
            connection.execute("CREATE TABLE t (x)")


def test_its_own_mistakes_are_kept_and_fail_the_operation(tmp_path):
    layer = DiskLayer()
    layer.log = None
    with layer.installed(), pytest.raises(sqlite3.OperationalError), connect(tmp_path / "a") as connection:
        connection.execute("CREATE TABLE t (x)")
    assert layer.problems


def test_two_at_a_time_are_refused(layer):
    with layer.installed(), pytest.raises(AssertionError, match="one layer"), DiskLayer().installed():
        pass


def outcomes(*operations, num_seeds=3000):
    disk = Disk(FOLDER)
    for operation in operations:
        disk.apply(operation)
    return {tuple(sorted(disk.image(seeded(seed)).items())) for seed in range(num_seeds)}


def write(data, offset=0, path=FILE):
    return Operation("write", path, offset, data)


OPEN, SYNC, NAMED = Operation("open", FILE), Operation("sync", FILE), Operation("folder", FOLDER)


def test_what_was_synced_is_there_and_its_name_after_a_sync_of_the_folder():
    assert outcomes(OPEN, write(b"old"), SYNC, NAMED) == {(("file", b"old"),)}
    assert outcomes(OPEN, write(b"old"), SYNC) == {(("file", b"old"),), ()}


def test_what_was_not_synced_is_there_or_not_or_torn_in_any_combination():
    found = outcomes(OPEN, NAMED, write(b"a" * 512 + b"b" * 512), write(b"c", offset=2000))
    contents = {dict(each)["file"] for each in found}
    nothing, both = b"", b"a" * 512 + b"b" * 512
    torn = {b"a" * 512, bytes(512) + b"b" * 512}
    assert {nothing, both, *torn} <= contents
    assert bytes(2000) + b"c" in contents, "a later write without the earlier one"


def test_a_file_that_was_removed_may_be_back_until_its_folder_is_synced():
    gone = Operation("delete", FILE)
    assert outcomes(OPEN, write(b"x"), SYNC, NAMED, gone) == {(("file", b"x"),), ()}
    assert outcomes(OPEN, write(b"x"), SYNC, NAMED, gone, NAMED) == {()}


@given(seed=st.integers(0, 1000), sizes=st.lists(st.integers(1, 2000), min_size=1, max_size=6))
def test_no_seed_loses_what_was_synced(seed, sizes):
    """The law: bytes below the last sync are as they were, where nothing wrote there since."""
    log, end = [OPEN, NAMED], 0
    for size in sizes:
        log.append(write(b"s" * size, offset=end))
        end += size
    log += [SYNC, write(b"n" * 100, offset=end)]
    disk = Disk(FOLDER)
    for operation in log:
        disk.apply(operation)
    assert disk.image(seeded(seed))["file"][:end] == b"s" * end


def test_a_seed_alone_decides_where_the_power_goes_and_what_is_left(tmp_path):
    log = [OPEN, NAMED, *(write(bytes([number]) * 700, offset=number * 600) for number in range(40))]
    many = {seed: (cut, image) for seed, cut, image in images(log, FOLDER, range(50))}
    assert {seed: (cut, image) for seed, cut, image in images(log, FOLDER, [17])} == {17: many[17]}
    lay_out(many[17][1], tmp_path / "again")
    assert {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()} == many[17][1]
