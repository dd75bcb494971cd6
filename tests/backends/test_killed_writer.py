"""A writer killed at any moment loses no acknowledged act and leaves no half of one."""

from __future__ import annotations

import random
import subprocess
import sys

import pytest

from datahall.backends.db.sqlite import SqliteCatalogue
from datahall.core.errors import IntegrityError
from datahall.core.records import App
from datahall.ledger.verify import verify_hall
from datahall.testing.clock import AutoClock

# Writes acts of 20 records each and prints each act's number once it is acknowledged; each act makes 4 inserts. With `half`, SQLite is told to
# make every statement its own transaction and the writer dies in the middle of an act: the control.
WRITER = """
import os, signal, sys
from pathlib import Path
from datahall.backends.db.sqlite import SqliteCatalogue
from datahall.backends.db.statements import Statements
from datahall.core.records import Act, Change
from datahall.testing.catalogue import app
from datahall.testing.clock import AutoClock

path, die_at, half = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "half"
catalogue = SqliteCatalogue(path, AutoClock())
real, num_applied = Statements.insert, 0

def insert(statements, cursor, *arguments, **options):
    global num_applied
    if half and num_applied == 0:
        cursor.execute("COMMIT")
    real(statements, cursor, *arguments, **options)
    num_applied += 1
    if num_applied == die_at:
        os.kill(os.getpid(), signal.SIGKILL)

Statements.insert = insert
for number in range(10_000):
    changes = tuple(Change(new=app(f"app-{number}-{part}")) for part in range(20))
    catalogue.act(Act(kind="app.declared", actor="writer", changes=changes))
    print(number, flush=True)
"""


def killed(path, *, die_at=0, half=False, lines=10_000):
    """Run the writer until it dies by itself, or is killed after `lines` acknowledgements; return how many it gave."""
    command = [sys.executable, "-c", WRITER, str(path), str(die_at), "half" if half else "whole"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        acknowledged = 0
        for line in child.stdout:
            acknowledged = int(line) + 1
            if acknowledged >= lines:
                child.kill()
                break
        rest = child.stdout.read().split()
        child.wait(30)
        assert child.returncode == -9
        return int(rest[-1]) + 1 if rest else acknowledged


def num_whole_acts(path):
    """Return how many acts the hall holds. Raises AssertionError or IntegrityError for a half one."""
    catalogue = SqliteCatalogue(path, AutoClock())
    try:
        entries, records = catalogue.entries(), catalogue.find(App)
    finally:
        catalogue.close()
    assert [entry.seq for entry in entries] == list(range(len(entries)))
    assert len(records) == sum(len(entry.touched) for entry in entries) == 20 * len(entries)
    report = verify_hall(path, bytes(32))
    assert report.problems == []
    return len(entries)


@pytest.mark.parametrize("seed", range(3))
def test_no_acknowledged_act_is_lost_to_a_kill_from_outside(tmp_path, seed):
    path = tmp_path / "hall.db"
    acknowledged = killed(path, lines=random.Random(seed).randint(1, 40))  # noqa: S311
    assert acknowledged <= num_whole_acts(path) <= acknowledged + 1


@pytest.mark.parametrize("die_at", [1, 7, 12])
def test_no_half_act_is_left_by_a_death_inside_one(tmp_path, die_at):
    path = tmp_path / "hall.db"
    acknowledged = killed(path, die_at=die_at)
    assert acknowledged == (die_at - 1) // 4 == num_whole_acts(path)


def test_without_one_transaction_a_half_act_is_left_and_seen(tmp_path):
    """The control: the same death, with every statement a transaction of its own."""
    path = tmp_path / "hall.db"
    assert killed(path, die_at=2, half=True) == 0
    with pytest.raises((AssertionError, IntegrityError)):
        num_whole_acts(path)
