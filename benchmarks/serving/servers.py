"""Starts one server at a time on the server's core, and knows how each is asked."""

from __future__ import annotations

import contextlib
import http.client
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from benchmarks.serving.cases import Row, answer, ask, row_of
from benchmarks.serving.install import PEERS as SCRIPTS
from benchmarks.serving.machine import Tree, free_port

START_SECONDS = 90.0


class Way(NamedTuple):
    """How a server is asked: the path, with `{model}` in it, and the forms of body and answer."""

    path: str
    form: str


PEERS = {
    "fastapi": Way("/predict", "rows"),
    "mlserver": Way("/v2/models/{model}/infer", "v2"),
    "litserve": Way("/predict", "rows"),
    "mlflow": Way("/invocations", "mlflow"),
    "bentoml": Way("/predict", "rows"),
    "ray": Way("/predict", "rows"),
}
OURS = Way("/v2/models/{model}/infer", "v2")
ECHOES = {name: Way("/predict", "rows") for name in ("echo", "hop", "asgi")}
"""Limits: a bare protocol, the same with a process behind it, and a bare application under uvicorn."""


class Target(NamedTuple):
    """What a client needs to ask one server about one model."""

    port: int
    path: str
    body: bytes
    headers: dict[str, str]
    form: str
    row: Row | None
    """None for an echo, whose answers are all alike."""

    @property
    def url(self) -> str:
        """Where requests go."""
        return f"http://127.0.0.1:{self.port}{self.path}"

    def ask(self, seconds: float = 30.0) -> tuple[int, bytes]:
        """Ask once on a connection of its own. Raises OSError or HTTPException where nobody answers."""
        client = http.client.HTTPConnection("127.0.0.1", self.port, timeout=seconds)
        try:
            client.request("POST", self.path, self.body, {"Content-Type": "application/json", **self.headers})
            response = client.getresponse()
            return response.status, response.read()
        finally:
            client.close()

    def check(self, body: bytes) -> None:
        """Raise WrongAnswerError where an answer's body does not name the right class."""
        if self.row is None:
            return
        try:
            found = answer(self.form, body)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise WrongAnswerError(f"{self.url} answered {body[:200]!r}") from error
        if found not in self.row.right:
            raise WrongAnswerError(f"{self.url} says '{found}', and {' or '.join(sorted(self.row.right))} is right")


class WrongAnswerError(Exception):
    """A server does not answer what its model says."""


class StartError(Exception):
    """A server did not answer in time, or ended."""


def target(way: Way, model: str, template: str, port: int, headers: dict[str, str] | None = None) -> Target:
    """Return how to ask a server about a model."""
    row = row_of(template)
    known = None if way in ECHOES.values() and model == "echo" else row
    return Target(port, way.path.format(model=model), ask(way.form, row), headers or {}, way.form, known)


class Running(NamedTuple):
    """A server that has answered rightly once."""

    tree: Tree
    target: Target
    cold_start_s: float
    """From the start of its process to the end of its first answer."""

    def seconds_to_answer(self) -> float:
        """Return how long it takes from now until a request on a new connection is answered, START_SECONDS at most."""
        began = time.monotonic()
        while (took := time.monotonic() - began) < START_SECONDS:
            with contextlib.suppress(OSError, http.client.HTTPException):
                if self.target.ask()[0] == 200:
                    return time.monotonic() - began
            time.sleep(0.005)
        return took


@contextlib.contextmanager
def running(
    command: list[str], asked: Target, *, cores: set[int], log: Path, environment: dict[str, str] | None = None
) -> Iterator[Running]:
    """Run a server while the block lasts. Raises StartError or WrongAnswerError where it does not answer as it must."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as out:
        began = time.monotonic()
        process = subprocess.Popen(  # noqa: S603  (our own programs)
            ["taskset", "-c", ",".join(map(str, sorted(cores))), *command],  # noqa: S607  (part of util-linux)
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env={**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})},
            start_new_session=True,
        )
    tree = Tree(process.pid)
    try:
        body = _first_answer(process, asked, began + START_SECONDS, log)
        cold_start_s = time.monotonic() - began
        asked.check(body)
        tree.pin(cores)
        yield Running(tree, asked, cold_start_s)
    finally:
        tree.stop()
        process.returncode = 0  # collected by the tree


def _first_answer(process: subprocess.Popen[bytes], asked: Target, deadline: float, log: Path) -> bytes:
    seen = "nothing listens"
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise StartError(f"it ended with {process.returncode} before it answered; see {log}")
        with contextlib.suppress(OSError, http.client.HTTPException):
            status, body = asked.ask()
            if status == 200:
                return body
            seen = f"{status} {body[:200]!r}"
        time.sleep(0.005)
    raise StartError(f"no answer within {START_SECONDS:.0f} s ({seen}); see {log}")


def peer_command(name: str, template: str, port: int, *, environments: Path, build: Path) -> list[str]:
    """Return what starts a peer."""
    interpreter = environments / name / "bin" / "python"
    return [str(interpreter), str(SCRIPTS / f"{name}_server.py"), template, str(build / "peers" / name), str(port)]


@contextlib.contextmanager
def peer(name: str, template: str, *, core: int, environments: Path, build: Path) -> Iterator[Running]:
    """Run one of PEERS with the model of `template`."""
    port = free_port()
    asked = target(PEERS[name], template, template, port)
    command = peer_command(name, template, port, environments=environments, build=build)
    home = build / "peers" / name / "home"  # whatever they keep of themselves stays here
    home.mkdir(parents=True, exist_ok=True)
    log = build / "logs" / f"{name}.log"
    with running(command, asked, cores={core}, log=log, environment={"HOME": str(home.resolve())}) as server:
        yield server


@contextlib.contextmanager
def echo(name: str, *, core: int, build: Path) -> Iterator[Running]:
    """Run one of ECHOES."""
    port = free_port()
    command = [sys.executable, str(SCRIPTS / f"{name}_server.py"), "-", "-", str(port)]
    asked = target(ECHOES[name], "echo", "digits", port)
    with running(command, asked, cores={core}, log=build / "logs" / f"{name}.log") as server:
        yield server
