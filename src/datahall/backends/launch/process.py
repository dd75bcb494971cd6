"""A started process group: its messages, its end, and what must be cleared away after it."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec

from datahall.backends.launch.deaths import failure_of, note_death
from datahall.backends.launch.handover import MAX_MESSAGE_BYTES
from datahall.core.jobs import Failure, Message

_KILLED_WITHIN_S = 30.0


class LocalProcess:
    """One process group that this process started.

    `poll` and `stop` may be called from any thread, `messages` from one at a time. The group's leader is reaped only
    after everything else in the group was killed, so the group's number cannot have become somebody else's.
    """

    def __init__(
        self,
        popen: subprocess.Popen[bytes],
        *,
        name: str,
        isolation: str,
        pidfd: int,
        messages: int,
        lifeline: int,
        folder: Path,
        log: Path,
        log_start: int,
        secrets: frozenset[str],
    ) -> None:
        self._popen = popen
        self._isolation = isolation
        self._messages = messages
        self._lifeline = lifeline
        self._folder = folder
        self._log = log
        self._pidfd = pidfd
        self._name, self._log_start, self._secrets = name, log_start, secrets
        self._lock = threading.Lock()
        self._status: int | None = None
        self._stopped = False
        self._death: Failure | None = None
        self._buffer = bytearray()
        self._searched = 0
        self._concluded = False
        os.set_blocking(messages, False)

    @property
    def pid(self) -> int:
        """Its process id, also the id of its group."""
        return self._popen.pid

    @property
    def isolation(self) -> str:
        """`landlock` where the kernel enforces readable, writable and network; else `none`."""
        return self._isolation

    @property
    def log(self) -> Path:
        """Where its standard output and error go."""
        return self._log

    def messages(self) -> Iterator[Message]:
        """Yield each message until the process ends; a death without a result yields a Failure.

        Whoever leaves the loop early can call it again and misses nothing.
        """
        while True:
            ended = self.poll() is not None  # asked first: what was written before the end is then read below
            more = self._read()
            for line in self._lines():
                message = _parse(line)
                if message is None:
                    self.stop(grace_seconds=0)
                    yield self._conclude(Message(failure=self._garbage()))
                    return
                yield self._conclude(message)
            if ended and not more:
                break
            if not more:
                self._wait_for_news()
        if not self._concluded:
            assert self._death is not None, "a process that has ended was cleared away"
            yield self._conclude(Message(failure=self._death))

    def poll(self) -> int | None:
        """Return the exit status, negative for a signal, or None while it runs."""
        with self._lock:
            if self._status is None and _has_ended(self.pid):
                self._clear_away()
            return self._status

    def stop(self, grace_seconds: float = 10.0) -> int:
        """Send SIGTERM to the group, SIGKILL after `grace_seconds`; return the exit status."""
        if self.poll() is None:
            self._stopped = True
            if grace_seconds > 0:
                self._signal(signal.SIGTERM)
            if grace_seconds <= 0 or not self._ends_within(grace_seconds):
                self._signal(signal.SIGKILL)
                self._ends_within(_KILLED_WITHIN_S)
        status = self.poll()
        assert status is not None, f"process {self.pid} survives SIGKILL: the kernel cannot end it"
        return status

    def __del__(self) -> None:
        for descriptor in (self._messages, self._pidfd):
            os.close(descriptor)
        if self._status is None:
            os.close(self._lifeline)

    def _read(self) -> bool:
        """Take what is in the pipe; return whether there was anything."""
        try:
            data = os.read(self._messages, 1 << 20)
        except BlockingIOError:
            return False
        self._buffer += data
        return bool(data)

    def _lines(self) -> Iterator[bytes | None]:
        """Yield whole lines, None once one is too long to be a message."""
        while (end := self._buffer.find(b"\n", self._searched)) >= 0:
            line = bytes(self._buffer[:end])
            del self._buffer[: end + 1]
            self._searched = 0
            yield line
        self._searched = len(self._buffer)
        if len(self._buffer) > MAX_MESSAGE_BYTES:
            self._buffer.clear()
            yield None

    def _wait_for_news(self) -> None:
        poller = select.poll()
        poller.register(self._pidfd, select.POLLIN)
        poller.register(self._messages, select.POLLIN)
        for descriptor, event in poller.poll():
            # The pipe was closed by a process that goes on: only its end is news.
            if descriptor == self._messages and not event & select.POLLIN:
                self._ends_within(None)

    def _conclude(self, message: Message) -> Message:
        self._concluded |= message.failure is not None or message.result is not None
        return message

    def _garbage(self) -> Failure:
        return Failure(
            error="IntegrityError",
            what=f"'{self._name}' sent something that is no message, and was ended",
            where=str(self._log),
            hint="a program that it runs writes where only messages belong",
        )

    def _signal(self, number: signal.Signals) -> None:
        with self._lock:
            if self._status is None:
                os.killpg(self.pid, number)

    def _ends_within(self, seconds: float | None) -> bool:
        poller = select.poll()
        poller.register(self._pidfd, select.POLLIN)
        return bool(poller.poll(None if seconds is None else seconds * 1000))

    def _clear_away(self) -> None:
        """Kill what is left of the group, reap its leader and remove its folder; the lock is held."""
        with contextlib.suppress(ProcessLookupError, PermissionError):  # nothing is left but the leader's remains
            os.killpg(self.pid, signal.SIGKILL)
        self._status = self._popen.wait()
        self._death = failure_of(
            self._name, self._status, self._log, self._log_start, stopped=self._stopped, secrets=self._secrets
        )
        if self._status and not self._stopped:  # the kernel's SIGKILL leaves no word in a log
            note_death(self._log, self._death)
        os.close(self._lifeline)
        shutil.rmtree(self._folder, ignore_errors=True)


def _has_ended(pid: int) -> bool:
    """Return whether the process has ended, without reaping it: until then its number stays its own."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _parse(line: bytes | None) -> Message | None:
    try:
        message = msgspec.json.decode(line or b"", type=Message)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    said = (message.progress, message.failure, message.result)
    return message if any(part is not None for part in said) else None
