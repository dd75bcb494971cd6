"""A hall in Postgres, written to a file: everything, as of one moment, for the verifier that knows files only."""

from __future__ import annotations

import stat
import threading
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from datahall.backends.db.export import export_sqlite
from datahall.backends.db.postgres import PostgresCatalogue
from datahall.backends.db.sqlite import SqliteCatalogue
from datahall.core.errors import UnavailableError
from datahall.core.failpoints import armed
from datahall.core.records import App
from datahall.ledger.sequencer import integrate
from datahall.ledger.verify import verify_hall
from datahall.security.signing import Ed25519Signer
from datahall.testing.catalogue import app, declare
from datahall.testing.clock import AutoClock

KEY = b"k" * 32
SIGNER = Ed25519Signer(Ed25519PrivateKey.from_private_bytes(bytes(32)))


@pytest.fixture
def catalogue(postgres_url):
    opened = PostgresCatalogue(postgres_url, AutoClock(), entry_key=KEY)
    yield opened
    opened.close()


def test_the_file_holds_what_the_server_holds(catalogue, tmp_path):
    for number in range(1200):  # more than one batch
        declare(catalogue, app(f"app-{number:04d}"))
    integrate(catalogue, SIGNER, "hall")
    declare(catalogue, app("later"))
    assert catalogue.leases.acquire("sequencer") is not None
    path = tmp_path / "copy.db"
    export_sqlite(catalogue, path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in tmp_path.iterdir()] == ["copy.db"]
    report = verify_hall(path, SIGNER.public_key)
    assert (report.problems, report.num_entries, report.size) == ([], 1201, 1200)
    copy = SqliteCatalogue(path, AutoClock(), entry_key=KEY)
    assert copy.find(App) == catalogue.find(App)
    assert copy.entries() == catalogue.entries()
    assert copy.pending(10) == catalogue.pending(10)
    assert copy.checkpoint() == catalogue.checkpoint()
    assert copy.leases.leases() == catalogue.leases.leases()
    copy.close()


def test_what_was_changed_on_the_server_is_found_in_the_file(catalogue, postgres_url, tmp_path):
    """The control of the test above."""
    declare(catalogue, app())
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("UPDATE record_app SET body = replace(body, 'ward', 'thieves')")
    export_sqlite(catalogue, tmp_path / "copy.db")
    problems = verify_hall(tmp_path / "copy.db", SIGNER.public_key).problems
    assert "its row is not what entry 0 wrote" in [problem.what for problem in problems]


def test_it_is_whole_while_others_write_and_die(catalogue, tmp_path):
    ended, dies = threading.Event(), threading.local()

    def end_some(place):
        dies.count = getattr(dies, "count", 0) + (place == "postgres.act/commit:before")
        if place == "postgres.act/commit:before" and threading.current_thread() is not main and dies.count % 7 == 0:
            raise UnavailableError("ended here")

    def write(thread):
        for number in range(100_000):
            if ended.is_set():
                return
            try:
                declare(catalogue, app(f"{thread}-{number}"))
            except UnavailableError:
                continue

    main = threading.current_thread()
    with armed(end_some), ThreadPoolExecutor(4) as pool:
        writers = [pool.submit(write, thread) for thread in range(4)]
        sizes = []
        try:
            for number in range(6):
                export_sqlite(catalogue, tmp_path / f"{number}.db")
                report = verify_hall(tmp_path / f"{number}.db", SIGNER.public_key)
                assert report.problems == []
                sizes.append(report.num_entries)
        finally:
            ended.set()
        for writer in writers:
            writer.result()
    assert sizes == sorted(sizes)
    assert sizes[-1] > sizes[0]


def test_an_export_that_fails_leaves_the_old_file(catalogue, tmp_path):
    path = tmp_path / "copy.db"
    path.write_text("old")

    def fail(place):
        if place == "db.export/sync:before":
            raise OSError(28, "No space left on device")

    with armed(fail), pytest.raises(UnavailableError):
        export_sqlite(catalogue, path)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("copy.db", "old")]
