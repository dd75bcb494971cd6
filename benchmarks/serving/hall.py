"""Takes applications through their whole lifecycle in halls of their own, and runs such a hall as a server."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import datahall
from benchmarks.serving.cases import Case
from benchmarks.serving.machine import free_port
from benchmarks.serving.servers import OURS, START_SECONDS, Running, StartError, running, target
from datahall.core.hall import HallPaths

LIMITS = "rate_per_s: 1000000, burst: 100000, concurrency: 4096"
"""Nobody reaches them here, but every request is counted against them."""
_RUN_SECONDS = 600


@functools.cache
def _place(build: Path) -> Path:
    """Return the folder of this code's halls; those of other code are removed, for they may be of another form."""
    sources = sorted(Path(datahall.__file__).parent.rglob("*.py"))
    digest = hashlib.sha256(b"\0".join(source.read_bytes() for source in sources)).hexdigest()
    place = build / f"halls-{digest[:12]}"
    for other in build.glob("halls-*"):
        if other != place:
            shutil.rmtree(other, ignore_errors=True)  # halls are made side by side, and each finds the old ones
    return place


class Hall:
    """One hall with one application that has passed its gate, and a key for it."""

    def __init__(self, case: Case, build: Path, *, num_gateways: int = 1) -> None:
        """Carry `case` through its lifecycle below `build`; what the same code has done there before is reused."""
        self.case, self._num_gateways = case, num_gateways
        self._folder = _place(build) / f"{case.name}-{num_gateways}"
        self._build = build
        hall = self._folder / "hall"
        hall.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._environment = {"DATAHALL_HOME": str(hall), "XDG_STATE_HOME": str(self._folder / "state")}
        settings = [f"gateways = {num_gateways}", "[teams.main]", *LIMITS.replace(": ", " = ").split(", ")]
        (hall / "hall.toml").write_text("\n".join([*settings, ""]), encoding="utf-8")
        (hall / "hall.toml").chmod(0o600)
        app = case.write(self._folder / "app", limits=LIMITS)
        self._do("run", "--yes", "--no-serve", str(app))
        made = self._folder / "key.json"
        if not made.exists():
            made.write_text(self._do("key", "issue", "bench", "--scope", "predict", "--json"), encoding="utf-8")
            made.chmod(0o600)
        self._headers = {"Authorization": f"Bearer {json.loads(made.read_text(encoding='utf-8'))['key']}"}

    @property
    def folder(self) -> Path:
        """The hall's own folder."""
        return self._folder / "hall"

    @property
    def table(self) -> Path:
        """The rows of its application."""
        return self._folder / "app" / f"{self.case.template}.csv"

    @contextlib.contextmanager
    def serving(self, cores: set[int]) -> Iterator[Running]:
        """Run the hall on these cores."""
        port = free_port()
        command = [sys.executable, "-m", "datahall.app.cli", "up", "--port", str(port)]
        asked = target(OURS, self.case.name, self.case.template, port, self._headers)
        log = self._build / "logs" / f"{self._folder.name}.log"
        with running(command, asked, cores=cores, log=log, environment=self._environment) as server:
            self._wait_for_gateways()
            yield server

    def _wait_for_gateways(self) -> None:
        """Return once all take connections: the first one has answered, but it would keep all that come before another does."""
        folder, end = HallPaths(self.folder).runtime(), time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            states = [json.loads(path.read_bytes()) for path in folder.glob("gateway-*.json")]
            living = [
                state for state in states if Path(f"/proc/{state['pid']}").exists()
            ]  # a killed run leaves its own
            if sum(bool(state["port"]) for state in living) >= self._num_gateways:
                return
            time.sleep(0.01)
        raise StartError(f"of {self._num_gateways} gateways not all take connections")

    def _do(self, *words: str) -> str:
        done = subprocess.run(  # noqa: S603  (our own command)
            [sys.executable, "-m", "datahall.app.cli", *words],
            env={**os.environ, **self._environment},
            capture_output=True,
            text=True,
            timeout=_RUN_SECONDS,
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"datahall {' '.join(words)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done.stdout
