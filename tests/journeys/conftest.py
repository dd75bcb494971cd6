"""Halls of real processes, driven by the real command line, each in a folder of its own that leaves nothing behind."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

from datahall.backends.db.sqlite import SqliteCatalogue
from datahall.core.clock import SystemClock
from datahall.security.keys import KeyRing

BOUND_SECONDS = 60.0
"""How long a test waits for what must happen; on a quiet machine nothing takes nearly as long."""
PLAIN = {"plain": "{model: logistic}"}
ROW = {"petal": 3, "sepal": 2, "colour": "red"}


def eventually(check, seconds=BOUND_SECONDS, what=""):
    """Return the first true result of `check`; fail by name where there is none within `seconds`."""
    pause, deadline = threading.Event(), time.monotonic() + seconds
    while True:
        found = check()
        if found:
            return found
        assert time.monotonic() < deadline, f"not within {seconds} s: {what or check}"
        pause.wait(0.05)


def app_file(*, bound=0.8, candidates=PLAIN, seed=0, replicas=1, extra=""):
    """Return an application that a machine carries through its lifecycle in seconds."""
    lines = "".join(f"    {name}: {settings}\n" for name, settings in candidates.items())
    return (
        "datahall: 1\nname: flowers\ntask: classification\n"
        "data:\n  sources: [flowers.csv]\n  target: kind\n"
        f"train:\n  candidates:\n{lines}  seeds: 2\n  seed: {seed}\n"
        "evaluate:\n  claims:\n"
        f"    - {{kind: accuracy, metric: accuracy, at_least: {bound}, reason: a gardener is right as often}}\n"
        f"serve: {{replicas: {replicas}}}\n{extra}"
    )


def flowers():
    """Return 300 rows as CSV: the petal tells the kind, with a little doubt; sepal and colour tell nothing."""
    draw = random.Random(7)  # noqa: S311  (rows to learn from, not secrets)
    rows = ["petal,sepal,colour,kind"]
    for _ in range(300):
        petal, sepal = draw.uniform(0, 10), draw.uniform(0, 5)
        kind = "rose" if petal + draw.gauss(0, 0.3) > 5 else "tulip"
        rows.append(f"{petal:.3f},{sepal:.3f},{draw.choice(['red', 'blue'])},{kind}")
    return "\n".join(rows) + "\n"


class Talk:
    """A command that runs: its events as they come, its exit status in the end."""

    def __init__(self, arguments, *, cwd, environment):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "datahall.app.cli", *map(str, arguments)],
            cwd=cwd,
            env=environment,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self.said = []
        self._lines = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for line in self.process.stderr:
            self._lines.put(line)
        self._lines.put(None)

    def event(self, kind, name=None):
        """Return the next event of that kind (and step); fail where the command ends before it."""
        deadline = time.monotonic() + BOUND_SECONDS
        while (line := self._lines.get(timeout=max(0.01, deadline - time.monotonic()))) is not None:
            self.said.append(line)
            event = json.loads(line) if line.startswith("{") else {}
            if event.get("event") == kind and name in (None, event.get("name")):
                return event
        raise AssertionError(f"it ended without {kind} {name or ''}: {''.join(self.said)}")

    def signal(self, number):
        """Send a signal to the command alone, as a terminal or the kernel would."""
        self.process.send_signal(number)

    def end(self):
        """Return the exit status once it has ended."""
        status = self.process.wait(BOUND_SECONDS)
        self._reader.join(BOUND_SECONDS)
        while not self._lines.empty():
            line = self._lines.get()
            if line is not None:
                self.said.append(line)
        self.out = self.process.stdout.read()
        self.process.stdout.close()
        self.process.stderr.close()
        return status

    def abandon(self):
        """End it whatever it does: a test that failed must not leave a command behind."""
        if self.process.poll() is None:
            self.process.kill()
        if not self.process.stderr.closed:
            self.end()


class Place:
    """A folder with an application, a hall, and an environment in which nothing outside the folder is touched."""

    def __init__(self, root):
        self.root = root
        self.hall = root / "hall"
        self._talks = []
        self.app = root / "app" / "app.yaml"
        for name in ("app", "s", "r"):
            (root / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR", "OMP_NUM_THREADS") if name in os.environ}
        self.environment = {
            **kept,
            "HOME": str(root),
            "XDG_STATE_HOME": str(root / "s"),
            "XDG_RUNTIME_DIR": str(root / "r"),
            "DATAHALL_HOME": str(self.hall),
            "COLUMNS": "200",
        }

    def write(self, **changes):
        """Write the application file, and its rows where they are missing."""
        rows = self.app.with_name("flowers.csv")
        if not rows.exists():
            rows.write_text(flowers())
        self.app.write_text(app_file(**changes))
        return self

    def start(self, *arguments, **environment):
        """Start a command and return it while it runs."""
        self._talks.append(Talk(arguments, cwd=self.root, environment={**self.environment, **environment}))
        return self._talks[-1]

    def tell(self, *arguments, stdin=None, cwd=None, **environment):
        """Run a command to its end, whatever that is."""
        done = subprocess.run(
            [sys.executable, "-m", "datahall.app.cli", *map(str, arguments)],
            cwd=cwd or self.root,
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            input=stdin or "",
            timeout=2 * BOUND_SECONDS,
            check=False,
        )
        assert "Traceback" not in done.stderr + done.stdout, done.stderr
        return done

    def do(self, *arguments, expect=0, **more):
        """Run a command that must end with `expect`; return what it printed."""
        done = self.tell(*arguments, **more)
        assert done.returncode == expect, f"{arguments} ended with {done.returncode}: {done.stdout}{done.stderr}"
        return done.stdout

    def ask(self, *arguments, expect=0, **more):
        """Run a command with --json; return its one document."""
        return json.loads(self.do(*arguments, "--json", expect=expect, **more))

    def events(self, *arguments, expect=0):
        """Run a lifecycle; return the names of the steps that ran, that were reused, and the whole story."""
        done = self.tell("run", "-y", "--json", *arguments)
        assert done.returncode == expect, f"{arguments} ended with {done.returncode}: {done.stdout}{done.stderr}"
        said = [json.loads(line) for line in done.stderr.splitlines()]
        how = {way: [e["name"] for e in said if e.get("how") == way] for way in ("ran", "reused", "skipped")}
        return SimpleNamespace(
            **how, said=said, ended=json.loads(done.stdout)["ended"], url=json.loads(done.stdout)["url"]
        )

    @contextlib.contextmanager
    def catalogue(self):
        """Open the catalogue of a hall that nobody holds, with the hall's own key."""
        key = KeyRing.open(self.hall / "keys").entry_key
        found = SqliteCatalogue(self.hall / "hall.db", SystemClock(), entry_key=key)
        try:
            yield found
        finally:
            found.close()

    def kinds(self):
        """Return the kind of every entry in the ledger of a hall that nobody holds."""
        with self.catalogue() as catalogue:
            return [entry.kind for entry in catalogue.entries()]

    def state(self):
        """Return what the supervisor tells about itself."""
        return SimpleNamespace(**json.loads((self.hall / "supervisor.json").read_text()))

    def client(self, key=None):
        """Return an HTTP client of the running hall, with the owner's key unless told otherwise."""
        key = (self.hall / "keys" / "owner.key").read_text().strip() if key is None else key
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return httpx.Client(base_url=self.state().url, headers=headers, timeout=BOUND_SECONDS)

    def answers(self):
        """Whether the hall answers a row, asked the way that clients ask."""
        with contextlib.suppress(httpx.HTTPError, FileNotFoundError), self.client() as client:
            return client.post("/predict/flowers", json=ROW).status_code == 200
        return False

    def up(self, *options):
        """Start the hall and return once it answers."""
        self.do("up", "-d", *options)
        eventually(self.answers, what="an answer")
        return self

    def processes(self, main=""):
        """Return the pids of every process that has to do with this folder: by words, environment or open files."""
        return [pid for pid in _pids() if _belongs(pid, str(self.root)) and main in _words(pid)]

    def copy(self, root):
        """Return a copy of this stopped hall with its witness, as if this were where it has always been."""
        for name in ("app", "s", "hall"):
            if (self.root / name).exists():
                shutil.copytree(self.root / name, root / name)
        return Place(root)

    def close(self):
        """Stop the hall; fail where anything of it is still there."""
        for talk in self._talks:
            talk.abandon()
        stopped = self.tell("stop").returncode if self.hall.exists() else 0
        left = {pid: _words(pid) for pid in self.processes()}
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert (stopped, left) == (0, {})


class Poll:
    """Asks for answers without a pause from a thread, and keeps what came back, failures included."""

    def __init__(self, place):
        self.versions, self.failures = [], []
        self._client = place.client()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True)

    def _ask(self):
        while not self._ending.wait(0.02):
            try:
                said = self._client.post("/predict/flowers", json=ROW)
            except httpx.HTTPError as error:
                self.failures.append(repr(error))
                continue
            if said.status_code == 200:
                self.versions.append(said.json()["version"])
            else:
                self.failures.append(said.text)

    def __enter__(self):
        self._thread.start()
        eventually(lambda: self.versions or self.failures)
        return self

    def __exit__(self, *_):
        more = len(self.versions) + len(self.failures)
        eventually(lambda: len(self.versions) + len(self.failures) > more + 3)  # also what comes after the last event
        self._ending.set()
        self._thread.join(BOUND_SECONDS)
        self._client.close()


def _pids():
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit() and int(path.name) != os.getpid()]


def _words(pid):
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    return ""


def _belongs(pid, root):
    folder = Path(f"/proc/{pid}")
    with contextlib.suppress(OSError):  # it ended while we looked, or it is somebody else's
        if root.encode() in (folder / "environ").read_bytes() or root in _words(pid):
            return True
        links = [folder / "cwd", *(folder / "fd").iterdir()]
        return any(os.readlink(link).startswith(root) for link in links if link.is_symlink())  # noqa: PTH115
    return False


@pytest.fixture(scope="session")
def kit():
    """What journeys share, as a fixture because tests are no package."""
    return SimpleNamespace(
        eventually=eventually, app_file=app_file, Place=Place, Poll=Poll, ROW=ROW, PLAIN=PLAIN, BOUND=BOUND_SECONDS
    )


@pytest.fixture(scope="session")
def released(tmp_path_factory):
    """A hall that has released one version and rests: to be copied, never changed. `first` tells of its run."""
    place = Place(tmp_path_factory.mktemp("d")).write()
    try:
        place.first = place.events("app/app.yaml", "--no-serve")
    finally:
        place.close()
    return place


@pytest.fixture
def place(tmp_path_factory):
    """An empty place."""
    made = Place(tmp_path_factory.mktemp("e"))
    yield made
    made.close()


@pytest.fixture
def rested(released, tmp_path_factory):
    """A copy of the released hall, for a test to do with as it likes."""
    made = released.copy(tmp_path_factory.mktemp("c"))
    yield made
    made.close()


@pytest.fixture(scope="session")
def serving(released, tmp_path_factory):
    """A hall that answers, shared by tests that leave it as they found it."""
    made = released.copy(tmp_path_factory.mktemp("v"))
    try:
        yield made.up()
    finally:
        made.close()


@pytest.fixture(scope="session")
def shared(released, tmp_path_factory):
    """A hall at rest, shared by tests that only read it, or fail to do anything else."""
    made = released.copy(tmp_path_factory.mktemp("h"))
    yield made
    made.close()
