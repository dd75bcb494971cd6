"""Loads a server with wrk from the other core, and says what came back and what it cost."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from pathlib import Path

import msgspec

from benchmarks.serving.servers import Running

SCRIPT = Path(__file__).with_name("wrk.lua")


class Level(msgspec.Struct, frozen=True, kw_only=True):
    """What one server did at one number of connections; times in milliseconds, seen by clients."""

    num_connections: int
    num_answers: int
    num_refused: int
    """Answers with a status above 399."""
    num_failed: int
    """Connections that could not be made, read or written."""
    num_late: int
    """Requests without an answer within the client's time."""
    seconds: float
    latency_ms_p50: float
    latency_ms_p99: float
    """Of accepted requests; an upper bound of it where some were refused."""
    latency_ms_max: float
    cpu_us_per_answer: float
    """Processor time, user and system, of the whole server."""

    @property
    def answers_per_s(self) -> float:
        """Good answers a second."""
        return self.num_answers / self.seconds


def require_wrk() -> None:
    """Raise SystemExit with the way to mend it where a tool is missing."""
    for tool, package in (("wrk", "wrk"), ("taskset", "util-linux")):
        if shutil.which(tool) is None:
            raise SystemExit(
                f"missing: {tool}, with which this is measured\n   mend: sudo apt-get install {package}"
                f"  (Fedora: sudo dnf install {package}; macOS cannot pin processes and is not supported)"
            )


def load(
    server: Running, num_connections: int, *, seconds: int, core: int, fresh: bool = False, timeout_s: float = 30.0
) -> Level:
    """Ask with `num_connections` at once, each as soon as it has its last answer, for whole seconds.

    `fresh` gives every request a header of its own, so that nothing kept from the last one can help the next.
    Raises RuntimeError where wrk fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        body, headers = Path(folder, "body"), Path(folder, "headers")
        body.write_bytes(server.target.body)
        headers.write_text("".join(f"{name}: {value}\n" for name, value in server.target.headers.items()), "ascii")
        command = [
            *("taskset", "-c", str(core), "wrk", "-t1", f"-c{num_connections}", "--timeout", f"{timeout_s:g}s"),
            *("-s", str(SCRIPT), f"-d{seconds}s", server.target.url, "--", str(body), str(headers)),
            "fresh" if fresh else "same",
        ]
        before = server.tree.cpu_s()
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  (a tool of the machine)
        cpu_s = server.tree.cpu_s() - before
    lines = [line for line in done.stdout.splitlines() if line.startswith("BENCH ")]
    if done.returncode or not lines:
        raise RuntimeError(f"wrk ended with {done.returncode}: {done.stdout}{done.stderr}")
    found = json.loads(lines[0].removeprefix("BENCH "))
    cpu_us = 1e6 * cpu_s / max(1, found["num_answers"])
    return Level(num_connections=num_connections, cpu_us_per_answer=cpu_us, **found)
