"""Says in words how a process died, and shows the end of its log without its secrets."""

from __future__ import annotations

import base64
import contextlib
import os
import re
import signal
from pathlib import Path

from datahall.core.jobs import Failure

_TAIL_BYTES = 4096
_TAIL_LINES = 12
_API_KEY = re.compile(r"dh_[0-9a-f]{64}")
_KEY_IN_JSON = re.compile(rb'"([A-Za-z0-9+/]{43}=)"')
# Python's and numpy's words, C++'s, the system's, OpenBLAS's, ONNX Runtime's.
_NO_MEMORY = (
    "MemoryError",
    "Unable to allocate",
    "bad_alloc",
    "Cannot allocate memory",
    "Memory allocation still failed",
    "Failed to allocate memory",
)
_SIGNALS = {
    signal.SIGKILL: "was killed, most often for want of memory on this machine",
    signal.SIGTERM: "was told to stop",
    signal.SIGINT: "was interrupted",
    signal.SIGALRM: "hung, and ended itself",
    signal.SIGSEGV: "crashed (segmentation fault)",
    signal.SIGBUS: "crashed (bus error)",
    signal.SIGABRT: "aborted itself",
    signal.SIGILL: "crashed (an instruction that this processor does not know)",
    signal.SIGFPE: "crashed (arithmetic)",
    signal.SIGXCPU: "used up its processor time",
    signal.SIGSYS: "used a system call that is refused here",
}


def failure_of(name: str, status: int, log: Path, start: int, *, stopped: bool, secrets: frozenset[str]) -> Failure:
    """Return why a process ended without a result; `start` is where its part of the log begins."""
    lines = _tail(log, start, secrets)
    what, error = _words(status), "DatahallError"
    if stopped:
        what, error = "was stopped", "UnavailableError"
    elif any(word in line for line in lines for word in _NO_MEMORY):
        what, error = "ran out of memory", "UnavailableError"
    elif status == -signal.SIGKILL:
        error = "UnavailableError"
    # A traceback's last line says it best.
    last = f": {lines[-1].strip()[:300]}" if lines and status > 0 else ""
    hint = "\n    ".join(["the end of its log:", *lines]) if lines else "its log is empty"
    return Failure(error=error, what=f"'{name}' {what}{last}", where=str(log), hint=hint)


def note_death(log: Path, death: Failure) -> None:
    """Write why a process ended at the end of its own log, where people look first."""
    with contextlib.suppress(OSError):  # a full disk, or a log that was taken away: its owner is told all the same
        descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.write(descriptor, f"{death.what}\n".encode())
        finally:
            os.close(descriptor)


def secrets_in(order: bytes) -> frozenset[str]:
    """Return every spelling of the 256-bit keys in a JSON request: what a log must never repeat."""
    spellings = set()
    for text in _KEY_IN_JSON.findall(order):
        raw = base64.b64decode(text)
        spellings |= {text.decode(), raw.hex(), repr(raw)}
    return frozenset(spellings)


def _words(status: int) -> str:
    if status == 0:
        return "ended without a result"
    if status > 0:
        return f"ended with status {status}"
    try:
        number = signal.Signals(-status)
    except ValueError:
        return f"was ended by signal {-status}"
    return _SIGNALS.get(number, f"was ended by {number.name}")


def _tail(log: Path, start: int, secrets: frozenset[str]) -> list[str]:
    try:
        with log.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            begin = file.seek(max(start, end - _TAIL_BYTES))
            text = file.read(_TAIL_BYTES).decode("utf-8", "replace")
    except OSError:
        return []
    text = _API_KEY.sub("[secret]", text)
    for secret in secrets:
        text = text.replace(secret, "[secret]")
    lines = ["".join(c if c.isprintable() else " " for c in line).rstrip() for line in text.splitlines()]
    # The first line may begin in the middle, of a secret even.
    return [line for line in (lines[1:] if begin > start else lines) if line][-_TAIL_LINES:]
