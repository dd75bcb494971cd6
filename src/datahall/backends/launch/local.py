"""Starts processes on this machine: own session, own log, own folder, and an end that follows their owner's."""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from datahall.backends.launch import landlock
from datahall.backends.launch.adopted import AdoptedProcess
from datahall.backends.launch.deaths import secrets_in
from datahall.backends.launch.handover import Handover, write_all
from datahall.backends.launch.process import LocalProcess
from datahall.core.errors import NotFoundError, UnavailableError
from datahall.core.ports.launching import ProcessSpec

_FOLDER_PREFIX: Final = "process-"
_MAX_LOG_BYTES: Final = 8 << 20
_MFD_NOEXEC_SEAL: Final = 0x0008  # Linux 6.3; older kernels refuse unknown flags
_SEALS: Final = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


class LocalLauncher:
    """Starts processes that end when this one does, however it ends, kill -9 included.

    The program started is `python ENTRY MAIN`, and it must call `child.enter()` first. Its standard output and error
    go to `logs/NAME.log`. Safe to call from several threads. `confine=False` leaves Landlock and seccomp away, as on
    a kernel without them. With `lifeline`, the reading end of a pipe, they live instead until its writing end closes:
    they outlive this process, and another can `adopt` them.
    """

    def __init__(
        self,
        logs: Path,
        work: Path,
        *,
        entry: tuple[str, ...] = ("-m", "datahall.app.mains"),
        confine: bool = True,
        lifeline: int | None = None,
    ) -> None:
        self._lifeline = lifeline
        self._logs = logs
        self._work = work
        self._entry = entry
        self._confine = confine and landlock.abi() > 0
        self._lock = threading.Lock()
        self._running: list[LocalProcess] = []
        self._swept = False

    def start(self, spec: ProcessSpec) -> LocalProcess:
        """Start the process.

        Raises NotFoundError for a path in `spec` that does not exist, UnavailableError where the machine has no room.
        """
        for path in (*spec.readable, *spec.writable):
            if not path.exists():
                raise NotFoundError(f"'{spec.name}' cannot be given what is not there", where=str(path))
        try:
            with self._lock:
                self._sweep()
                self._running = [process for process in self._running if process.poll() is None]
                process = self._start(spec)
                self._running.append(process)
        except OSError as error:
            raise UnavailableError(
                f"'{spec.name}' cannot be started: {error.strerror}", hint="is there room in memory and on the disk?"
            ) from error
        return process

    def adopt(self, pid: int, started_at: float) -> AdoptedProcess | None:
        """Return a handle on a process of an earlier owner, None if it is gone.

        `started_at` is its start in seconds since the machine's own (`/proc/PID/stat`, field 22): a recycled pid has
        another.
        """
        return AdoptedProcess.find(pid, started_at)

    def stop_all(self, grace_seconds: float = 10.0) -> None:
        """Stop every process that this launcher started and that still runs, all at once."""
        with self._lock:
            running, self._running = self._running, []
        threads = [threading.Thread(target=process.stop, args=(grace_seconds,)) for process in running]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _start(self, spec: ProcessSpec) -> LocalProcess:
        request = msgspec.json.encode(spec.request)
        # What is `ours` is closed only if the start fails; what is `theirs` as soon as the process has it.
        with ExitStack() as ours, ExitStack() as theirs:
            read_messages, write_messages = os.pipe()
            _keep(ours, read_messages)
            _keep(theirs, write_messages)
            read_life, held_life = self._open_lifeline()
            _keep(ours, held_life)
            _keep(theirs, read_life)
            folder, folder_lock = self._own_folder()
            _keep(theirs, folder_lock)
            memfds = tuple(_keep(theirs, _sealed("datahall", data)) for data in spec.memfds)
            order = Handover(
                messages=write_messages,
                lifeline=read_life,
                memfds=memfds,
                work=str(folder),
                readable=tuple(map(str, spec.readable)),
                writable=tuple(map(str, spec.writable)),
                network=spec.network,
                connects=spec.connects,
                confine=self._confine,
                limits=spec.limits,
                request=msgspec.Raw(request),
            )
            stdin = _keep(theirs, _sealed("request", msgspec.json.encode(order)))
            log, output = self._open_log(spec.name)
            _keep(theirs, output)
            log_start = os.fstat(output).st_size
            passed = (write_messages, read_life, folder_lock, *memfds)
            popen = self._spawn(spec, folder, stdin=stdin, output=output, passed=passed)
            pidfd = os.pidfd_open(popen.pid)
            ours.pop_all()
        return LocalProcess(
            popen,
            name=spec.name,
            isolation="landlock" if self._confine else "none",
            pidfd=pidfd,
            messages=read_messages,
            lifeline=held_life,
            folder=folder,
            log=log,
            log_start=log_start,
            secrets=secrets_in(request),
        )

    def _open_lifeline(self) -> tuple[int, int]:
        """Return the end for the process, and the descriptor to hold for as long as it may live."""
        if self._lifeline is None:
            return os.pipe()
        # Opened anew: who is told of its closing is a property of the open file, so no two processes may share one.
        own = os.open(f"/proc/self/fd/{self._lifeline}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        return own, os.dup(own)

    def _spawn(
        self, spec: ProcessSpec, folder: Path, *, stdin: int, output: int, passed: tuple[int, ...]
    ) -> subprocess.Popen[bytes]:
        os.lseek(stdin, 0, os.SEEK_SET)
        return subprocess.Popen(  # noqa: S603  our own interpreter and module, no shell
            [sys.executable, "-s", "-P", "-u", "-X", "faulthandler", *self._entry, spec.main],
            stdin=stdin,
            stdout=output,
            stderr=output,
            pass_fds=passed,
            env=environment(spec, folder),
            cwd=folder,
            start_new_session=True,
        )

    def _own_folder(self) -> tuple[Path, int]:
        """Make a private folder, locked for as long as any process holds the descriptor."""
        self._work.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = self._work / f"{_FOLDER_PREFIX}{secrets.token_hex(8)}"
        folder.mkdir(mode=0o700)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        return folder, descriptor

    def _sweep(self) -> None:
        """Remove the private folders of processes whose owner could not do it any more."""
        if self._swept:
            return
        self._swept = True
        for folder in self._work.glob(f"{_FOLDER_PREFIX}*"):
            try:
                descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            except OSError:  # not one of ours, or just gone: nothing to sweep, and no reason not to start
                continue
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            else:
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(descriptor)

    def _open_log(self, name: str) -> tuple[Path, int]:
        self._logs.mkdir(mode=0o700, parents=True, exist_ok=True)
        log = self._logs / f"{re.sub(r'[^A-Za-z0-9._-]', '-', name).lstrip('.')[:100] or 'process'}.log"
        if log.exists() and log.stat().st_size > _MAX_LOG_BYTES:
            log.replace(log.with_suffix(".log.1"))
        return log, os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def environment(spec: ProcessSpec, folder: Path) -> dict[str, str]:
    """Return all that a process sees: nothing of the caller's own environment, which may hold secrets."""
    threads = str(spec.limits.num_threads)
    counts = ("OMP", "OPENBLAS", "MKL", "NUMEXPR", "RAYON", "NUMBA")
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "TZ": "UTC",
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "USER": "datahall",
        **{f"{library}_NUM_THREADS": threads for library in counts},
        "POLARS_MAX_THREADS": threads,
        "LOKY_MAX_CPU_COUNT": threads,
        "JOBLIB_MULTIPROCESSING": "0",  # its semaphores lie in /dev/shm, which is everybody's
        # A job's result must not depend on the order of a set; a replica reads strangers' input and keeps the draw.
        **({"PYTHONHASHSEED": "0"} if spec.main == "job" else {}),
        **spec.environment,
    }


def _keep(stack: ExitStack, descriptor: int) -> int:
    stack.callback(os.close, descriptor)
    return descriptor


def _sealed(name: str, data: bytes) -> int:
    """Return a memory file that nobody can change or run, not even its reader."""
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        descriptor = os.memfd_create(name, flags | _MFD_NOEXEC_SEAL)
    except OSError:  # EINVAL before Linux 6.3
        descriptor = os.memfd_create(name, flags)
    try:
        write_all(descriptor, data)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:  # also when interrupted: a descriptor must not leak
        os.close(descriptor)
        raise
    return descriptor


if TYPE_CHECKING:
    from datahall.core.ports import Launcher

    _: Launcher = LocalLauncher(Path(), Path())
