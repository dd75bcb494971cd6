"""A hall whose control is killed and started again, and the clients that ask it things."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

BOUND_SECONDS = 60.0
ROOT = Path(__file__).resolve().parents[2]


class GoneError(Exception):
    """The call was cut off: it may have had its effect, or not."""


class _Unix(http.client.HTTPConnection):
    def __init__(self, address):
        super().__init__("control", timeout=BOUND_SECONDS)
        self._address = address

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        try:
            self.sock.connect(self._address)
        except OSError:
            self.sock.close()
            raise


class Client:
    """Asks control over its socket; for one thread."""

    def __init__(self, hall):
        self._hall = hall
        self._connection = None

    def ask(self, method, path, said=None, key=None):
        """Return status and answer. Raises GoneError where the call was cut off."""
        headers = {"Authorization": f"Bearer {self._hall.owner_key}", "Content-Type": "application/json"}
        if key is not None:
            headers["Idempotency-Key"] = key
        try:
            if self._connection is None:
                self._connection = _Unix(self._hall.address)
            self._connection.request(method, path, None if said is None else json.dumps(said), headers)
            response = self._connection.getresponse()
            body = response.read()
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise GoneError(repr(error)) from error
        return response.status, json.loads(body)

    def close(self):
        """End the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class TorturedHall:
    """One hall's folder and the process that holds it; `zygote` forks each life from a process that has imported all."""

    def __init__(self, root, *options, zygote=True):
        self.folder = root / "hall"
        for name in ("s", "r"):
            (root / name).mkdir(mode=0o700, exist_ok=True)
        self._environment = {
            **{name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ},
            "OMP_NUM_THREADS": "1",
            "HOME": str(root),
            "XDG_STATE_HOME": str(root / "s"),
            "XDG_RUNTIME_DIR": str(root / "r"),
        }
        self._options = options
        self._log = (root / "control.log").open("ab")
        self._pid = None
        self._process = None
        self._zygote = self._spawn("--zygote", stdin=subprocess.PIPE, stdout=subprocess.PIPE) if zygote else None
        self.ready_s = []
        """How long each life took from its start to its first good answer."""

    def _spawn(self, *options, **pipes):
        command = [sys.executable, "-m", "tests.torture.control_main", str(self.folder), *self._options, *options]
        return subprocess.Popen(command, cwd=ROOT, env=self._environment, stderr=self._log, text=True, **pipes)

    @property
    def address(self):
        """The path of control's socket."""
        return str(Path((self.folder / "runtime.path").read_text()) / "control.sock")

    @property
    def owner_key(self):
        """The text of the owner's key."""
        return (self.folder / "keys" / "owner.key").read_text().strip()

    def start(self):
        """Begin a life."""
        self._began = time.monotonic()
        if self._zygote is None:
            self._process = self._spawn(stdin=subprocess.DEVNULL)
            self._pid = self._process.pid
        else:
            self._zygote.stdin.write("go\n")
            self._zygote.stdin.flush()
            self._pid = int(self._zygote.stdout.readline())

    def await_ready(self):
        """Return once it answers a question that reads the catalogue."""
        client, glance = Client(self), threading.Event()
        while True:
            try:
                if client.ask("GET", "/api/v1/status")[0] == 200:
                    break
            except (GoneError, FileNotFoundError):
                pass
            assert time.monotonic() - self._began < BOUND_SECONDS, f"it does not start: {self.log()}"
            glance.wait(0.005)
        client.close()
        self.ready_s.append(time.monotonic() - self._began)

    def kill(self):
        """End it as the kernel does, and return once it is gone."""
        pid, self._pid = self._pid, None
        os.kill(pid, signal.SIGKILL)
        if self._process is not None:
            self._process.wait(BOUND_SECONDS)
            self._process = None
        deadline, glance = time.monotonic() + BOUND_SECONDS, threading.Event()
        while Path(f"/proc/{pid}").exists():
            assert time.monotonic() < deadline, "it does not die"
            glance.wait(0.001)

    def log(self):
        """Return what it said."""
        return Path(self._log.name).read_text()[-2000:]

    def close(self):
        """End everything."""
        if self._pid is not None:
            self.kill()
        if self._zygote is not None:
            self._zygote.stdin.close()
            self._zygote.wait(BOUND_SECONDS)
            self._zygote.stdout.close()
        self._log.close()


def quantile(values, share):
    """Return the nearest-rank quantile."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
