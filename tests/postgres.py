"""A private Postgres for tests: one server a worker on a Unix socket, and a fresh database for each test.

The binaries are those of the machine, or of the wheel `pgserver` where it has none. If neither starts, tests fail and
say what to install; none is skipped.
"""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import psycopg
import pytest

_START_S, _STOP_S = 30, 20
# Ends with this process, however that ends (prctl(2), PR_SET_PDEATHSIG); a server that outlives its tests is nobody's.
_TIED = (
    "import ctypes, os, sys; user = int(sys.argv[1]); user and os.setuid(user); "
    "ctypes.CDLL(None).prctl(1, 2); os.execv(sys.argv[2], sys.argv[2:])"
)
_FAST = ("fsync=off", "full_page_writes=off", "synchronous_commit=on", "datahall.test_server=on")
_ALWAYS = ("listen_addresses=", "shared_buffers=16MB", "max_connections=120", "unix_socket_permissions=0700")


def _places():
    found = shutil.which("postgres")
    if found:
        yield Path(found).resolve().parent
    yield from sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    wheel = find_spec("pgserver")
    if wheel is not None and wheel.origin is not None:
        yield Path(wheel.origin).parent / "pginstall" / "bin"


@cache
def binaries():
    """Return the folder of `initdb` and `postgres`, None where there is none."""
    return next((place for place in _places() if (place / "initdb").exists() and (place / "postgres").exists()), None)


@cache
def version():
    """Return the name and version of the server that tests use."""
    folder = binaries()
    if folder is None:
        return "no Postgres"
    said = subprocess.run([folder / "postgres", "--version"], capture_output=True, text=True, check=True).stdout
    return " ".join(said.replace("(", "").replace(")", "").split()[1:3])


class PostgresServer:
    """One server process; ended by its pid."""

    def __init__(self, *, durable=False):
        folder = binaries()
        if folder is None:
            pytest.fail("no Postgres to test against: apt-get install postgresql, or pip install pgserver")
        self.folder = Path(tempfile.mkdtemp(prefix="datahall-pg-"))
        self._settings = (*_ALWAYS, *(() if durable else _FAST))
        # Postgres refuses to run as root, so there it runs as a user who may do nothing else.
        self._user = pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else None
        if self._user is not None:
            os.chown(self.folder, self._user, -1)
        self._process = None
        self._numbers = itertools.count()
        self._idle = []
        self._revision = None
        made = self._run(
            folder / "initdb", "-D", self.folder / "data", "-U", "hall", "-A", "trust", "-E", "UTF8", "--locale=C", "-N"
        )
        if made.returncode:
            pytest.fail(f"initdb failed, install another Postgres (pip install pgserver): {made.stderr}")
        self.start()

    def start(self):
        """Start it and wait until it answers."""
        options = [part for setting in self._settings for part in ("-c", setting)]
        with (self.folder / "log").open("ab") as log:
            command = [binaries() / "postgres", "-D", self.folder / "data", "-k", self.folder, *options]
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-c", _TIED, str(self._user or 0), *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env={"PATH": os.defpath, "LC_ALL": "C"},
            )
        end = time.monotonic() + _START_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > end:
                pytest.fail(f"Postgres did not start: {(self.folder / 'log').read_text()[-2000:]}")
            time.sleep(0.02)

    def stop(self, number=signal.SIGINT):
        """End it: SIGINT in order, SIGQUIT at once as a crash would, SIGKILL without a word to its children."""
        if self._process is not None:
            children = _children(self._process.pid)
            self._process.send_signal(number)
            self._process.wait(_STOP_S)
            self._process = None
            end = time.monotonic() + _STOP_S
            while any(_is_alive(child) for child in children) and time.monotonic() < end:
                time.sleep(0.02)

    def remove(self):
        """End it and remove its files."""
        self.stop()
        shutil.rmtree(self.folder)

    def url(self, name="postgres"):
        """Return the URL of a database."""
        return f"postgresql://hall@/{name}?host={self.folder}"

    def sql(self, *statements, database="postgres"):
        """Run statements, each in its own transaction; return the last one's rows."""
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.cursor()
            for statement in statements:
                cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def fresh(self):
        """Return the URL of a new, empty database."""
        name = f"test_{next(self._numbers)}"
        self.sql(f"CREATE DATABASE {name}")
        return self.url(name)

    def hall(self, prepare):
        """Return the URL of a database with the tables that `prepare(url)` makes, and nothing in them."""
        if self._idle:
            return self._idle.pop()
        url = self.fresh()
        prepare(url)
        (self._revision,) = self.sql("SELECT version_num FROM alembic_version", database=name_of(url))[0]
        return url

    def give_back(self, url):
        """Empty a database of `hall` for the next test: a tenth of the time that a new one takes."""
        name = name_of(url)
        self.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()",
            f"ALTER DATABASE {name} RESET ALL",
            "DO $$ DECLARE name text; BEGIN FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' "
            "LOOP EXECUTE format('DELETE FROM %I', name); END LOOP; END $$",
            "SELECT setval('entry_seq', 0, false)",
            f"INSERT INTO alembic_version VALUES ('{self._revision}')",  # noqa: S608
            database=name,
        )
        self._idle.append(url)

    def drop(self, url):
        """Remove a database, whoever is still connected."""
        self.sql(f"DROP DATABASE {name_of(url)} WITH (FORCE)")

    def _answers(self):
        try:
            self.sql("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True

    def _run(self, *command):
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            cwd=self.folder,
            user=self._user,
            env={"PATH": os.defpath},
            check=False,
        )


def name_of(url):
    """Return the name of the database at `url`."""
    return psycopg.conninfo.conninfo_to_dict(url)["dbname"]


def _children(pid):
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(word) for word in path.read_text().split()] if path.exists() else []


def _is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@contextmanager
def running(*, durable=False):
    """Yield a server, and remove it."""
    server = PostgresServer(durable=durable)
    try:
        yield server
    finally:
        server.remove()


@pytest.fixture(scope="session")
def postgres():
    """The server of this worker; it does not sync, so only logic is tested on it."""
    with running() as server:
        yield server


@pytest.fixture
def postgres_url(postgres, request):
    """The URL of a hall's database that no other test uses, its tables made and empty."""
    request.node.user_properties.append(("store", version()))
    url = postgres.hall(_prepare)
    yield url
    postgres.give_back(url)


def _prepare(url):
    from datahall.backends.db.postgres import PostgresCatalogue  # noqa: PLC0415  (tests without Postgres load none of it)
    from datahall.testing.clock import AutoClock  # noqa: PLC0415

    PostgresCatalogue(url, AutoClock()).close()
