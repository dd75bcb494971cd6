"""Keeps a hall's own processes running: control and the gateways, each started again when it dies."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from types import FrameType

import msgspec

from datahall.app.belonging import open_keys
from datahall.app.gateways import name_of
from datahall.app.processes import started_at
from datahall.app.settings import Settings, read_settings
from datahall.app.supervision import SupervisorState
from datahall.backends.db.lock import HallLock
from datahall.core.clock import SystemClock
from datahall.core.durable import write_atomic
from datahall.core.errors import UnavailableError, UserError
from datahall.core.hall import HallPaths
from datahall.security.keys import KeyRing
from datahall.serve.config import GatewayConfig, GatewayLimits
from datahall.serve.decisions import MAX_DECISION_BYTES
from datahall.serve.door import ABSENT, Board, make_board

NUM_PORTS = 100
STOP_SECONDS = 15.0
REACH_S = 1.0
HANDOVER_S = 1.0
"""A client that pauses for longer between two requests may find its connection closed, as after any idle time."""
FIRST_RETRY_S, LAST_RETRY_S = 0.2, 10.0
STEADY_S = 60.0
"""Who ran that long and dies is started again at once; only what dies on starting has to wait."""
_PR_SET_CHILD_SUBREAPER = 36  # prctl(2)


class ControlOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What the control process reads from its standard input."""

    hall: str
    lifeline: int
    num_gateways: int = 1


class GatewayOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What the gateway process reads from its standard input."""

    config: GatewayConfig
    lifeline: int


class Child:
    """One process that must run for as long as the supervisor does."""

    def __init__(
        self,
        name: str,
        paths: HallPaths,
        order: bytes,
        fds: tuple[int, ...],
        *,
        log: str | None = None,
        ended: Callable[[], None] = lambda: None,
    ) -> None:
        """`name` is its main, `log` the name of its log where that is another; `ended` is called when it has died."""
        self.name = name
        self._log, self._ended = log or name, ended
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
        with (self._paths.logs / f"{self._log}.log").open("ab") as log:
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
            self._ended()
            if now - self._started_at > STEADY_S:
                self._wait_s = FIRST_RETRY_S
            self._not_before = now + self._wait_s
            self._wait_s = min(self._wait_s * 2, LAST_RETRY_S)
        if self._process is None and now >= self._not_before:
            self._started_at = now
            self.start()

    def ask(self) -> None:
        """Ask it to end."""
        if self._process is not None:
            self._process.terminate()

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


def supervise(
    paths: HallPaths,
    host: str,
    port: int,
    *,
    num_gateways: int | None = None,
    started: Callable[[SupervisorState], None],
) -> int:
    """Run the hall until SIGTERM or SIGINT; return the exit status. `num_gateways` None takes what `hall.toml` says.

    Raises HallBusyError where another command holds the hall, UserError for bad settings and where no port is free.
    """
    paths.create()
    settings = read_settings(paths)
    if num_gateways is not None:
        settings = msgspec.structs.replace(settings, gateways=num_gateways)
    # Two commands may both find nothing running and start one each: two gateways would give out the same answer ids.
    with HallLock(paths.supervisor_lock):
        with HallLock(paths.lock):
            keys = open_keys(paths)
        return _supervise(paths, keys, settings, _listen(host, port), host, started)


def _supervise(
    paths: HallPaths,
    keys: KeyRing,
    settings: Settings,
    listener: socket.socket,
    host: str,
    started: Callable[[SupervisorState], None],
) -> int:
    # Every process of the hall holds the reading end and ends when the writing end, held here alone, closes: however
    # the supervisor ends, nothing of the hall outlives it.
    lifeline, held = os.pipe()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # a gateway without descriptors hears of no revocation
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    stopping = _on_signals()
    board = make_board(settings.gateways)
    gateways = _gateways(paths, keys, settings, listener, board, lifeline)
    children = (*gateways, _control(paths, settings, lifeline))
    clock = SystemClock()
    try:
        for child in children:
            child.start()
        _write_state(paths, listener, host, started, num_gateways=settings.gateways)
        while not stopping():
            for child in children:
                child.keep(clock.monotonic_ns() / 1e9)
            _reap_orphans({child.pid for child in children})
            signal.sigtimedwait({signal.SIGCHLD}, 0.2)
    finally:
        for gateway in gateways:
            gateway.ask()
        for child in children:  # the gateways drain first, all at once; then control stops the replicas
            child.stop()
        paths.state.unlink(missing_ok=True)
        listener.close()
        os.close(board)
        os.close(held)
        os.close(lifeline)
        paths.drop_runtime()
    return 0


def _gateways(
    paths: HallPaths, keys: KeyRing, settings: Settings, listener: socket.socket, board: int, lifeline: int
) -> tuple[Child, ...]:
    """Return the gateways: all listen on one socket, so what waits there outlives each of them."""
    config = GatewayConfig(
        gateway=name_of(0),
        listen_fd=listener.fileno(),
        control_address=str(paths.control_socket()),
        routes=str(paths.routes),
        answers=str(paths.answers),
        decisions=str(paths.decisions),
        runtime=str(paths.runtime()),
        answer_key=keys.answer_key,
        routes_key=keys.routes_key,
        route_keys={keys.signer.key_id: keys.signer.public_key},
        auth_stale_seconds=settings.auth_stale_hours * 3600,
        limits=GatewayLimits(handover_seconds=HANDOVER_S, reach_seconds=REACH_S),
        cache_bytes=settings.response_cache_mb << 20,
        decision_bytes=MAX_DECISION_BYTES // settings.gateways,
    )
    if settings.gateways == 1:
        order = msgspec.json.encode(GatewayOrder(config=config, lifeline=lifeline))
        return (Child("gateway", paths, order, (listener.fileno(), lifeline)),)
    children, counts = [], Board(board)
    for place in range(settings.gateways):
        own = msgspec.structs.replace(config, gateway=name_of(place), board_fd=board, place=place)
        order = msgspec.json.encode(GatewayOrder(config=own, lifeline=lifeline))
        fds = (listener.fileno(), board, lifeline)
        leave = partial(counts.__setitem__, place, ABSENT)  # or the others would wait for the dead at each connection
        children.append(Child("gateway", paths, order, fds, log=f"gateway-{name_of(place)}", ended=leave))
    return tuple(children)


def _control(paths: HallPaths, settings: Settings, lifeline: int) -> Child:
    order = ControlOrder(hall=str(paths.root), lifeline=lifeline, num_gateways=settings.gateways)
    return Child("control", paths, msgspec.json.encode(order), (lifeline,))


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
    paths: HallPaths,
    listener: socket.socket,
    host: str,
    started: Callable[[SupervisorState], None],
    *,
    num_gateways: int = 1,
) -> None:
    port = listener.getsockname()[1]
    shown = f"[{host}]" if ":" in host else host
    state = SupervisorState(
        pid=os.getpid(),
        started_at=started_at(os.getpid()),
        host=host,
        port=port,
        url=f"http://{shown}:{port}",
        num_gateways=num_gateways,
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
