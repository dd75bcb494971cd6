"""What a running hall tells about itself in its folder, and how to start and stop it from outside."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec

from datahall.app.processes import is_running
from datahall.backends.db.lock import HallLock
from datahall.core.errors import UnavailableError
from datahall.core.hall import HallPaths
from datahall.core.ports import Clock

DEFAULT_PORT = 7400
START_SECONDS = 60.0
STOP_SECONDS = 40.0
_POLL_S = 0.05


class SupervisorState(msgspec.Struct, frozen=True, kw_only=True):
    """Who keeps the hall running, and where it listens."""

    pid: int
    started_at: float
    host: str
    port: int
    url: str
    num_gateways: int = 1


def read_state(paths: HallPaths) -> SupervisorState | None:
    """Return the state of the living supervisor, None where none lives, whatever an old file says."""
    try:
        state = msgspec.json.decode(paths.state.read_bytes(), type=SupervisorState)
    except (OSError, msgspec.DecodeError):
        return None
    return state if is_running(state.pid, state.started_at) else None


def start_detached(
    paths: HallPaths,
    clock: Clock,
    *,
    host: str = "127.0.0.1",
    port: int = DEFAULT_PORT,
    num_gateways: int | None = None,
) -> SupervisorState:
    """Start the hall in the background and return once it listens; `num_gateways` None takes what `hall.toml` says.

    Raises UnavailableError, with the end of its log, where it ends before that.
    """
    log_path = paths.logs / "supervisor.log"
    with log_path.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "datahall.app.mains", "supervisor"],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd="/",
        )
    order = msgspec.json.encode({"hall": str(paths.root), "host": host, "port": port, "num_gateways": num_gateways})
    assert process.stdin is not None, "a pipe was asked for"
    try:
        process.stdin.write(order)
        process.stdin.close()
        return _await_state(paths, process, log_path, clock)
    except BaseException:  # a Ctrl-C while it starts must not leave half a hall behind
        process.terminate()
        process.wait()
        raise


def _await_state(paths: HallPaths, process: subprocess.Popen[bytes], log_path: Path, clock: Clock) -> SupervisorState:
    deadline = clock.monotonic_ns() + int(START_SECONDS * 1e9)
    while clock.monotonic_ns() < deadline:
        state = read_state(paths)
        ended = process.poll() is not None
        if state is not None and (ended or state.pid == process.pid):
            return state  # where ours has ended, another command has started one at the same moment
        if ended and not _is_starting(paths):
            raise UnavailableError("the hall did not start", where=str(log_path), hint=_tail(log_path))
        clock.sleep(_POLL_S)
    raise UnavailableError(f"the hall did not start within {START_SECONDS:.0f} s", where=str(log_path))


def stop(paths: HallPaths, clock: Clock) -> bool:
    """Stop the hall; return whether there was one. What is in flight is answered first."""
    state = read_state(paths)
    if state is None:
        return False
    os.kill(state.pid, signal.SIGTERM)
    deadline = clock.monotonic_ns() + int(STOP_SECONDS * 1e9)
    while clock.monotonic_ns() < deadline:
        if not is_running(state.pid, state.started_at):
            return True
        clock.sleep(_POLL_S)
    os.kill(state.pid, signal.SIGKILL)  # its processes end with it: each holds a lifeline of it
    return True


def _is_starting(paths: HallPaths) -> bool:
    """Whether another supervisor holds the hall and has not told yet where it listens."""
    holder = HallLock(paths.supervisor_lock).holder()
    return holder is not None and Path(f"/proc/{holder}").exists()


def _tail(path: Path, num_lines: int = 5) -> str:
    lines = path.read_text(errors="replace").splitlines()[-num_lines:]
    return "\n  ".join(lines)
