"""What the SQLite backend promises beyond the contracts: durability, permissions, schema, and no way around the ledger."""

from __future__ import annotations

import sqlite3
import stat
import threading
from contextlib import closing, contextmanager

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from datahall.backends.db import engines
from datahall.backends.db.sqlite import SqliteCatalogue
from datahall.backends.db.tables import RECORD_TABLES, REVISION
from datahall.core.errors import (
    ConflictError,
    IntegrityError,
    NotFoundError,
    SchemaError,
    StorageFullError,
    UnavailableError,
    UserError,
)
from datahall.core.records import CATALOGUE_RECORDS, Act, App, Change
from datahall.ledger.sequencer import integrate
from datahall.ledger.verify import verify_hall
from datahall.testing.catalogue import app, declare
from datahall.testing.clock import AutoClock


@pytest.fixture
def path(tmp_path):
    return tmp_path / "hall.db"


@pytest.fixture
def catalogue(path):
    opened = SqliteCatalogue(path, AutoClock())
    yield opened
    opened.close()


def edit(path, statement, *values):
    with closing(sqlite3.connect(path)) as connection, connection:
        assert connection.execute(statement, values).rowcount > 0


def test_what_was_written_is_there_after_reopening(path, catalogue):
    declare(catalogue, app())
    catalogue.close()
    again = SqliteCatalogue(path, AutoClock())
    assert again.get(App, "tumours") == app()
    assert declare(again, app("second")).seq == 1
    again.close()


def test_a_transaction_reaches_the_disk_before_it_is_acknowledged(catalogue):
    pragmas = ("PRAGMA journal_mode", "PRAGMA synchronous")
    assert [catalogue._writer._connection.execute(pragma).fetchone()[0] for pragma in pragmas] == ["wal", 2]
    with catalogue._readers.connect() as connection:
        assert [connection.exec_driver_sql(pragma).scalar() for pragma in pragmas] == ["wal", 2]


def test_only_the_owner_can_read_the_files(path, catalogue):
    declare(catalogue, app())
    for file in path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_readers_cannot_write(catalogue):
    with pytest.raises(UnavailableError, match="readonly"), catalogue._reading() as connection:
        connection.exec_driver_sql("DELETE FROM entries")


def test_every_record_has_a_table_with_its_index():
    assert {kind.KIND for kind in CATALOGUE_RECORDS} == RECORD_TABLES.keys()
    for kind in CATALOGUE_RECORDS:
        assert [column.name for column in RECORD_TABLES[kind.KIND].columns] == ["id", "seq", "body", *kind.INDEX]


def test_an_indexed_column_cannot_be_written(path, catalogue):
    declare(catalogue, app())
    with pytest.raises(sqlite3.OperationalError, match="generated column"):
        edit(path, "UPDATE record_app SET team = 'thieves'")


def test_find_uses_the_index(catalogue):
    with catalogue._reading() as connection:
        plan = connection.exec_driver_sql("EXPLAIN QUERY PLAN SELECT * FROM record_app WHERE team = 'x'").all()
    assert "ix_app_team" in str(plan)


@pytest.mark.parametrize(
    ("name", "statement"),
    [
        ("a", "UPDATE record_app SET body = json_set(body, '$.spec_digest', 'forged') WHERE id = 'a'"),
        ("a", "UPDATE record_app SET seq = 1 WHERE id = 'a'"),
        ("a", "UPDATE record_app SET seq = 99 WHERE id = 'a'"),
        ("a", "UPDATE record_app SET seq = 0, body = json_set(body, '$.spec_digest', '0') WHERE id = 'a'"),
        ("x", "INSERT INTO record_app (id, seq, body) SELECT 'x', seq, body FROM record_app WHERE id = 'a'"),
        ("gone", "INSERT INTO record_app (id, seq, body) SELECT 'gone', 3, body FROM record_app WHERE id = 'b'"),
        ("gone", "INSERT INTO record_app (id, seq, body) SELECT 'gone', 2, body FROM record_app WHERE id = 'b'"),
    ],
)
def test_a_row_written_behind_the_ledger_is_not_read(path, catalogue, name, statement):
    declare(catalogue, app("a"))
    declare(catalogue, app("b"))
    declare(catalogue, app("gone"))
    declare(catalogue, None, app("gone"))
    declare(catalogue, app("a", digest="1"), app("a"))
    assert catalogue.get(App, "a") == app("a", digest="1")
    edit(path, statement)
    with pytest.raises(IntegrityError, match="changed behind the ledger"):
        catalogue.get(App, name)
    with pytest.raises(IntegrityError, match="changed behind the ledger"):
        catalogue.find(App)
    assert catalogue.get(App, "b") == app("b")


def test_a_row_removed_behind_the_ledger_is_not_merely_missing(path, catalogue):
    declare(catalogue, app())
    edit(path, "DELETE FROM record_app")
    with pytest.raises(IntegrityError, match="its row is gone"):
        catalogue.get(App, "tumours")


def test_a_deleted_record_is_merely_missing(catalogue):
    declare(catalogue, app())
    declare(catalogue, None, app())
    with pytest.raises(NotFoundError):
        catalogue.get(App, "tumours")


def test_a_record_whose_entry_is_gone_is_not_read(path, catalogue):
    declare(catalogue, app())
    edit(path, "DELETE FROM entries")
    with pytest.raises(IntegrityError):
        catalogue.get(App, "tumours")


def test_an_act_of_two_changes_to_one_record_is_our_mistake(catalogue):
    changes = (Change(new=app()), Change(new=app(digest="1"), old=app()))
    with pytest.raises(AssertionError):
        catalogue.act(Act(kind="app.declared", actor="tester", changes=changes))
    assert catalogue.entries() == []
    for change in (Change(), Change(new=app("a"), old=app("b"))):
        with pytest.raises(AssertionError):
            catalogue.act(Act(kind="app.declared", actor="tester", changes=(change,)))
    with pytest.raises(AssertionError):
        catalogue.find(App, spec_digest="0")


class Racing(SqliteCatalogue):
    """Whose record is written just after a transaction that read, and found nothing."""

    @contextmanager
    def _reading(self):
        with super()._reading() as connection:
            yield connection
        writer = SqliteCatalogue(self.path, AutoClock())
        if not writer.entries():
            declare(writer, app())
        writer.close()


def test_a_record_that_comes_while_it_is_asked_for_is_merely_missing(path):
    catalogue = Racing(path, AutoClock())
    with pytest.raises(NotFoundError):
        catalogue.get(App, "tumours")
    assert catalogue.get(App, "tumours") == app()
    catalogue.close()


def test_the_entry_tells_the_clock_s_time(path):
    clock = AutoClock()
    catalogue = SqliteCatalogue(path, clock)
    first = declare(catalogue, app("a"))
    clock.advance(1.5)
    assert declare(catalogue, app("b")).at_ns - first.at_ns == 1_500_000_000
    catalogue.close()


def test_readers_do_not_wait_for_a_writer(catalogue):
    declare(catalogue, app())
    found = []

    def work(cursor):
        cursor.execute("DELETE FROM record_app")
        thread = threading.Thread(target=lambda: found.append(catalogue.get(App, "tumours")))
        thread.start()
        thread.join(10)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        catalogue.transact(work)
    assert found == [app()] == catalogue.find(App)


def test_a_second_process_that_writes_is_refused(path, catalogue, monkeypatch):
    monkeypatch.setattr(engines, "_BUSY_TIMEOUT_MS", 1)
    impatient = SqliteCatalogue(path, AutoClock())

    def work(_cursor):
        with pytest.raises(UnavailableError, match="locked"):
            declare(impatient, app())

    catalogue.transact(work)
    declare(impatient, app())
    with pytest.raises(ConflictError):
        declare(catalogue, app())
    impatient.close()


def test_a_newer_hall_is_refused_with_the_command_to_run(path, catalogue):
    catalogue.close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", (f"{int(REVISION) + 1:04d}",))
        connection.commit()
    with pytest.raises(SchemaError, match="newer Datahall") as caught:
        SqliteCatalogue(path, AutoClock())
    assert "pip install --upgrade datahall" in caught.value.hint


def test_a_stranger_s_database_is_refused_and_left_alone(path):
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    with pytest.raises(UserError, match="is no hall"):
        SqliteCatalogue(path, AutoClock())
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("theirs",)]


def test_a_file_that_is_no_database_is_refused(path):
    path.write_text("not a database, but long enough to have a header of its own" * 20)
    with pytest.raises(IntegrityError, match="not a database"):
        SqliteCatalogue(path, AutoClock())


def test_a_folder_that_is_not_there_is_told(tmp_path):
    with pytest.raises(UnavailableError, match="cannot be opened"):
        SqliteCatalogue(tmp_path / "none" / "hall.db", AutoClock())


def test_odd_paths_work(tmp_path):
    folder = tmp_path / "a folder, 100% ?odd#" / ("long" * 40)
    folder.mkdir(parents=True)
    catalogue = SqliteCatalogue(folder / "hall.db", AutoClock())
    declare(catalogue, app())
    catalogue.close()
    assert (folder / "hall.db").exists()


def fill(catalogue, written):
    for number in range(1000):
        declare(catalogue, app(f"app-{number}", digest="x" * 1000))
        written.append(f"app-{number}")


def test_a_full_disk_refuses_the_act_and_keeps_what_was_acknowledged(catalogue):
    def allow(num_pages):
        catalogue._writer._connection.execute(f"PRAGMA max_page_count = {num_pages}")

    allow(1)  # SQLite takes its present size for the least
    written = []
    with pytest.raises(StorageFullError, match="full") as caught:
        fill(catalogue, written)
    assert "free disk space" in caught.value.hint
    assert [record.id for record in catalogue.find(App)] == written
    assert len(catalogue.entries()) == len(written)
    # The writer was opened anew, and with it the bound is gone: as if space had been made.
    assert declare(catalogue, app("after")).seq == len(written)


STEP = st.tuples(st.sampled_from(["create", "replace", "delete", "integrate"]), st.sampled_from("abc"), st.booleans())


@given(steps=st.lists(STEP, max_size=25))
@settings(max_examples=40, deadline=None)
def test_whatever_happens_the_catalogue_is_what_was_accepted(steps, tmp_path_factory):
    """Against a dictionary: right and wrong expectations, deletions, integration in between."""
    catalogue = SqliteCatalogue(tmp_path_factory.mktemp("law") / "hall.db", AutoClock())
    model, num_accepted = {}, 0
    for number, (what, name, right) in enumerate(steps):
        if what == "integrate":
            integrate_all(catalogue)
            continue
        old = None if what == "create" else app(name, digest="wrong") if not right else model.get(name)
        new = None if what == "delete" else app(name, digest=str(number))
        if old is None and new is None:
            continue
        if old == model.get(name):
            declare(catalogue, new, old)
            num_accepted += 1
            model = {key: value for key, value in model.items() if key != name} | ({name: new} if new else {})
        else:
            with pytest.raises(ConflictError):
                declare(catalogue, new, old)
    assert catalogue.find(App) == list(model.values())
    assert [entry.seq for entry in catalogue.entries()] == list(range(num_accepted))
    integrate_all(catalogue)
    assert catalogue.pending(1) == []
    catalogue.close()
    assert verify_hall(catalogue.path, Unlocked.public_key).problems == []


class Unlocked:
    """Signs with a key that everybody knows."""

    _key = Ed25519PrivateKey.from_private_bytes(bytes(32))
    public_key = _key.public_key().public_bytes_raw()
    key_id = ""

    @classmethod
    def sign(cls, message):
        return cls._key.sign(message)


def integrate_all(catalogue):
    while integrate(catalogue, Unlocked(), "hall", limit=2):
        pass


class Busy(SqliteCatalogue):
    """A catalogue in which somebody writes `late` as soon as a reader has looked once."""

    late = None

    @contextmanager
    def _reading(self):
        with super()._reading() as connection:
            yield connection
        if self.late is not None:
            late, self.late = self.late, None
            declare(self, late)


def test_a_record_made_while_a_reader_looks_for_it_is_no_sign_of_tampering(tmp_path):
    catalogue = Busy(tmp_path / "hall.db", AutoClock())
    catalogue.late = app("new")
    with pytest.raises(NotFoundError):
        catalogue.get(App, "new")
    assert catalogue.get(App, "new") == app("new")
    catalogue._writer.transact(lambda cursor: cursor.execute("DELETE FROM record_app"))  # control: really taken away
    with pytest.raises(IntegrityError, match="its row is gone"):
        catalogue.get(App, "new")
    catalogue.close()
