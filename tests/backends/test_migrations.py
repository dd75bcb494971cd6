"""From every schema to every other, in both databases: the same tables, the same data, also when killed half-way."""

from __future__ import annotations

import hmac
import re
import shutil
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import inspect

from datahall.backends.db.migrate import REVISIONS, migrate_postgres, migrate_sqlite
from datahall.backends.db.postgres import PostgresCatalogue
from datahall.backends.db.schema import FIRST_REVISION, revision_of
from datahall.backends.db.server import Server
from datahall.backends.db.sqlite import SqliteCatalogue
from datahall.backends.db.tables import REVISION
from datahall.backends.db.unfinished import marker_of
from datahall.core.errors import SchemaError, UserError
from datahall.core.failpoints import armed
from datahall.core.records import Act, App
from datahall.ledger.sequencer import integrate
from datahall.ledger.verify import verify_hall
from datahall.security.signing import Ed25519Signer
from datahall.testing.catalogue import app, declare
from datahall.testing.clock import AutoClock

KEY = b"k" * 32
SIGNER = Ed25519Signer(Ed25519PrivateKey.from_private_bytes(bytes(32)))
SCHEMA_0001 = Path(__file__).with_name("schema_0001.sql")
TABLES_0001 = ("entries", "touched", "nodes", "checkpoints")


def fill(catalogue):
    """Write what a first release could have written: some in the tree, some not yet."""
    for name in "abc":
        declare(catalogue, app(name))
    declare(catalogue, None, app("c"))
    integrate(catalogue, SIGNER, "hall")
    declare(catalogue, app("a", digest="1"), app("a"))


@pytest.fixture
def path(tmp_path):
    """A hall as the first release left it, with an entry that its tree does not hold yet."""
    newer = SqliteCatalogue(tmp_path / "newer.db", AutoClock(), entry_key=KEY)
    fill(newer)
    newer.close()
    path = tmp_path / "hall.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript(SCHEMA_0001.read_text())
        connection.execute("PRAGMA application_id = 0x44415448")
        connection.execute("PRAGMA user_version = 1")
        connection.execute("ATTACH ? AS newer", (str(tmp_path / "newer.db"),))
        for table in TABLES_0001:
            connection.execute(f"INSERT INTO {table} SELECT * FROM newer.{table}")  # noqa: S608
        connection.execute("INSERT INTO record_app (id, seq, body) SELECT id, seq, body FROM newer.record_app")
        for seq, body in connection.execute("SELECT seq, body FROM newer.entries WHERE seq >= 4").fetchall():
            mac = hmac.digest(KEY, seq.to_bytes(8, "big") + body, "sha256")
            connection.execute("INSERT INTO vouchers VALUES (?, ?)", (seq, mac))
    return path


def check_all_is_there(catalogue, num_entries=5):
    assert [found.id for found in catalogue.find(App)] == ["b", "a"]
    assert catalogue.get(App, "a") == app("a", digest="1")
    assert len(catalogue.entries()) == num_entries
    assert [seq for seq, _ in catalogue.pending(10)] == list(range(4, num_entries))


def opened(path):
    catalogue = SqliteCatalogue(path, AutoClock(), entry_key=KEY)
    check_all_is_there(catalogue)
    catalogue.close()


def reflected(engine):
    """Return everything that the database says of its tables."""
    seen = inspect(engine)
    tables = {}
    for name in seen.get_table_names():
        columns = [
            (column["name"], str(column["type"]), column["nullable"], (column.get("computed") or {}).get("sqltext"))
            for column in seen.get_columns(name)
        ]
        indexes = sorted((index["name"], index["column_names"], index["unique"]) for index in seen.get_indexes(name))
        key = seen.get_pk_constraint(name)["constrained_columns"]
        tables[name] = (columns, key, indexes, seen.get_table_options(name))
    engine.dispose()
    return tables, seen.get_sequence_names() if engine.dialect.supports_sequences else []


def sqlite_tables(path):
    """Return the file's numbers, and name to definition of all that is in it; VIRTUAL is what SQLite takes for granted."""
    with closing(sqlite3.connect(path)) as connection:
        numbers = [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")]
        rows = connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
    return numbers, {
        name: re.sub(r"\s*([,()])\s*", r"\1", " ".join(sql.split())).replace("VIRTUAL", "") for name, sql in rows
    }


def test_the_first_schema_is_what_the_first_release_wrote(path, tmp_path):
    migrate_sqlite(path, REVISION, entry_key=KEY)
    migrate_sqlite(path, FIRST_REVISION, entry_key=KEY)
    first = tmp_path / "first.db"
    with closing(sqlite3.connect(first)) as connection:
        connection.executescript(SCHEMA_0001.read_text())
        connection.execute("PRAGMA application_id = 0x44415448")
        connection.execute("PRAGMA user_version = 1")
    assert sqlite_tables(path) == sqlite_tables(first)


def test_an_older_hall_becomes_what_a_new_one_is(path, tmp_path):
    with pytest.raises(SchemaError, match="older Datahall") as caught:
        opened(path)
    assert "datahall doctor --migrate" in caught.value.hint
    first = sqlite_tables(path)
    snapshot = migrate_sqlite(path, entry_key=KEY)
    assert sqlite_tables(path) == sqlite_tables(tmp_path / "newer.db")
    opened(path)
    assert snapshot == path.with_name("hall.db.before-0002")
    assert stat.S_IMODE(snapshot.stat().st_mode) == 0o600
    assert sqlite_tables(snapshot) == first
    assert migrate_sqlite(path, entry_key=KEY) is None
    assert verify_hall(path, SIGNER.public_key).problems == []


def test_there_and_back_and_there_again_loses_nothing(path):
    for target in (REVISION, FIRST_REVISION, REVISION):
        assert migrate_sqlite(path, target, entry_key=KEY) is not None
        with closing(sqlite3.connect(path)) as connection:
            assert revision_of(connection) == target
    opened(path)
    assert sorted(file.name for file in path.parent.glob("hall.db.before-*")) == [
        "hall.db.before-0001",
        "hall.db.before-0002",
        "hall.db.before-0002-1",
    ]


def test_a_voucher_that_did_not_hold_holds_no_better_afterwards(path):
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE vouchers SET mac = zeroblob(32)")
    migrate_sqlite(path, entry_key=KEY)
    catalogue = SqliteCatalogue(path, AutoClock(), entry_key=KEY)
    with pytest.raises(Exception, match="was not written by this hall"):
        catalogue.pending(10)
    catalogue.close()


def test_no_way_back_from_what_the_old_schema_has_no_word_for(path):
    migrate_sqlite(path, entry_key=KEY)
    catalogue = SqliteCatalogue(path, AutoClock(), entry_key=KEY)
    catalogue.act(Act(kind="entry.void", actor="t"))
    catalogue.close()
    with pytest.raises(SchemaError, match="has no word for"):
        migrate_sqlite(path, FIRST_REVISION, entry_key=KEY)
    catalogue = SqliteCatalogue(path, AutoClock(), entry_key=KEY)
    check_all_is_there(catalogue, 6)
    catalogue.close()


def test_a_schema_that_does_not_exist_is_refused(path):
    with pytest.raises(UserError, match="there is no schema 0007"):
        migrate_sqlite(path, "0007")
    assert REVISIONS[-1] == REVISION


MIGRATE = """
import os, signal, sys
from pathlib import Path
from datahall.backends.db.migrate import migrate_sqlite
from datahall.core.failpoints import armed

def migrate(path, place):
    def die(name):
        if name == place:
            os.kill(os.getpid(), signal.SIGKILL)

    with armed(die):
        migrate_sqlite(path, entry_key=b"k" * 32)

for folder in sorted(Path(sys.argv[1]).iterdir()):  # a fork for each: starting anew takes a second
    child = os.fork()
    if not child:
        migrate(folder / "hall.db", (folder / "place").read_text())
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
PLACES = [
    f"migrate.{step}:{side}"
    for step in (
        *(f"{part}/{what}" for part in ("snapshot", "marker") for what in ("sync", "rename", "folder")),
        "run/commit",
        "done/remove",
        "done/folder",
    )
    for side in ("before", "after")
]


def test_every_failpoint_of_a_migration_is_among_the_places_where_it_is_killed(path):
    reached = []
    with armed(reached.append):
        migrate_sqlite(path, entry_key=KEY)
    assert reached == PLACES


def test_killed_at_any_step_it_is_old_or_new_and_the_command_finishes_it(path):
    halls = path.parent / "halls"
    for number, place in enumerate(PLACES):
        folder = halls / f"{number:02d}"
        folder.mkdir(parents=True)
        shutil.copy(path, folder)
        (folder / "place").write_text(place)
    done = subprocess.run([sys.executable, "-c", MIGRATE, str(halls)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["-9"] * len(PLACES)
    for number, place in enumerate(PLACES):
        check_killed(halls / f"{number:02d}" / "hall.db", place)


def check_killed(path, place):
    with closing(sqlite3.connect(path)) as connection:
        revision = revision_of(connection)
    is_new = PLACES.index(place) >= PLACES.index("migrate.run/commit:after")
    assert revision == (REVISION if is_new else FIRST_REVISION), place
    is_marked = (
        PLACES.index("migrate.marker/rename:after") <= PLACES.index(place) <= PLACES.index("migrate.done/remove:before")
    )
    assert marker_of(path).exists() == is_marked, place
    if is_marked:
        with pytest.raises(SchemaError, match="cut short") as caught:
            opened(path)
        assert caught.value.hint == "finish it with: datahall doctor --migrate --to 0002"
    migrate_sqlite(path, REVISION, entry_key=KEY)
    opened(path)
    assert not marker_of(path).exists()
    assert verify_hall(path, SIGNER.public_key).problems == []


@pytest.mark.parametrize("damaged", [b"", b"{", b"\xff", b'{"source": 1}'])
def test_a_marker_that_cannot_be_read_is_refused_by_name(tmp_path, damaged):
    path = tmp_path / "hall.db"
    SqliteCatalogue(path, AutoClock(), entry_key=KEY).close()
    marker_of(path).write_bytes(damaged)
    with pytest.raises(SchemaError, match="marker cannot be read") as caught:
        SqliteCatalogue(path, AutoClock(), entry_key=KEY)
    assert caught.value.where == str(marker_of(path))


@pytest.fixture
def server(postgres, postgres_url):
    catalogue = PostgresCatalogue(postgres_url, AutoClock(), entry_key=KEY)
    fill(catalogue)
    catalogue.close()
    server = Server(postgres_url)
    yield server
    server.close()


def test_postgres_goes_there_and_back_and_there_again(server, postgres_url, tmp_path):
    before = reflected(server.writing_engine())
    kept = []

    def snapshot(path):
        path.write_text("kept")
        kept.append(path)

    for target in (FIRST_REVISION, REVISION):
        made = migrate_postgres(server, tmp_path, target, entry_key=KEY, snapshot=snapshot)
        assert made.read_text() == "kept"
        if target == FIRST_REVISION:
            with pytest.raises(SchemaError, match="older Datahall"):
                PostgresCatalogue(postgres_url, AutoClock())
    assert reflected(server.writing_engine()) == before
    assert len(kept) == 2
    assert not marker_of(tmp_path / "hall.db").exists()
    catalogue = PostgresCatalogue(postgres_url, AutoClock(), entry_key=KEY)
    check_all_is_there(catalogue)
    assert declare(catalogue, app("next")).seq == 5
    catalogue.close()


def test_a_migration_of_postgres_that_fails_changes_nothing(server, postgres_url, tmp_path):
    def fail(place):
        if place == "migrate.run/commit:before":
            raise ZeroDivisionError

    with armed(fail), pytest.raises(ZeroDivisionError):
        migrate_postgres(server, tmp_path, FIRST_REVISION, entry_key=KEY, snapshot=Path.touch)
    catalogue = PostgresCatalogue(postgres_url, AutoClock(), entry_key=KEY)
    check_all_is_there(catalogue)
    catalogue.close()


def test_a_migration_of_postgres_takes_as_long_as_it_takes(server):
    names = ("statement_timeout", "idle_in_transaction_session_timeout")
    with server.writing_engine().connect() as connection:
        assert [connection.exec_driver_sql(f"SHOW {name}").scalar_one() for name in names] == ["0", "0"]
    with server.reading() as connection:  # the control
        assert [connection.exec_driver_sql(f"SHOW {name}").scalar_one() for name in names] == ["30s", "30s"]
