"""What the Postgres backend promises beyond the contracts: no gap stays, nobody waits for strangers, nothing is lost."""

from __future__ import annotations

import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress

import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from datahall.backends.db import advisory
from datahall.backends.db.acts import Batch, PreparedAct
from datahall.backends.db.advisory import DRAWING, Name, lock
from datahall.backends.db.gaps import WHY
from datahall.backends.db.opening import open_catalogue
from datahall.backends.db.postgres import PostgresCatalogue
from datahall.backends.db.sqlite import SqliteCatalogue
from datahall.backends.db.statements import Statements
from datahall.core.errors import ConflictError, SchemaError, StorageFullError, UnavailableError, UserError
from datahall.core.failpoints import armed
from datahall.core.records import Act, App, Artifact, Change, RetiredMaster
from datahall.ledger.sequencer import integrate
from datahall.security.signing import Ed25519Signer
from datahall.testing.catalogue import app, declare
from datahall.testing.clock import AutoClock
from tests import postgres as server
from tests.postgres import name_of, running

KEY = b"k" * 32
SIGNER = Ed25519Signer(Ed25519PrivateKey.from_private_bytes(bytes(32)))


@pytest.fixture
def catalogue(postgres_url):
    opened = PostgresCatalogue(postgres_url, AutoClock(), entry_key=KEY)
    yield opened
    opened.close()


def edit(url, statement, *values):
    with psycopg.connect(url, autocommit=True) as connection:
        return connection.execute(statement, values).rowcount


def integrate_all(catalogue):
    while integrate(catalogue, SIGNER, "hall"):
        pass
    return catalogue.checkpoint()


def die_before_the_commit(catalogue, url, name):
    """Do an act whose server process is ended once it has drawn its number."""

    def end(place):
        if place == "postgres.act/commit:before":
            edit(
                url,
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND backend_xid IS NOT NULL AND pid <> pg_backend_pid()",
            )

    with armed(end), pytest.raises(UnavailableError, match="cannot be used"):
        declare(catalogue, app(name))


def test_a_number_whose_transaction_died_is_closed_by_an_entry_that_says_so(catalogue, postgres_url):
    declare(catalogue, app("before"))
    die_before_the_commit(catalogue, postgres_url, "lost")
    assert declare(catalogue, app("after")).seq == 2
    assert [entry.seq for entry in catalogue.entries()] == [0]
    assert [seq for seq, _ in catalogue.pending(10)] == [0, 1, 2]
    void = catalogue.entries(1, 2)[0]
    assert (void.kind, void.body, void.touched) == ("entry.void", {"why": WHY}, ())
    assert integrate_all(catalogue).size == 3
    assert [found.id for found in catalogue.find(App)] == ["before", "after"]


def test_a_number_that_is_still_being_written_is_never_closed(catalogue, postgres_url):
    """The control of the test above: a gap whose drawer lives stays open, whatever its id is beside the snapshot's."""
    holding, going_on, failed = threading.Event(), threading.Event(), []

    def pause(place):
        if place == "postgres.act/commit:before" and threading.current_thread().name == "slow":
            holding.set()
            going_on.wait(20)

    def write():
        try:
            declare(catalogue, app("slow"))
        except Exception as error:  # noqa: BLE001  (shown by the assertion below)
            failed.append(error)

    with armed(pause):
        slow = threading.Thread(target=write, name="slow")
        slow.start()
        try:
            assert holding.wait(20)
            assert declare(catalogue, app("fast")).seq == 1
            for _ in range(3):
                assert catalogue.pending(10) == []
            assert catalogue.entries() == []
        finally:
            going_on.set()
            slow.join()
    assert failed == []
    assert [seq for seq, _ in catalogue.pending(10)] == [0, 1]
    assert [entry.app for entry in catalogue.entries()] == ["slow", "fast"]


def test_a_writer_that_drew_before_others_committed_is_waited_for(catalogue, postgres_url):
    with psycopg.connect(postgres_url) as early, psycopg.connect(postgres_url) as late:
        for drawer, number in ((late, 0), (early, 1)):
            lock(drawer.cursor(), [DRAWING])
            assert drawer.execute("SELECT nextval('entry_seq')").fetchone() == (number,)
        batch = Batch(early.cursor(), Statements(mark="%s"), [])
        batch.admit(PreparedAct(Act(kind="hall.created", actor="t")), 1)
        batch.write(0, KEY)
        early.commit()
        for _ in range(3):
            assert catalogue.pending(10) == []
        late.rollback()
        assert [seq for seq, _ in catalogue.pending(10)] == [0, 1]
        assert [entry.kind for entry in catalogue.entries(0, 1)] == ["entry.void"]


def test_what_others_do_on_the_server_keeps_no_gap_open(catalogue, postgres, postgres_url):
    declare(catalogue, app("before"))
    die_before_the_commit(catalogue, postgres_url, "lost")
    with psycopg.connect(postgres.url()) as elsewhere, psycopg.connect(postgres_url) as here:
        for stranger in (elsewhere, here):
            stranger.execute("SELECT pg_current_xact_id()")
        declare(catalogue, app("after"))
        assert [seq for seq, _ in catalogue.pending(10)] == [0, 1, 2]


def test_drawers_that_never_pause_keep_no_gap_open(catalogue, postgres_url):
    """A lock that is only tried for would never be free: somebody always draws."""
    die_before_the_commit(catalogue, postgres_url, "lost")
    declare(catalogue, app("after"))
    with psycopg.connect(postgres_url) as drawer, ThreadPoolExecutor(1) as pool:
        lock(drawer.cursor(), [DRAWING])
        assert catalogue.pending(10) == []
        asked = pool.submit(catalogue.pending, 10)
        while not asked.done():
            if waits_for_drawing(postgres_url):
                drawer.rollback()
        assert [seq for seq, _ in asked.result()] == [0, 1]


def waits_for_drawing(url):
    with psycopg.connect(url, autocommit=True) as connection:
        return connection.execute(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        ).fetchone() > (0,)


def test_a_moment_is_read_while_acts_hold_every_connection(catalogue):
    """Acts wait for the lock of whoever reads, and may have the whole pool by then."""
    begun, ended, failed = threading.Event(), threading.Event(), []

    def write(thread):
        for number in range(100_000):
            if ended.is_set():
                return
            if number == 3:
                begun.set()
            try:
                declare(catalogue, app(f"{thread}-{number}"))
            except UnavailableError as error:
                if "connections" not in error.what:  # with more writers than connections one may be unlucky
                    failed.append(error)

    with ThreadPoolExecutor(32) as pool:  # more than the pool has connections
        writers = [pool.submit(write, thread) for thread in range(32)]
        try:
            assert begun.wait(20)
            for _ in range(5):
                with catalogue.reading_whole() as connection:
                    top, num = connection.exec_driver_sql("SELECT max(seq), count(*) FROM entries").one()
                    assert num == top + 1
        finally:
            ended.set()
        for writer in writers:
            writer.result()
    assert failed == []


def test_a_refused_act_draws_no_number(catalogue):
    declare(catalogue, app())
    for _ in range(3):
        with pytest.raises(ConflictError):
            declare(catalogue, app())
    assert declare(catalogue, app("next")).seq == 1


@pytest.mark.parametrize("num_threads", [16])
def test_acts_of_many_threads_leave_a_tree_without_gaps(catalogue, postgres_url, num_threads):
    """Some change one record, some another, some die; the tree grows meanwhile."""
    doomed, ended = set(range(0, num_threads, 5)), threading.Event()

    def end_some(place):
        thread = threading.current_thread().name
        if place == "postgres.act/commit:before" and thread in {f"doomed_{number}" for number in doomed}:
            raise UnavailableError("ended here")

    def work(number):
        if number in doomed:
            threading.current_thread().name = f"doomed_{number}"
        done = 0
        for turn in range(10):
            try:
                declare(catalogue, app(f"app-{number}-{turn}"))
                done += 1
            except UnavailableError:
                continue
        return done

    def sequence():
        while not ended.is_set():
            integrate_all(catalogue)

    with armed(end_some), ThreadPoolExecutor(num_threads + 1) as pool:
        sequencer = pool.submit(sequence)
        try:
            num_done = sum(pool.map(work, range(num_threads)))
        finally:
            ended.set()
        sequencer.result()
    last = declare(catalogue, app("last"))
    assert integrate_all(catalogue).size == last.seq + 1
    entries = catalogue.entries()
    assert [entry.seq for entry in entries] == list(range(last.seq + 1))
    assert num_done == 10 * (num_threads - len(doomed))
    assert sum(entry.kind == "entry.void" for entry in entries) == len(entries) - num_done - 1 == 10 * len(doomed)


def test_acts_on_different_records_do_not_wait_for_each_other(catalogue):
    """One act waits, its records locked and its number drawn, while another is done from start to end."""
    declare(catalogue, app("held"))

    def other(place):
        if place == "postgres.act/commit:before" and threading.current_thread() is threading.main_thread():
            with ThreadPoolExecutor(1) as pool:
                pool.submit(declare, catalogue, app("other")).result(20)

    with armed(other):
        held = declare(catalogue, app("held", digest="1"), app("held"))
    assert catalogue.entries()[-1].app == "other"
    assert catalogue.entries()[-1].seq > held.seq


def test_acts_under_one_master_key_do_not_wait_for_each_other_but_its_retirement_waits(catalogue, postgres_url):
    """What excludes a record must only stay away: whoever rests on that shares it, whoever writes it waits for them."""
    fields = {"team": "ward", "size_bytes": 1, "wrapped_key": b"\x01" + bytes(8), "media_type": "text/plain"}
    one, two = (Artifact(id=name, digest=name, object=name, **fields) for name in "ab")
    seen = []

    def other(place):
        if place == "postgres.act/commit:before" and threading.current_thread() is threading.main_thread():
            with ThreadPoolExecutor(1) as pool:
                beside = Act(kind="step.completed", actor="beside", changes=(Change(new=two),))
                seen.append(pool.submit(catalogue.act, beside).result(20))
            retiring = PreparedAct(
                Act(kind="keys.retired", actor="t", changes=(Change(new=RetiredMaster(id="00" * 8)),))
            )
            with psycopg.connect(postgres_url) as rotation:
                rotation.execute("SET lock_timeout = '50ms'")
                with pytest.raises(psycopg.errors.LockNotAvailable):
                    lock(rotation.cursor(), advisory.names_of(retiring))
            seen.append("waits")

    with armed(other):
        catalogue.act(Act(kind="step.completed", actor="first", changes=(Change(new=one),)))
    assert [getattr(each, "actor", each) for each in seen] == ["beside", "waits"]


def test_the_same_record_is_waited_for(catalogue, postgres_url):
    """The control of the test above."""
    name = advisory.name_of("record", "app", "held")
    with psycopg.connect(postgres_url) as holder, psycopg.connect(postgres_url) as other:
        lock(holder.cursor(), [name])
        other.execute("SET lock_timeout = '50ms'")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            lock(other.cursor(), [name])
        other.rollback()
        lock(other.cursor(), [Name(name.key + 1)])


def test_a_lease_is_not_taken_over_while_an_act_under_it_commits(catalogue, postgres_url):
    """The fence is checked early in the transaction, and has to hold until its end; other acts go on beside it."""
    fence = catalogue.leases.acquire("rollout")
    seen = []

    def look(place):
        if place == "postgres.act/commit:before" and threading.current_thread() is threading.main_thread() and not seen:
            with psycopg.connect(postgres_url) as watcher:
                watcher.execute("SET lock_timeout = '50ms'")
                with pytest.raises(psycopg.errors.LockNotAvailable):
                    advisory.LeaseStatements(mark="%s").lease(watcher.cursor(), "rollout")
            with ThreadPoolExecutor(1) as pool:
                beside = Act(kind="hall.created", actor="beside", fence=fence)
                seen.append(pool.submit(catalogue.act, beside).result(20))

    with armed(look):
        catalogue.act(Act(kind="hall.created", actor="first", fence=fence))
    assert [entry.actor for entry in catalogue.entries()] == ["first", "beside"]
    with psycopg.connect(postgres_url) as watcher:  # the control: nobody is under way any more
        assert advisory.LeaseStatements(mark="%s").lease(watcher.cursor(), "rollout")[1] == 1


def test_either_database_is_opened_by_its_place(postgres_url, tmp_path):
    for place, kind in ((postgres_url, PostgresCatalogue), (tmp_path / "hall.db", SqliteCatalogue)):
        with closing(open_catalogue(place, AutoClock(), entry_key=KEY)) as opened:
            assert isinstance(opened, kind)
            assert declare(opened, app()).seq == 0
    with pytest.raises(UserError, match="no URL of a Postgres database"):
        open_catalogue("mysql://somewhere/hall", AutoClock())


def test_a_missing_driver_is_named_with_the_line_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(UserError, match="needs the package 'psycopg'") as caught:
        open_catalogue("postgresql:///hall", AutoClock())
    assert "pip install 'datahall[postgres]'" in caught.value.hint


def test_a_restarted_server_is_found_again():
    with running() as server:
        catalogue = PostgresCatalogue(server.fresh(), AutoClock())
        declare(catalogue, app("a"))
        assert catalogue.get(App, "a") == app("a")
        server.stop()
        with pytest.raises(UnavailableError, match="cannot be used"):
            declare(catalogue, app("b"))
        with pytest.raises(UnavailableError, match="cannot be used"):
            catalogue.get(App, "a")
        server.start()
        declare(catalogue, app("c"))
        server.stop()
        server.start()
        assert [found.id for found in catalogue.find(App)] == ["a", "c"]
        catalogue.close()


def test_what_was_acknowledged_outlives_a_server_that_is_killed():
    """With fsync on; the control is in the count: the writers are cut off in the middle of their acts."""
    with running(durable=True) as server:
        url = server.fresh()
        for number in (signal.SIGQUIT, signal.SIGKILL):
            catalogue = PostgresCatalogue(url, AutoClock())
            written, cut = acts_until_the_end(catalogue, lambda: server.stop(number), number)  # noqa: B023
            catalogue.close()
            server.start()
            again = PostgresCatalogue(url, AutoClock())
            found = {one.id for one in again.find(App)}
            assert written <= found
            assert cut == 4
            declare(again, app(f"after-{number}"))
            assert integrate_all(again).size == len(again.entries())
            again.close()


def acts_until_the_end(catalogue, end, number):
    """Write from four threads until the server ends; return what was acknowledged, and how many were cut off."""
    written, enough, guard = set(), threading.Event(), threading.Lock()

    def work(thread):
        for turn in range(100_000):
            try:
                declare(catalogue, app(f"{number}-{thread}-{turn}"))
            except UnavailableError:
                return 1
            with guard:
                written.add(f"{number}-{thread}-{turn}")
                if len(written) >= 40:
                    enough.set()
        return 0

    with ThreadPoolExecutor(4) as pool:
        running_threads = [pool.submit(work, thread) for thread in range(4)]
        assert enough.wait(60)
        end()
        return written, sum(thread.result() for thread in running_threads)


def test_no_message_holds_the_password(postgres):
    url = f"postgresql://hall:s3cret%2F@/nowhere?host={postgres.folder}"
    with pytest.raises(UnavailableError, match="does not exist") as caught:
        PostgresCatalogue(url, AutoClock())
    assert "s3cret" not in f"{caught.value} {caught.value.__cause__} {caught.value.__context__!r}"
    with pytest.raises(UserError) as caught:
        PostgresCatalogue("postgresql://hall:s3cret@[nonsense/x", AutoClock())
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("url", ["", "hall.db", "mysql://x/y", "postgresql+asyncpg:///x?nonsense=1"])
def test_what_is_no_postgres_url_is_refused(url):
    with pytest.raises((UserError, UnavailableError)):
        PostgresCatalogue(url, AutoClock()).close()


def test_a_server_that_acknowledges_what_it_has_not_stored_is_refused(postgres, postgres_url):
    postgres.sql(f"ALTER DATABASE {name_of(postgres_url)} SET synchronous_commit = off")
    with pytest.raises(UserError, match="synchronous_commit is off"):
        PostgresCatalogue(postgres_url, AutoClock())


@pytest.mark.parametrize("name", ["fsync", "full_page_writes"])
def test_so_is_one_that_a_power_cut_destroys(name):
    with running(durable=True) as server:
        url = server.fresh()
        PostgresCatalogue(url, AutoClock()).close()  # the control
        server.sql(f"ALTER SYSTEM SET {name} = off", "SELECT pg_reload_conf()")
        while server.sql(f"SHOW {name}") != [("off",)]:
            pass
        with pytest.raises(UserError, match=f"{name} is off"):
            PostgresCatalogue(url, AutoClock())


def test_a_stranger_s_database_is_refused_and_left_alone(postgres):
    url = postgres.fresh()
    edit(url, "CREATE TABLE theirs (x int)")
    with pytest.raises(UserError, match="is no hall"):
        PostgresCatalogue(url, AutoClock())
    assert edit(url, "SELECT FROM pg_tables WHERE schemaname = 'public'") == 1
    postgres.drop(url)


def test_a_newer_hall_is_refused_with_the_command_to_run(postgres_url):
    edit(postgres_url, "UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(SchemaError, match="newer Datahall") as caught:
        PostgresCatalogue(postgres_url, AutoClock())
    assert "pip install --upgrade datahall" in caught.value.hint


def test_halls_that_start_at_once_make_the_tables_once(postgres):
    url = postgres.fresh()
    with ThreadPoolExecutor(4) as pool:
        opened = list(pool.map(lambda _: PostgresCatalogue(url, AutoClock()), range(4)))
    assert [declare(one, app(str(number))).seq for number, one in enumerate(opened)] == [0, 1, 2, 3]
    for one in opened:
        one.close()
    postgres.drop(url)


def test_a_disk_that_is_full_is_said_to_be(catalogue):
    def work(cursor):
        cursor.execute("DO $$ BEGIN RAISE EXCEPTION 'no room' USING ERRCODE = '53100'; END $$")

    with pytest.raises(StorageFullError, match="no room"):
        catalogue.transact(work)
    assert declare(catalogue, app()).seq == 0


@pytest.mark.parametrize("swallow", [True, False])
def test_a_commit_that_took_the_transaction_back_is_no_commit(catalogue, swallow):
    """A server answers COMMIT of an aborted transaction with ROLLBACK, and without an error."""

    def work(cursor):
        cursor.execute("INSERT INTO leases (name, holder, token, beats, ttl_ms) VALUES ('kept', '', 1, 1, 1)")
        if swallow:
            with suppress(psycopg.Error):
                cursor.execute("SELECT 1 / 0")

    if swallow:
        with pytest.raises(UnavailableError, match="took a transaction back"):
            catalogue.transact(work)
    else:  # the control
        catalogue.transact(work)
    there = catalogue.transact(lambda cursor: cursor.execute("SELECT 1 FROM leases WHERE name = 'kept'").fetchone())
    assert (there is None) == swallow


def test_readers_cannot_write(catalogue):
    with pytest.raises(UnavailableError, match="read-only"), catalogue._reading() as connection:
        connection.exec_driver_sql("DELETE FROM entries")


@pytest.mark.parametrize(
    "odd", [app(digest="nul \0"), app(team="a\0b"), app(team="back\\u0000"), app(digest="\U0010ffff")]
)
def test_characters_that_postgres_has_no_text_for_are_kept(catalogue, odd):
    declare(catalogue, odd)
    assert catalogue.get(App, "tumours") == odd


def test_where_no_server_can_be_started_a_test_fails_and_says_what_to_install(monkeypatch):
    monkeypatch.setattr(server, "binaries", lambda: None)
    with pytest.raises(pytest.fail.Exception, match="apt-get install postgresql, or pip install pgserver"):
        server.PostgresServer()
