"""Telemetry is bounded, and whatever happens to it stops nobody."""

from __future__ import annotations

import errno
import sqlite3
import threading
from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datahall.backends.db.telemetry import Sample, Telemetry, kept_decisions, kept_samples
from datahall.core.failpoints import armed


@pytest.fixture
def path(tmp_path):
    return tmp_path / "telemetry.db"


@pytest.fixture
def telemetry(path):
    opened = Telemetry(path, max_decisions=5, max_samples=10)
    yield opened
    opened.close()


def sample(number, name="requests", **labels):
    return Sample(name, labels, float(number), number)


def test_samples_are_read_back_by_name_and_time(path, telemetry):
    telemetry.add_samples([sample(1, app="a"), sample(2, "other"), sample(3, app="b")])
    assert kept_samples(path, "requests") == [sample(1, app="a"), sample(3, app="b")]
    assert kept_samples(path, "requests", since_ns=2) == [sample(3, app="b")]
    assert kept_samples(path, "none") == []
    assert telemetry.problems() == ()


def test_it_is_private_and_written_ahead(path, telemetry):
    telemetry.add_decision(b"1")
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert {file.stat().st_mode & 0o777 for file in path.parent.iterdir()} == {0o600}


@settings(max_examples=25)
@given(sizes=st.lists(st.integers(0, 7), max_size=8))
def test_the_newest_are_kept_up_to_the_bound(sizes, tmp_path_factory):
    path = tmp_path_factory.mktemp("law") / "telemetry.db"
    with closing(Telemetry(path, max_decisions=5, max_samples=10)) as telemetry:
        added = 0
        for size in sizes:
            telemetry.add_samples([sample(number) for number in range(added, added + size)])
            added += size
            telemetry.add_decision(b"%d" % added)
        if sizes:
            assert [one.at_ns for one in kept_samples(path, "requests")] == list(range(max(0, added - 10), added))
            assert len(list(kept_decisions(path))) == min(5, len(sizes))


def overwrite(path):
    path.write_bytes(b"no database" * 500)


def foreign(path):
    path.unlink()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE theirs (x)")


def other_tables(path):
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DROP TABLE decisions")


@pytest.mark.parametrize("spoil", [overwrite, foreign, other_tables])
def test_a_file_that_cannot_be_used_is_set_aside_and_begun_anew(path, spoil):
    with closing(Telemetry(path)) as telemetry:
        telemetry.add_decision(b"old")
    spoil(path)
    spoilt = path.read_bytes()
    with closing(Telemetry(path)) as telemetry:
        telemetry.add_decision(b"new")
        assert list(kept_decisions(path)) == [b"new"]
        assert "kept as telemetry.db.damaged" in telemetry.problems()[0]
    assert path.with_name("telemetry.db.damaged").read_bytes()[:100] == spoilt[:100]


def test_a_file_that_is_gone_is_begun_anew(path, telemetry):
    telemetry.add_decision(b"old")
    for file in path.parent.iterdir():
        file.unlink()
    telemetry.add_decision(b"new")
    assert list(kept_decisions(path)) == [b"new"]
    assert telemetry.problems() == ("telemetry: its file was gone; a new one was begun",)


def test_a_full_disk_drops_what_comes_and_is_forgotten_once_there_is_room(path, telemetry):
    telemetry.add_decision(b"1")

    def fail(place):
        if place == "telemetry.write/commit:before":
            raise OSError(errno.ENOSPC, "No space left on device")

    with armed(fail):
        telemetry.add_decision(b"2")
    assert "No space left" in telemetry.problems()[0]
    telemetry.add_decision(b"3")
    assert list(kept_decisions(path)) == [b"1", b"3"]
    assert telemetry.problems() == ()


def test_a_folder_in_its_place_stops_nobody(path):
    path.mkdir()
    with closing(Telemetry(path)) as telemetry:
        telemetry.add_decision(b"1")
        assert "Is a directory" in telemetry.problems()[0]
    path.rmdir()


def test_any_thread_may_write(path):
    with closing(Telemetry(path)) as telemetry:
        threads = [
            threading.Thread(target=lambda: [telemetry.add_samples([sample(number)]) for number in range(20)])
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(kept_samples(path, "requests")) == 80
