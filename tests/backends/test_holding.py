"""One process holds a hall on Postgres; one that died is followed at once, and leaves no lease behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import psycopg
import pytest

from datahall.backends.db.postgres import PostgresCatalogue
from datahall.core.clock import SystemClock
from datahall.core.errors import HallBusyError
from datahall.testing.catalogue import app, declare
from tests.postgres import running

HOLDER = """
import sys
from datahall.backends.db.postgres import PostgresCatalogue
from datahall.core.clock import SystemClock
held = PostgresCatalogue(sys.argv[1], SystemClock())
held.take_over()
assert held.leases.acquire("sequencer")
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def open_one():
    opened = []

    def one(url):
        opened.append(PostgresCatalogue(url, SystemClock()))
        return opened[-1]

    yield one
    for catalogue in opened:
        catalogue.close()


def test_a_second_holder_is_refused_and_told_who_the_first_is(open_one, postgres_url):
    first, second = open_one(postgres_url), open_one(postgres_url)
    first.take_over()
    lease = first.leases.acquire("sequencer")
    with pytest.raises(HallBusyError, match=f"process {os.getpid()} on "):
        second.take_over()
    assert first.leases.leases() == [lease]
    declare(second, app("a"))  # who does not hold the hall may still look into it, and write as any program may
    first.close()
    second.take_over()
    assert second.leases.leases() == []


def test_a_holder_that_was_killed_is_followed_at_once(open_one, postgres_url):
    heir = open_one(postgres_url)
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, postgres_url], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(HallBusyError, match=f"process {holder.pid} on "):
            heir.take_over()
        assert heir.leases.acquire("sequencer") is None
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    heir.take_over()
    lease = heir.leases.acquire("sequencer")
    assert lease is not None
    assert lease.token == 2


def test_a_lock_that_a_restart_of_the_server_let_go_of_is_taken_again_unless_another_has_it(open_one):
    with running() as server:
        url = server.fresh()
        first, second = open_one(url), open_one(url)
        first.take_over()
        server.stop()
        server.start()
        declare(first, app("a"))
        with pytest.raises(HallBusyError):
            second.take_over()
        server.stop()
        server.start()
        second.take_over()
        with pytest.raises(HallBusyError):
            declare(first, app("b"))
        declare(second, app("c"))


def test_a_session_that_was_cut_is_noticed_before_the_next_act(open_one, postgres, postgres_url):
    first, second = open_one(postgres_url), open_one(postgres_url)
    first.take_over()
    postgres.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE '%process%'")
    second.take_over()
    with pytest.raises(HallBusyError):
        declare(first, app("a"))
    second.close()
    declare(first, app("a"))


def test_halls_in_schemas_of_their_own_do_not_keep_each_other_out(open_one, postgres):
    url = postgres.fresh()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA other")
    open_one(url).take_over()
    open_one(f"{url}&options=-csearch_path%3Dother").take_over()
