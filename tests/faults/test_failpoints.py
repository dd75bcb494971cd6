"""At every durable step of the code the process may die or the disk fail: what is left is the old state or the new one."""

from __future__ import annotations

import ast
import errno
import json
import shutil
import subprocess
import sys

import pytest

from tests.faults import scan
from tests.faults.scenarios import SCENARIOS

ELSEWHERE = {
    "backup.": "tests/backup/test_faults.py: dies at each of its steps",
    "restore.": "tests/backup/test_faults.py: dies at each of its steps",
    "db.export": "tests/backends/test_export.py: it needs a Postgres",
    "migrate.": "tests/backends/test_migrations.py: dies at each of its steps",
    "postgres.": "tests/backends/test_postgres.py: it needs a Postgres",
    "telemetry.": "tests/backends/test_telemetry.py: it may lose what it likes, and stops nobody",
    "witness.git": "tests/backends/test_witness.py: it needs git",
}
"""How the names of steps begin that no scenario reaches, and where they are tested."""

AROUND = {
    "app/backup/staging.py": "inside the step `restore.clear`",
    "backends/launch/local.py": "a log is turned over; nothing rests on it",
    "app/http/listen.py": "a socket, gone with its process anyway",
    "serve/replica.py": "a socket, gone with its process anyway",
    "serve/counters.py": "figures of a process, gone with it anyway",
    "serve/gateway.py": "says that this gateway is there, and is read only while its process lives",
    "app/supervisor.py": "says that a supervisor is there, and is believed only while its process lives",
    "core/hall.py": "remembers a folder of sockets, and is believed only while that is there",
    "security/keys.py": "the first name of a key's file, once the second one is durable",
    "backends/db/export.py": "a copy that has no name before it is whole and synced",
    "backends/db/snapshot.py": "ends a transaction that only read",
    "backends/db/migrate.py": "a snapshot that was cut short before it had its name",
}
"""Files with a rename or a removal that need not be durable, and why."""


@pytest.fixture(scope="module")
def modules():
    return scan.trees()


@pytest.fixture(scope="module")
def world():
    """The process whose children do the actions: `world(order)` returns what became of one."""
    command = [sys.executable, "-m", "tests.faults.crash_main"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=scan.ROOT) as process:

        def order(name, folder, **how):
            process.stdin.write(json.dumps({"scenario": name, "folder": str(folder), **how}) + "\n")
            process.stdin.flush()
            return json.loads(process.stdout.readline())

        yield order
        process.stdin.close()
        process.wait(30)


class Trial:
    """One scenario, prepared once and tried many times, each time in a copy."""

    def __init__(self, name, world, folder):
        self.name, self.world, self.scenario = name, world, SCENARIOS[name]
        self._folder, self._num = folder, 0
        self._prepared = folder / "prepared"
        self._prepared.mkdir()
        self.scenario.prepare(self._prepared)
        self.old = self.scenario.state(self.fresh())
        whole = self.fresh()
        self.reached = self.do(whole)["reached"]
        self.new = self.again(whole)

    def fresh(self):
        self._num += 1
        return shutil.copytree(self._prepared, self._folder / f"{self._num}")

    def do(self, folder, **how):
        return self.world(self.name, folder, **how)

    def again(self, folder):
        """Do the action without a fault; return the state that it leaves."""
        self.scenario.act(folder)
        state = self.scenario.state(folder)
        self.scenario.clean(folder)
        return state

    def check(self, folder, where):
        """What is left is old or new, and the action then succeeds."""
        assert self.scenario.state(folder) in {self.old, self.new}, where
        assert self.again(folder) == self.new, where
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def trials(world, memory):
    """Return a function from a scenario's name to its trial, made once."""
    made = {}

    def trial(name):
        if name not in made:
            made[name] = Trial(name, world, memory())
        return made[name]

    return trial


def die_everywhere(trial, numbers):
    for number in numbers:
        folder, name = trial.fresh(), trial.reached[number]
        said = trial.do(folder, kill_at=number)
        assert said == {"signal": 9} or is_short(trial, said, number), said
        if number == 0 and not trial.scenario.is_seen_before:
            assert trial.scenario.state(folder) == trial.old, "nothing is done before the first step"
        trial.check(folder, f"killed at {name}")


def is_short(trial, said, number):
    """Whether threads made a run end before it reached a step for the `number`th time, as it may."""
    return trial.scenario.varies and number > 1 and len(said.get("reached", ())) <= number


def fail_everywhere(trial, numbers, codes):
    for number in numbers:
        name = trial.reached[number]
        for code in codes if name.endswith(":before") else ():
            folder = trial.fresh()
            said = trial.do(folder, fail_at=number, code=code)
            if is_short(trial, said, number):
                trial.check(folder, "nothing failed")
                continue
            is_told = {kind.__name__ for kind in trial.scenario.refusal} & set(said["raised"])
            assert is_told or (trial.scenario.does_without and not said["raised"]), (name, said)
            trial.check(folder, f"{errno.errorcode[code]} at {name}")


def first_of_each(reached):
    """Return the number of the first time that each failpoint is reached."""
    return sorted(reached.index(name) for name in set(reached))


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_process_that_dies_at_a_step_leaves_the_old_state_or_the_new_one(trials, name):
    trial = trials(name)
    assert trial.reached
    die_everywhere(trial, first_of_each(trial.reached))


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_step_that_fails_is_told_and_leaves_the_old_state_or_the_new_one(trials, name):
    trial = trials(name)
    fail_everywhere(trial, first_of_each(trial.reached), [errno.ENOSPC])


@pytest.mark.torture
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", SCENARIOS)
def test_so_it_is_each_time_that_a_step_is_reached(trials, name):
    trial = trials(name)
    die_everywhere(trial, range(len(trial.reached)))
    fail_everywhere(trial, range(len(trial.reached)), [errno.ENOSPC, errno.EIO])


def test_every_failpoint_of_the_code_is_reached_by_a_scenario(modules, trials):
    """A new durable step brings its scenario, or this names it."""
    reached = {name for scenario in SCENARIOS for name in trials(scenario).reached}
    expected = {step.name for step in [*scan.steps(modules), *scan.defaults(modules)]}
    assert len(expected) >= 50
    missing = expected - {name.partition(":")[0] for name in reached}
    assert [name for name in missing if not name.startswith(tuple(ELSEWHERE))] == []
    assert [start for start in ELSEWHERE if not any(name.startswith(start) for name in missing)] == []
    assert all((scan.ROOT / where.partition(":")[0]).is_file() for where in ELSEWHERE.values())
    known = {f"{name}:{when}" for name in expected for when in ("before", "after")}
    assert reached <= known, "the scan misses steps"


def test_every_durable_step_goes_through_the_one_door(modules):
    around = scan.goes_around(modules)
    assert [call for call in around if call.partition(":")[0] not in AROUND] == []
    assert {call.partition(":")[0] for call in around} == set(AROUND), "an exception is not needed any more"
    assert not any("fsync" in call or "fdatasync" in call for call in around), "no exception may sync"


def test_every_step_has_a_literal_name_of_its_own(modules):
    assert scan.unnamed(modules) == []
    names = [step.name for step in scan.steps(modules)]
    assert {name for name in names if names.count(name) > 1} == set()


BAD = """
import os
from datahall.core.durable import step, sync_folder, write_atomic
os.fsync(3)
os.replace("a", "b")
path.rename(other)
path.unlink(missing_ok=True)
connection.commit()
connection.execute("COMMIT")
step(name, work)
sync_folder(path, at=f"x.{number}")
write_atomic(path, b"", at="good.name")
"text".replace("a", "b")
"""


def test_the_scan_sees_what_it_looks_for(modules):
    bad = {scan.SRC / "bad.py": ast.parse(BAD)}
    assert len(scan.goes_around(bad)) == 6
    both = {**modules, **bad}
    assert [place for place in scan.unnamed(both) if place.startswith("bad.py")] == ["bad.py:10", "bad.py:11"]
    found = {step.name for step in scan.steps(both) if step.place.startswith("bad.py")}
    assert found == {"good.name/sync", "good.name/rename", "good.name/folder"}


SPELLINGS = """
tmp.rename(path.with_name("x"))
path.rename(target=other)
path.replace(folder / path.name)
shutil.move(tmp, path)
from os import fsync; fsync(3)
from os import rename as put; put("a", "b")
import os as system; system.fdatasync(3)
os.truncate(path, 3)
with connection: connection.execute(insert)
with self._connection: pass
with sqlite3.connect(path) as database: pass
with engine.begin() as connection: connection.execute(insert)
with connection.begin(): pass
connection.executescript("INSERT INTO t VALUES (1); COMMIT")
connection.executescript(text)
connection.execute("commit")
connection.execute(" Commit;")
connection.execute("END TRANSACTION")
connection.exec_driver_sql("COMMIT")
connection.execute(text("COMMIT"))
cursor.execute(b"COMMIT")
commit = partial(cursor.execute, "COMMIT")
self._connection.commit()
"""
OTHERS = """
table.rename({"a": "b"})
text.replace("a", "b")
msgspec.structs.replace(old, state="x")
from datahall.core.durable import rename; rename(a, b, at="x.y")
step("x.y/commit", partial(cursor.execute, "COMMIT"))
with engine.connect() as connection: pass
with closing(sqlite3.connect(path)) as connection: pass
connection.execute("SELECT 1 FROM commits")
connection.begin()
shutil.copyfile(a, b)
"""


@pytest.mark.parametrize("line", SPELLINGS.strip().splitlines())
def test_the_scan_sees_every_usual_spelling(line):
    assert len(scan.goes_around({scan.SRC / "bad.py": ast.parse(line)})) == 1


@pytest.mark.parametrize("line", OTHERS.strip().splitlines())
def test_the_scan_lets_everything_else_go(line):
    assert scan.goes_around({scan.SRC / "good.py": ast.parse(line)}) == []


def test_a_third_state_would_be_seen(trials):
    """The control: a table that is not written atomically, but in two steps, is half there when its writer dies."""
    trial = trials("routes are published")
    folder = trial.fresh()
    whole = (folder / "routes.json").read_bytes()
    (folder / "routes.json").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(AssertionError):
        trial.check(folder, "half written")
