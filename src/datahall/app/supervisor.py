"""Keeps a hall's own processes running: control and the gateway, each started again when it dies."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from types import FrameType

import msgspec

from datahall.app.belonging import open_keys
from datahall.app.processes import started_at
from datahall.app.supervision import SupervisorState
from datahall.backends.db.lock import HallLock
from datahall.core.clock import SystemClock
from datahall.core.durable import write_atomic
from datahall.core.errors import UnavailableError, UserError
from datahall.core.hall import HallPaths
from datahall.security.keys import KeyRing
from datahall.serve.config import GatewayConfig

GATEWAY = "g1"
NUM_PORTS = 100
STOP_SECONDS = 15.0
FIRST_RETRY_S, LAST_RETRY_S = 0.2, 10.0
STEADY_S = 60.0
"""Who ran that long and dies is started again at once; only what dies on starting has to wait."""
_PR_SET_CHILD_SUBREAPER = 36  # prctl(2)


class ControlOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What the control process reads from its standard input."""

    hall: str
    lifeline: int


class GatewayOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What the gateway process reads from its standard input."""

    config: GatewayConfig
    lifeline: int


class Child:
    """One process that must run for as long as the supervisor does."""

    def __init__(self, name: str, paths: HallPaths, order: bytes, fds: tuple[int, ...]) -> None:
        self.name = name
        self._paths = paths
        self._order = order
        self._fds = fds
        self._process: subprocess.Popen[bytes] | None = None
        self._not_before = 0.0
        self._wait_s = FIRST_RETRY_S
        self._started_at = 0.0

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""
        return self._process.pid if self._process is not None else None

    def start(self) -> None:
        """Start it; its output goes to its log."""
        with (self._paths.logs / f"{self.name}.log").open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603  (our own interpreter and module)
                [sys.executable, "-m", "datahall.app.mains", self.name],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=self._fds,
                start_new_session=True,
                cwd="/",
            )
        assert self._process.stdin is not None, "a pipe was asked for"
        self._process.stdin.write(self._order)
        self._process.stdin.close()

    def keep(self, now: float) -> None:
        """Start it again if it has died, at growing distances."""
        if self._process is not None and self._process.poll() is not None:
            self._process = None
            if now - self._started_at > STEADY_S:
                self._wait_s = FIRST_RETRY_S
            self._not_before = now + self._wait_s
            self._wait_s = min(self._wait_s * 2, LAST_RETRY_S)
        if self._process is None and now >= self._not_before:
            self._started_at = now
            self.start()

    def stop(self) -> None:
        """Ask it to end, and end it if it does not."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def supervise(paths: HallPaths, host: str, port: int, *, started: Callable[[SupervisorState], None]) -> int:
    """Run the hall until SIGTERM or SIGINT; return the exit status.

    Raises HallBusyError where another command holds the hall, UserError where no port is free.
    """
    paths.create()
    # Two commands may both find nothing running and start one each: two gateways would give out the same answer ids.
    with HallLock(paths.supervisor_lock):
        with HallLock(paths.lock):
            keys = open_keys(paths)
        return _supervise(paths, keys, _listen(host, port), host, started)


def _supervise(
    paths: HallPaths, keys: KeyRing, listener: socket.socket, host: str, started: Callable[[SupervisorState], None]
) -> int:
    # Every process of the hall holds the reading end and ends when the writing end, held here alone, closes: however
    # the supervisor ends, nothing of the hall outlives it.
    lifeline, held = os.pipe()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # a gateway without descriptors hears of no revocation
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    stopping = _on_signals()
    children = _children(paths, keys, listener, lifeline)
    clock = SystemClock()
    try:
        for child in children:
            child.start()
        _write_state(paths, listener, host, started)
        while not stopping():
            for child in children:
                child.keep(clock.monotonic_ns() / 1e9)
            _reap_orphans({child.pid for child in children})
            signal.sigtimedwait({signal.SIGCHLD}, 0.2)
    finally:
        for child in children:  # the gateway drains first, then control stops the replicas
            child.stop()
        paths.state.unlink(missing_ok=True)
        listener.close()
        os.close(held)
        os.close(lifeline)
        paths.drop_runtime()
    return 0


def _children(paths: HallPaths, keys: KeyRing, listener: socket.socket, lifeline: int) -> tuple[Child, ...]:
    config = GatewayConfig(
        gateway=GATEWAY,
        listen_fd=listener.fileno(),
        control_address=str(paths.control_socket()),
        routes=str(paths.routes),
        answers=str(paths.answers),
        decisions=str(paths.decisions),
        runtime=str(paths.runtime()),
        answer_key=keys.answer_key,
        routes_key=keys.routes_key,
        route_keys={keys.signer.key_id: keys.signer.public_key},
    )
    gateway = msgspec.json.encode(GatewayOrder(config=config, lifeline=lifeline))
    control = msgspec.json.encode(ControlOrder(hall=str(paths.root), lifeline=lifeline))
    return (
        Child("gateway", paths, gateway, (listener.fileno(), lifeline)),
        Child("control", paths, control, (lifeline,)),
    )


def _listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens on `port` or on the next free one."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for candidate in range(port, min(port + NUM_PORTS, 65_536)):
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, candidate))
            listener.listen(4096)
        except OSError as error:
            listener.close()
            if not isinstance(error, PermissionError) and error.errno != 98:  # 98: address in use
                raise UserError(f"cannot listen on {host}: {error}", hint="give an address of this machine") from error
            continue
        return listener
    raise UnavailableError(f"no port from {port} to {port + NUM_PORTS - 1} is free", hint="choose one with --port")


def _on_signals() -> Callable[[], bool]:
    asked: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        del frame
        asked.append(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, note)
    return lambda: bool(asked)


def _write_state(
    paths: HallPaths, listener: socket.socket, host: str, started: Callable[[SupervisorState], None]
) -> None:
    port = listener.getsockname()[1]
    shown = f"[{host}]" if ":" in host else host
    state = SupervisorState(
        pid=os.getpid(), started_at=started_at(os.getpid()), host=host, port=port, url=f"http://{shown}:{port}"
    )
    write_atomic(paths.state, msgspec.json.encode(state), at="supervisor.state")
    started(state)


def _reap_orphans(own: set[int | None]) -> None:
    """Collect replicas whose control died: as the subreaper we are their parent now."""
    own_pids = {pid for pid in own if pid is not None}
    children = f"/proc/self/task/{os.getpid()}/children"
    with open(children, encoding="ascii") as file:  # noqa: PTH123  (no Path for a kernel file read five times a second)
        pids = {int(pid) for pid in file.read().split()} - own_pids
    for pid in pids:
        try:
            os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            continue
