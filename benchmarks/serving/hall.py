"""Takes applications through their whole lifecycle in halls of their own, and runs such a hall as a server."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.serving.cases import Case
from benchmarks.serving.machine import free_port
from benchmarks.serving.servers import OURS, Running, running, target
from datahall.app.settings import describe

LIMITS = "rate_per_s: 1000000, burst: 100000, concurrency: 4096"
"""Nobody reaches them here, but every request is counted against them."""
_RUN_SECONDS = 600


def has_limits() -> bool:
    """Return whether this Datahall lets teams and applications be limited."""
    return any(setting.key.startswith("teams") for setting in describe())


def has_gateways() -> bool:
    """Return whether this Datahall runs more than one gateway a hall."""
    return any(setting.key == "gateways" for setting in describe())


class Hall:
    """One hall with one application that has passed its gate, and a key for it."""

    def __init__(self, case: Case, build: Path, *, num_gateways: int = 1) -> None:
        """Carry `case` through its lifecycle in a folder below `build`; what was done there before is reused."""
        self.case = case
        self._folder = build / "halls" / f"{case.name}-{num_gateways}"
        self._build = build
        hall = self._folder / "hall"
        hall.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._environment = {"DATAHALL_HOME": str(hall), "XDG_STATE_HOME": str(self._folder / "state")}
        self._settings(hall / "hall.toml", num_gateways)
        app = case.write(self._folder / "app", limits=f", limits: {{{LIMITS}}}" if has_limits() else "")
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
            yield server

    def _settings(self, path: Path, num_gateways: int) -> None:
        lines = [f"gateways = {num_gateways}"] if has_gateways() else []
        lines += ["[teams.main]", *LIMITS.replace(": ", " = ").split(", ")] if has_limits() else []
        path.write_text("\n".join([*lines, ""]), encoding="utf-8")
        path.chmod(0o600)

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
